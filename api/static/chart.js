// Candles, the fan ahead of them and past bands behind them, drawn by Lightweight Charts.

import { bands, fan } from "./fan.js";
import { decimals } from "./format.js";

const lib = () => window.LightweightCharts;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A custom series of five prices a point: two filled bands and a line.
class BandSeries {
  priceValueBuilder(point) { return [point.bands[0], point.bands[4], point.bands[2]]; }
  isWhitespace(point) { return point.bands === undefined; }
  renderer() { return this; }
  update(data, options) { this.data = data; this.options = options; }
  defaultOptions() { return { ...lib().customSeriesDefaultOptions, outer: "", inner: "", line: "" }; }
  draw(target, toY) {
    const { bars, visibleRange } = this.data ?? {};
    if (!visibleRange || !bars.length) return;
    const from = Math.max(visibleRange.from - 1, 0);
    const points = bars.slice(from, visibleRange.to + 1)
      .map((bar) => ({ x: bar.x, y: bar.originalData.bands.map(toY) }));
    target.useBitmapCoordinateSpace(({ context, horizontalPixelRatio: h, verticalPixelRatio: v }) => {
      area(context, points, 0, 4, this.options.outer, h, v);
      area(context, points, 1, 3, this.options.inner, h, v);
      if (this.options.line) line(context, points, this.options.line, h, v);
    });
  }
}

function area(context, points, low, high, colour, h, v) {
  context.beginPath();
  points.forEach(({ x, y }) => context.lineTo(x * h, y[high] * v));
  [...points].reverse().forEach(({ x, y }) => context.lineTo(x * h, y[low] * v));
  context.closePath();
  context.fillStyle = colour;
  context.fill();
}

function line(context, points, colour, h, v) {
  context.beginPath();
  points.forEach(({ x, y }) => context.lineTo(x * h, y[2] * v));
  context.strokeStyle = colour;
  context.lineWidth = 2 * v;
  context.stroke();
}

export class FanChart {
  constructor(element) {
    const quiet = { lastValueVisible: false, priceLineVisible: false };
    this.chart = lib().createChart(element, { autoSize: true, layout: { attributionLogo: false } });
    this.past = this.chart.addCustomSeries(new BandSeries(), quiet);
    this.ahead = this.chart.addCustomSeries(new BandSeries(), quiet);
    this.candles = this.chart.addSeries(lib().CandlestickSeries, { priceLineVisible: false });
    this.shown = null;
    this.paint();
  }

  // Takes the colours of the theme.
  paint() {
    this.chart.applyOptions({
      layout: { background: { color: "transparent" }, textColor: css("--muted"), fontFamily: getComputedStyle(document.body).fontFamily },
      grid: { vertLines: { color: css("--grid") }, horzLines: { color: css("--grid") } },
      rightPriceScale: { borderColor: css("--line") },
      timeScale: { borderColor: css("--line"), rightOffset: 2 },
      crosshair: { vertLine: { color: css("--muted") }, horzLine: { color: css("--muted") } },
    });
    const [up, down] = [css("--up"), css("--down")];
    this.candles.applyOptions({ upColor: up, wickUpColor: up, borderUpColor: up, downColor: down, wickDownColor: down, borderDownColor: down });
    this.ahead.applyOptions({ outer: css("--fan-outer"), inner: css("--fan-inner"), line: css("--fan-line") });
    this.past.applyOptions({ outer: css("--past-outer"), inner: css("--past-inner") });
  }

  // Shows a series; view = {step of the past bands, back: forecasts before the newest}.
  show(series, view) {
    const times = series.candles.map((one) => one.open_ms / 1000);
    const places = new Map(series.candles.map((one, i) => [one.close_ms, i]));
    const made = [...series.forecasts.values()].filter((one) => places.has(one.as_of_ms));
    made.sort((a, b) => a.as_of_ms - b.as_of_ms);
    const chosen = made[made.length - 1 - view.back];
    this.precision(series.candles[series.candles.length - 1].close);
    this.candles.setData(series.candles.map((one, i) => ({ time: times[i], open: one.open, high: one.high, low: one.low, close: one.close })));
    this.past.setData(pastBands(made, places, times, view.step));
    this.ahead.setData(chosen ? fan(chosen, times, places.get(chosen.as_of_ms), series.interval) : []);
    this.frame(series, times.length + (chosen ? chosen.horizons[chosen.horizons.length - 1].step : 0));
    return chosen;
  }

  precision(price) {
    const digits = decimals(price);
    const format = { type: "price", precision: digits, minMove: 10 ** -digits };
    for (const one of [this.candles, this.ahead, this.past]) one.applyOptions({ priceFormat: format });
  }

  // Looks at the newest candles of a series that was not shown before; later it stays as moved.
  frame(series, count) {
    const key = `${series.symbol}|${series.interval}`;
    if (this.shown === key) return;
    this.shown = key;
    this.chart.timeScale().applyOptions({ timeVisible: /[mh]$/.test(series.interval) });
    const wide = Math.max(Math.min(Math.floor(this.chart.options().width / 9) || 90, 140), 40);
    this.chart.timeScale().setVisibleLogicalRange({ from: count - wide, to: count + 1 });
  }
}

function pastBands(made, places, times, step) {
  const points = new Map();
  for (const one of made) {
    const at = places.get(one.as_of_ms) + step;
    const horizon = one.horizons.find((each) => each.step === step);
    if (horizon && at < times.length) points.set(times[at], bands(horizon));
  }
  return [...points].sort((a, b) => a[0] - b[0]).map(([time, values]) => ({ time, bands: values }));
}
