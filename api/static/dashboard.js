// The dashboard: state in one place, drawn a few times a second whatever comes.

import { drawCalibration } from "./calibration.js";
import { FanChart } from "./chart.js";
import { bands, expectedMove, oddsAbove } from "./fan.js";
import { day, days, large, millis, odds, percent, plusMinus, price, signed } from "./format.js";
import { begin, byId, candles, facts, hashKey, hashOf, health, keyOf, loadStatus, make, quietly, setState, trouble } from "./page.js";
import { EventStream, load, poll } from "./stream.js";
import { SymbolTable } from "./table.js";

const DRAW_MS = 250;
const STATUS_MS = 2000;
const SCORES_MS = 5000;
const KEPT_CANDLES = 400;
const DAY_MS = 86400000;
const LATE_MS = 3000; // a forecast follows its candle in less, or is behind
const MANY_SYMBOLS = 100; // with new scores, above which those of all are requested
const MANY_DRIFT = 0.1; // share of drifting series that is worth a warning: a few are ordinary after news

const rows = new Map(); // "AAPL 1d" -> a row of the table
const view = { key: null, step: 1, back: 0, level: null, pointed: null };
const scored = new Map(); // "AAPL 1d" -> summaries of its scores by step
let overall = []; // of each interval
let [fresh, due] = [new Set(), new Set()]; // symbols whose scores have changed: since the last look, before it
let series = null; // of the chosen symbol: {symbol, interval, candles, forecasts by as_of_ms}
let isDirty = true;
let hasNews = true; // of the table
let chart = null;

// --- what comes

function takeForecast(forecast, isNew) {
  const key = keyOf(forecast);
  const row = rows.get(key) ?? { symbol: forecast.symbol, interval: forecast.interval, scores: null, late: new Set() };
  const horizon = forecast.horizons[0];
  const [low, , , , high] = bands(horizon);
  Object.assign(row, {
    last: forecast.last_close, low, high, isNew, madeMs: forecast.made_at_ms, asOfMs: forecast.as_of_ms,
    moves: forecast.horizons.map((one) => expectedMove(one, forecast.last_close)), risk: low / forecast.last_close - 1,
    model: forecast.model_version, modelInterval: forecast.model_interval,
  });
  setLate(row, row.late);
  if (isNew) fresh.add(row.symbol); // the worker scores as it forecasts
  rows.set(key, row);
  if (series && key === view.key) {
    series.forecasts.set(forecast.as_of_ms, forecast);
    if (isNew && view.back > 0) view.back += 1; // the past forecast that is looked at stays
  }
  isDirty = hasNews = true;
}

// Keeps the closes of the candles that have come after the newest forecast.
function setLate(row, closes) {
  row.late = new Set([...closes].filter((close) => close > row.asOfMs));
  row.lateMs = row.late.size ? row.lateMs ?? Date.now() : null;
}

function takeCandle(candle) {
  const row = rows.get(keyOf(candle));
  if (row && candle.close_ms > row.asOfMs) setLate(row, row.late.add(candle.close_ms));
  if (!series || keyOf(candle) !== view.key) return;
  const at = series.candles.findIndex((one) => one.open_ms >= candle.open_ms);
  if (at < 0) series.candles.push(candle);
  else series.candles.splice(at, series.candles[at].open_ms === candle.open_ms ? 1 : 0, candle);
  series.candles.splice(0, Math.max(series.candles.length - KEPT_CANDLES, 0));
  isDirty = true;
}

function takeEvent(kind, data) {
  if (kind === "forecast") takeForecast(data, true);
  else if (kind === "candle") takeCandle(data);
  else if (kind === "hello" || kind === "reset") reload();
}

async function reload() {
  await quietly(async () => {
    const { forecasts, behind } = await load("/v1/forecasts");
    const known = new Set(forecasts.map(keyOf));
    for (const key of rows.keys()) if (!known.has(key)) rows.delete(key);
    for (const forecast of forecasts) takeForecast(forecast, false);
    for (const one of behind) setLate(rows.get(keyOf(one)), one.closes_ms);
    await loadScores(true);
    health.unknown = location.hash && !rows.has(hashKey()) && rows.size ? hashKey() : null;
    await select(rows.has(view.key) ? view.key : (rows.has(hashKey()) ? hashKey() : rows.keys().next().value), true);
  });
}

