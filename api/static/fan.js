// Forecasts as points of a chart: the quantile curve between steps, and where steps lie in time. Pure.

const DAY_S = 86400;
const SECONDS = { m: 60, h: 3600, d: DAY_S, wk: 7 * DAY_S };

export function seconds(interval) {
  const [, count, unit] = /^(\d+)(m|h|d|wk)$/.exec(interval);
  return Number(count) * SECONDS[unit];
}

// Opening times, in seconds, of the candles that follow one; daily ones skip weekends unless seen.
export function following(times, interval, count) {
  const length = seconds(interval);
  const skips = interval === "1d" && !times.slice(-7).some(isWeekend);
  const made = [];
  let time = times[times.length - 1];
  while (made.length < count) {
    time += length;
    if (!(skips && isWeekend(time))) made.push(time);
  }
  return made;
}

const isWeekend = (time) => [2, 3].includes(Math.floor(time / DAY_S) % 7);

// The five prices drawn of a horizon.
export function bands(horizon) {
  const q = horizon.quantiles;
  const m = horizon.predicted_close;
  return [q["0.05"] ?? m, q["0.25"] ?? m, m, q["0.75"] ?? m, q["0.95"] ?? m];
}

const byLevel = (horizon) => Object.entries(horizon.quantiles).map(([level, price]) => [Number(level), price]).sort((a, b) => a[0] - b[0]);

// Mean distance of the close from the last one, as a share, by the quantiles; beyond the outermost
// theirs, so that it is a little too small.
export function expectedMove(horizon, last) {
  const points = byLevel(horizon).map(([level, price]) => [level, Math.abs(Math.log(price / last))]);
  let sum = points[0][0] * points[0][1] + (1 - points[points.length - 1][0]) * points[points.length - 1][1];
  for (let i = 1; i < points.length; i += 1) {
    sum += (points[i][0] - points[i - 1][0]) * (points[i][1] + points[i - 1][1]) / 2;
  }
  return sum;
}

// How likely the close lies above a price: linear between the quantiles, in logarithms, as
// POST /v1/forecasts has it. Beyond the outer ones nothing is forecast: `edge` is -1 or 1 there.
export function oddsAbove(horizon, price) {
  const points = byLevel(horizon).map(([level, at]) => [level, Math.log(at)]);
  const value = Math.log(price);
  const next = points.findIndex(([, at]) => at >= value);
  if (next < 0) return { share: 1 - points[points.length - 1][0], edge: -1 };
  if (next === 0) return { share: 1 - points[0][0], edge: points[0][1] > value ? 1 : 0 };
  const [[early, low], [late, high]] = [points[next - 1], points[next]];
  return { share: 1 - (early + ((value - low) / (high - low)) * (late - early)), edge: 0 };
}

// The bands at a step between trained ones: medians linear in time, distances from them so that
// variances are; the same formula as api/interpolate.py, in logarithms of prices.
export function bandsAt(forecast, step) {
  const after = forecast.horizons.findIndex((one) => one.step >= step);
  const late = bands(forecast.horizons[after]).map(Math.log);
  const end = forecast.horizons[after].step;
  const first = Math.log(forecast.last_close);
  const early = after ? bands(forecast.horizons[after - 1]).map(Math.log) : late.map(() => first);
  const start = after ? forecast.horizons[after - 1].step : 0;
  const share = (step - start) / (end - start);
  const middle = (1 - share) * early[2] + share * late[2];
  return late.map((value, i) => {
    const distance = Math.sqrt((1 - share) * (early[i] - early[2]) ** 2 + share * (value - late[2]) ** 2);
    return Math.exp(middle + Math.sign(i - 2) * distance);
  });
}

// The fan of a forecast, from the candle it was made at to its last step.
export function fan(forecast, times, at, interval) {
  const last = forecast.horizons[forecast.horizons.length - 1].step;
  const missing = Math.max(at + last - (times.length - 1), 0);
  const all = missing ? [...times, ...following(times, interval, missing)] : times;
  const points = [{ time: all[at], bands: Array(5).fill(forecast.last_close) }];
  for (let step = 1; step <= last; step += 1) {
    points.push({ time: all[at + step], bands: bandsAt(forecast, step) });
  }
  return points;
}
