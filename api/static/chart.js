// Candles with volume, the fan ahead, past bands behind and a panel of volatility, by Lightweight Charts.

import { bands, fan } from "./fan.js";
import { decimals, percent } from "./format.js";

const lib = () => window.LightweightCharts;
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The colours of the theme, as the options of a chart.
export function look() {
  return {
    layout: { background: { color: "transparent" }, textColor: css("--muted"), fontFamily: getComputedStyle(document.body).fontFamily, panes: { separatorColor: css("--line"), separatorHoverColor: css("--grid") } },
    grid: { vertLines: { color: css("--grid") }, horzLines: { color: css("--grid") } },
    rightPriceScale: { borderColor: css("--line"), entireTextOnly: true },
    timeScale: { borderColor: css("--line"), rightOffset: 2 },
  };
}

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
  // onPoint({time, price}) follows the cursor, null when it leaves; onPick(price) hears clicks.
  constructor(element, onPoint, onPick) {
    const quiet = { lastValueVisible: false, priceLineVisible: false };
    this.chart = lib().createChart(element, { autoSize: true, layout: { attributionLogo: false } });
    this.volume = this.chart.addSeries(lib().HistogramSeries, { ...quiet, priceScaleId: "volume", priceFormat: { type: "volume" } });
    this.past = this.chart.addCustomSeries(new BandSeries(), quiet);
    this.ahead = this.chart.addCustomSeries(new BandSeries(), quiet);
    this.candles = this.chart.addSeries(lib().CandlestickSeries, { priceLineVisible: false });
    this.outside = lib().createSeriesMarkers(this.candles, []);
    const shares = { ...quiet, priceFormat: { type: "custom", minMove: 0.0001, formatter: (share) => percent(share) } };
    this.moves = this.chart.addSeries(lib().HistogramSeries, shares, 1);
    this.volatility = this.chart.addSeries(lib().LineSeries, { ...shares, lineWidth: 2, crosshairMarkerVisible: false }, 1);
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.86, bottom: 0 } });
    this.candles.priceScale().applyOptions({ scaleMargins: { top: 0.06, bottom: 0.17 } });
    this.chart.panes()[0].setStretchFactor(4);
    this.chart.panes()[1].setStretchFactor(1);
    Object.assign(this, { shown: null, level: null, at: null, points: [], onPoint });
    this.chart.subscribeCrosshairMove((event) => this.pointed(event));
    this.chart.subscribeClick(({ point, paneIndex }) => { if (point && !paneIndex) onPick(this.candles.coordinateToPrice(point.y)); });
    element.addEventListener("keydown", (event) => this.step(event));
    element.addEventListener("blur", () => { this.at = null; this.chart.clearCrosshairPosition(); onPoint(null); });
    this.paint();
  }

  // Takes the colours of the theme.
  paint() {
    this.chart.applyOptions({ ...look(), crosshair: { mode: 0, vertLine: { color: css("--muted") }, horzLine: { color: css("--muted") } } });
    const [up, down] = [css("--up"), css("--down")];
    this.candles.applyOptions({ upColor: up, wickUpColor: up, borderUpColor: up, downColor: down, wickDownColor: down, borderDownColor: down });
    this.past.applyOptions({ outer: css("--past-outer"), inner: css("--past-inner") });
    this.volume.applyOptions({ color: css("--past-inner") });
    this.moves.applyOptions({ color: css("--past-inner") });
    this.volatility.applyOptions({ color: css("--fan-line") });
    this.fade(this.isFaded);
  }

  // Shows that the fan is not of the newest candle.
  fade(isFaded) {
    this.isFaded = isFaded;
    const of = isFaded ? "past" : "fan";
    this.ahead.applyOptions({ outer: css(`--${of}-outer`), inner: css(`--${of}-inner`), line: isFaded ? css("--muted") : css("--fan-line") });
  }

  setLog(isLog) {
    this.candles.priceScale().applyOptions({ mode: isLog ? 1 : 0 });
  }

  // Draws the price whose odds are wanted; null takes it away.
  setLevel(price) {
    if (this.level) this.candles.removePriceLine(this.level);
    this.level = price === null ? null : this.candles.createPriceLine({ price, color: css("--accent"), lineWidth: 1, lineStyle: 2, axisLabelVisible: true });
  }

  // Shows a series; view = {step of the past bands, back: forecasts before the newest}.
  show(series, view) {
    const times = series.candles.map((one) => one.open_ms / 1000);
    const places = new Map(series.candles.map((one, i) => [one.close_ms, i]));
    const made = [...series.forecasts.values()].filter((one) => places.has(one.as_of_ms));
    made.sort((a, b) => a.as_of_ms - b.as_of_ms);
    const chosen = made[made.length - 1 - view.back];
    const past = pastHorizons(made, places, times, view.step);
    const ahead = chosen ? fan(chosen, times, places.get(chosen.as_of_ms), series.interval) : [];
    this.points = pointsOf(series.candles, times, past, ahead);
    this.precision(series.candles[series.candles.length - 1].close);
    this.candles.setData(series.candles.map((one, i) => ({ time: times[i], open: one.open, high: one.high, low: one.low, close: one.close })));
    this.volume.setData(series.candles.map((one, i) => ({ time: times[i], value: one.volume })));
    this.past.setData([...past].map(([time, horizon]) => ({ time, bands: bands(horizon) })));
    this.ahead.setData(ahead);
    this.moves.setData(this.points.filter((one) => one.move !== undefined).map(({ time, move }) => ({ time, value: Math.abs(move) })));
    this.volatility.setData([...past].map(([time, horizon]) => ({ time, value: horizon.volatility })));
    this.outside.setMarkers(this.points.filter((one) => one.side).map(({ time, side }) => ({
      time, position: side > 0 ? "aboveBar" : "belowBar", shape: "circle", color: css("--warn"), size: 0.5,
    })));
    this.frame(series, times.length + (chosen ? chosen.horizons[chosen.horizons.length - 1].step : 0));
    return chosen;
  }

  // What is at the cursor: a candle, what was forecast of it, or what is ahead.
  pointed({ time, point, paneIndex }) {
    if (this.at !== null) return; // the keyboard has it
    const price = point && !paneIndex ? this.candles.coordinateToPrice(point.y) : null;
    this.onPoint(point ? { point: this.points.find((one) => one.time === time), price } : null);
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.points.length) return;
    event.preventDefault();
    const newest = this.points.findLastIndex((one) => one.candle);
    this.at = Math.max(Math.min((this.at ?? newest) + by, this.points.length - 1), 0);
    const point = this.points[this.at];
    this.chart.setCrosshairPosition(point.candle ? point.candle.close : point.ahead[2], point.time, point.candle ? this.candles : this.ahead);
    this.onPoint({ point, price: null });
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

// By time, in its order, the horizon that was forecast of a candle so many steps before.
function pastHorizons(made, places, times, step) {
  const found = [];
  for (const one of made) {
    const at = places.get(one.as_of_ms) + step;
    const horizon = one.horizons.find((each) => each.step === step);
    if (horizon && at < times.length) found.push([times[at], horizon]);
  }
  return new Map(found.sort((a, b) => a[0] - b[0]));
}

// What there is at each time: {time, candle, move, horizon, side} of candles, {time, ahead} beyond.
function pointsOf(candles, times, past, ahead) {
  const points = candles.map((candle, i) => {
    const horizon = past.get(times[i]);
    const [low, , , , high] = horizon ? bands(horizon) : [];
    const side = candle.close > high ? 1 : candle.close < low ? -1 : 0;
    return { time: times[i], candle, horizon, side, move: i ? Math.log(candle.close / candles[i - 1].close) : undefined };
  });
  const last = times[times.length - 1];
  ahead.forEach((one, step) => { if (one.time > last) points.push({ time: one.time, step, ahead: one.bands }); });
  return points;
}