async function select(key, again = false) {
  if (key === undefined || (key === view.key && !again)) { isDirty = true; return; }
  if (key !== view.key) { Object.assign(view, { key, back: 0 }); setLevel(null); }
  const { symbol, interval } = rows.get(key);
  const found = await load(`/v1/forecasts/${encodeURIComponent(symbol)}/history?interval=${interval}&limit=300`);
  if (view.key !== key) return; // another one was chosen meanwhile
  series = {
    symbol, interval, candles: found.candles,
    forecasts: new Map(found.forecasts.map(({ forecast }) => [forecast.as_of_ms, forecast])),
  };
  if (!again) health.unknown = null;
  if (!health.unknown) history.replaceState(null, "", hashOf(series));
  byId("record").href = `/dashboard/record${hashOf(series)}`;
  drawHorizons();
  isDirty = true;
}

// Asks for the scores that have changed, a look later: the API gives the same for 2 s.
async function loadScores(all = false) {
  const wanted = due;
  [due, fresh] = [fresh, new Set()];
  if (!all && !wanted.size) return;
  const isWhole = all || wanted.size > MANY_SYMBOLS;
  let scores;
  try {
    scores = await (isWhole ? poll("/v1/scores") : load(`/v1/scores?${new URLSearchParams([...wanted].map((symbol) => ["symbols", symbol]))}`));
  } catch (error) {
    for (const symbol of wanted) due.add(symbol);
    throw error;
  }
  if (scores) {
    overall = scores.overall;
    if (isWhole) scored.clear();
    for (const one of scores.series) scored.set(keyOf(one), one.steps);
  }
  for (const [key, row] of rows) row.scores = scored.get(key)?.[0] ?? null;
  isDirty = hasNews = true;
}

async function drawStatus() {
  const status = await loadStatus();
  if (!status) return;
  byId("lag").textContent = status.lag ?? "–";
  byId("latency").textContent = millis(status.latency_ms?.p50);
  byId("latency-note").textContent = status.latency_ms ? `candle to forecast; p95 ${millis(status.latency_ms.p95)}` : "candle to forecast";
  drawModel(status.model);
}

// --- what is seen

function drawModel(model) {
  const { age_ms: age, data } = model;
  const shown = [["Horizons", `${model.horizons.join(", ")} candles`], ["Needs", `${model.window_length} candles`]];
  if (data) {
    const interval = model.interval ?? "1d";
    shown.push(
      ["Symbols", data.symbols.length > 6 ? data.symbols.length.toLocaleString("en") : data.symbols.join(", ")],
      ["Trained from", day(data.first_ms, interval)], ["Trained to", day(data.last_ms, interval)], ["Age", days(age / DAY_MS)],
    );
  }
  byId("model").textContent = model.model_version;
  byId("facts").replaceChildren(...facts(shown));
}

// Coverage and drift of the chosen interval, over all its series.
function drawHealth() {
  const interval = rows.get(view.key)?.interval;
  const chosen = overall.find((one) => one.interval === interval) ?? overall[0];
  const next = chosen?.steps[0];
  byId("coverage").textContent = percent(next?.coverage["90"]);
  byId("coverage-note").textContent = next ? `of 90 % intervals, ${next.count.toLocaleString("en")} scored` : "of 90 % intervals";
  const drift = chosen?.drift;
  byId("drift").textContent = drift ? `${drift.drifting} of ${drift.series}` : "–";
  byId("drift-note").textContent = drift ? `series drift; moves ${drift.spread.toFixed(2)} × the model's` : "of the series";
  byId("drift").parentElement.classList.toggle("warn", Boolean(drift && drift.drifting > MANY_DRIFT * drift.series));
}

function drawScores() {
  const found = scored.get(view.key)?.find((one) => one.step === view.step);
  byId("calibration-body").hidden = !found;
  byId("calibration-note").textContent = found
    ? `${view.key}, ${candles(found.step)} ahead: the newest ${found.count} forecasts that have been scored`
    : "Nothing has been scored yet";
  if (found) drawCalibration(found);
}

function draw() {
  if (document.hidden) return;
  if (hasNews) table.setRows(rows);
  hasNews = false;
  if (!isDirty) return;
  isDirty = false;
  const now = Date.now();
  for (const row of rows.values()) {
    row.age = Math.max(now - row.madeMs, 0) / 1000;
    row.behind = row.late.size && now - row.lateMs > LATE_MS ? row.late.size : 0;
  }
  table.paint(view.key);
  drawChart();
  drawHealth();
  drawScores();
}

function drawChart() {
  const isEmpty = !series || !series.candles.length;
  byId("empty").hidden = !isEmpty;
  byId("chart").parentElement.classList.toggle("is-empty", isEmpty);
  byId("chart").style.visibility = isEmpty ? "hidden" : "visible";
  if (isEmpty) { drawEmpty(); return; }
  if (!chart) {
    chart = new FanChart(byId("chart"), (pointed) => { view.pointed = pointed; drawReadout(); }, (level) => setLevel(level));
    chart.setLog(isLog());
  }
  const most = Math.max(series.forecasts.size - 1, 0);
  view.back = Math.min(view.back, most);
  byId("back").max = most;
  byId("back").value = most - view.back; // right is now
  const chosen = chart.show(series, view);
  const last = series.candles[series.candles.length - 1];
  byId("title").textContent = series.symbol;
  document.title = `${series.symbol} ${series.interval} · Candlecast`;
  byId("subtitle").textContent = `${series.interval} candles · last ${day(last.open_ms, series.interval)}`;
  const behind = view.back ? 0 : rows.get(view.key)?.behind;
  byId("back-text").textContent = view.back ? `${candles(view.back)} ago` : behind ? `${candles(behind)} behind` : "now";
  byId("figures").classList.toggle("behind", behind > 0);
  chart.fade(behind > 0);
  drawFigures(last, chosen);
  drawReadout();
}

// Why there is no chart yet.
function drawEmpty() {
  const found = trouble();
  byId("empty-title").textContent = found ? found[0] : series || !health.status?.series ? "Nothing has been forecast yet" : "Candles come, forecasts do not yet";
  byId("empty-note").textContent = found ? found[1] : health.status?.series
    ? "A forecast needs as many candles as the model reads. If none comes, candlecast doctor says what is wrong."
    : "The chart begins with the first forecast in the stream. make demo starts one.";
}

function drawFigures(last, chosen) {
  view.chosen = chosen;
  const isNewest = !chosen || chosen.as_of_ms >= last.close_ms;
  const made = [isNewest ? figure("Last close", price(last.close)) : figure("Close then", price(chosen.last_close))];
  for (const horizon of chosen?.horizons ?? []) {
    const [low, , , , high] = bands(horizon);
    const notes = [`90 %: ${price(low, last.close)} – ${price(high, last.close)}`, `up: ${odds(oddsAbove(horizon, chosen.last_close))}`];
    if (view.level) notes.push(`above ${price(view.level, last.close)}: ${odds(oddsAbove(horizon, view.level))}`);
    made.push(figure(`${candles(horizon.step)} ahead`, price(horizon.predicted_close, last.close), plusMinus(expectedMove(horizon, chosen.last_close)), notes));
  }
  byId("figures").replaceChildren(...made);
}

function figure(label, value, move = "", notes = []) {
  return make("div", { className: "figure" },
    make("dt", { textContent: label }), make("dd", { className: "value", textContent: value }), make("dd", { className: "move", textContent: move }),
    ...notes.map((textContent) => make("dd", { className: "range", textContent })));
}

// Values at the cursor, of the newest candle where there is none, and the odds of its price.
function drawReadout() {
  if (!chart) return;
  const pointed = view.pointed?.point;
  const point = pointed ?? chart.points.findLast((one) => one.candle);
  const parts = [["", pointed || !view.pointed ? day(point.time * 1000, series.interval) : ""]];
  const beside = series.candles[series.candles.length - 1].close;
  const money = (value) => price(value, beside);
  const band = ([low, low50, middle, high50, high]) => [["90 %", `${money(low)} – ${money(high)}`], ["50 %", `${money(low50)} – ${money(high50)}`], ["median", money(middle)]];
  if (point.candle) {
    const { open, high, low, close, volume } = point.candle;
    parts.push(["O", money(open)], ["H", money(high)], ["L", money(low)], ["C", money(close)], ["volume", large(volume)]);
    if (point.move !== undefined) parts.push(["move", signed(point.move)]);
    if (point.horizon) {
      parts.push([`forecast ${candles(view.step)} before`, point.side ? "it fell outside" : "it fell inside"], ...band(bands(point.horizon)), ["volatility", plusMinus(point.horizon.volatility)]);
    }
  } else parts.push(["ahead", candles(point.step)], ...band(point.ahead));
  const above = view.pointed?.price;
  if (above > 0 && view.chosen) {
    parts.push([`above ${money(above)}`, view.chosen.horizons.map((horizon) => `${odds(oddsAbove(horizon, above))} in ${horizon.step}`).join(", ")]);
  }
  byId("readout").replaceChildren(...parts.flatMap(([name, value]) => [make("span", {}, name ? `${name} ` : "", make("b", { textContent: value })), " "]));
  const next = view.chosen?.horizons[0];
  const newest = next && !view.back ? `${series.symbol}: last ${money(beside)}, next ${money(next.predicted_close)}` : "";
  byId("reading").textContent = chart.at === null ? newest : byId("readout").textContent; // of the keyboard's cursor
}

function setLevel(level) {
  const digits = level && 10 ** Math.max(4 - Math.floor(Math.log10(level)), 0); // five digits are enough to point at
  view.level = level > 0 ? Math.round(level * digits) / digits : null;
  if (document.activeElement !== byId("level")) byId("level").value = view.level ?? "";
  chart?.setLevel(view.level);
  isDirty = true;
}

function drawHorizons() {
  const newest = [...series.forecasts.values()].pop();
  const steps = newest ? newest.horizons.map((one) => one.step) : [1];
  if (!steps.includes(view.step)) view.step = steps[0];
  byId("horizon").replaceChildren(...steps.map((step) => new Option(`${step} ahead`, step, false, step === view.step)));
}

const isLog = () => byId("log").getAttribute("aria-pressed") === "true";
function setLog(wanted) {
  byId("log").setAttribute("aria-pressed", String(wanted));
  localStorage.setItem("log", String(wanted));
  chart?.setLog(wanted);
}

function setBack(back) {
  view.back = Math.min(Math.max(back, 0), Number(byId("back").max));
  isDirty = true;
}

// --- start

const choose = (key) => quietly(() => select(key));
const table = new SymbolTable(byId("symbols"), choose);
begin(() => chart?.paint(), {
  "/": () => byId("filter").focus(),
  j: () => choose(table.beside(view.key, 1)),
  k: () => choose(table.beside(view.key, -1)),
  ",": () => setBack(view.back + 1),
  ".": () => setBack(view.back - 1),
  l: () => setLog(!isLog()),
  g: () => table.nextGroups(),
  r: () => byId("record").click(),
});
setLog(localStorage.getItem("log") === "true");
byId("log").addEventListener("click", () => setLog(!isLog()));
byId("horizon").addEventListener("change", (event) => { view.step = Number(event.target.value); isDirty = true; });
byId("back").addEventListener("input", (event) => setBack(Number(event.target.max) - Number(event.target.value)));
byId("level").addEventListener("input", (event) => setLevel(Number(event.target.value) || null));
addEventListener("hashchange", () => {
  health.unknown = rows.has(hashKey()) ? null : hashKey();
  isDirty = true;
  if (!health.unknown) choose(hashKey());
});
document.addEventListener("visibilitychange", () => { isDirty = true; });
setInterval(draw, DRAW_MS);
setInterval(() => { isDirty = true; }, 1000); // ages grow
setInterval(() => quietly(drawStatus), STATUS_MS);
setInterval(() => { if (byId("state").dataset.state === "live") quietly(loadScores); }, SCORES_MS);
quietly(drawStatus);
new EventStream("/v1/stream?events=candle,forecast", takeEvent, setState).run();
