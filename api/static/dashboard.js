// The dashboard: state in one place, drawn a few times a second whatever comes.

import { FanChart } from "./chart.js";
import { bands, expectedMove } from "./fan.js";
import { clock, days, day, millis, percent, plusMinus, price } from "./format.js";
import { EventStream, KeyNeeded, load, poll, setKey } from "./stream.js";
import { skillText, SymbolTable, WORSE } from "./table.js";

const DRAW_MS = 250;
const STATUS_MS = 2000;
const SCORES_MS = 5000;
const KEPT_CANDLES = 400;
const DAY_MS = 86400000;
const MANY_DRIFT = 0.1; // share of drifting series that is worth a warning: a few are ordinary after news

const byId = (id) => document.getElementById(id);
const rows = new Map(); // "AAPL 1d" -> a row of the table
const view = { key: null, step: 1, back: 0 };
const scored = new Map(); // "AAPL 1d" -> summaries of its scores by step
let overall = []; // of each interval
let unknown = null; // what the address names and the stream has not
let series = null; // of the chosen symbol: {symbol, interval, candles, forecasts by as_of_ms}
let dirty = true;
let chart = null;

const keyOf = (one) => `${one.symbol} ${one.interval}`;

// --- what comes

function takeForecast(forecast, isNew) {
  const key = keyOf(forecast);
  const row = rows.get(key) ?? { symbol: forecast.symbol, interval: forecast.interval, scores: null };
  const horizon = forecast.horizons[0];
  const [low, , , , high] = bands(horizon);
  Object.assign(row, {
    last: forecast.last_close, low, high, isNew, madeMs: forecast.made_at_ms,
    move: expectedMove(horizon, forecast.last_close), risk: low / forecast.last_close - 1,
    model: forecast.model_version, modelInterval: forecast.model_interval,
  });
  rows.set(key, row);
  if (series && key === view.key) {
    series.forecasts.set(forecast.as_of_ms, forecast);
    if (isNew && view.back > 0) view.back += 1; // the past forecast that is looked at stays
  }
  dirty = true;
}

function takeCandle(candle) {
  if (!series || keyOf(candle) !== view.key) return;
  const at = series.candles.findIndex((one) => one.open_ms >= candle.open_ms);
  if (at < 0) series.candles.push(candle);
  else series.candles.splice(at, series.candles[at].open_ms === candle.open_ms ? 1 : 0, candle);
  series.candles.splice(0, Math.max(series.candles.length - KEPT_CANDLES, 0));
  dirty = true;
}

function takeEvent(kind, data) {
  if (kind === "forecast") takeForecast(data, true);
  else if (kind === "candle") takeCandle(data);
  else if (kind === "hello" || kind === "reset") reload();
}

async function reload() {
  await quietly(async () => {
    const { forecasts } = await load("/v1/forecasts");
    const known = new Set(forecasts.map(keyOf));
    for (const key of rows.keys()) if (!known.has(key)) rows.delete(key);
    for (const forecast of forecasts) takeForecast(forecast, false);
    await loadScores();
    unknown = location.hash && !rows.has(hashKey()) && rows.size ? hashKey() : null;
    await select(rows.has(view.key) ? view.key : (rows.has(hashKey()) ? hashKey() : rows.keys().next().value), true);
  });
}

// "#AAPL/1d" names a series; a symbol may have a slash itself.
const hashKey = () => decodeURIComponent(location.hash.slice(1)).replace(/\/([^/]*)$/, " $1");
const hashOf = ({ symbol, interval }) => `#${encodeURIComponent(symbol)}/${interval}`;

async function select(key, again = false) {
  if (key === undefined || (key === view.key && !again)) { dirty = true; return; }
  if (key !== view.key) Object.assign(view, { key, back: 0 });
  const { symbol, interval } = rows.get(key);
  const found = await load(`/v1/forecasts/${encodeURIComponent(symbol)}/history?interval=${interval}&limit=300`);
  if (view.key !== key) return; // another one was chosen meanwhile
  series = {
    symbol, interval, candles: found.candles,
    forecasts: new Map(found.forecasts.map(({ forecast }) => [forecast.as_of_ms, forecast])),
  };
  if (!again) unknown = null;
  if (!unknown) history.replaceState(null, "", hashOf(series));
  drawHorizons();
  dirty = true;
}

async function loadScores() {
  const scores = await poll("/v1/scores");
  if (scores) {
    overall = scores.overall;
    scored.clear();
    for (const one of scores.series) scored.set(keyOf(one), one.steps);
  }
  for (const [key, row] of rows) row.scores = scored.get(key)?.[0] ?? null;
  dirty = true;
}

async function loadStatus() {
  const status = await load("/v1/status").catch((error) => {
    if (error instanceof KeyNeeded) throw error;
    return null;
  });
  health.status = status;
  if (!status) { drawState(); return; }
  health.isFollowed = status.connected;
  drawState();
  byId("lag").textContent = status.lag ?? "–";
  byId("latency").textContent = millis(status.latency_ms?.p50);
  byId("latency-note").textContent = status.latency_ms ? `candle to forecast; p95 ${millis(status.latency_ms.p95)}` : "candle to forecast";
  drawModel(status.model);
}

// --- what is seen

function drawModel(model) {
  const { age_ms: age, data } = model;
  const facts = { Horizons: `${model.horizons.join(", ")} candles`, "Needs": `${model.window_length} candles` };
  if (data) {
    const interval = model.interval ?? "1d";
    Object.assign(facts, {
      Symbols: data.symbols.length > 6 ? data.symbols.length.toLocaleString("en") : data.symbols.join(", "), "Trained from": day(data.first_ms, interval), "Trained to": day(data.last_ms, interval), Age: days(age / DAY_MS),
    });
  }
  byId("model").textContent = model.model_version;
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })]));
}

// Coverage and drift of the chosen interval, over all its series.
function drawHealth() {
  const interval = rows.get(view.key)?.interval;
  const chosen = overall.find((one) => one.interval === interval) ?? overall[0];
  const next = chosen?.steps[0];
  byId("coverage").textContent = percent(next?.coverage["90"]);
  byId("coverage-note").textContent = next ? `of 90 % intervals, ${next.count} scored` : "of 90 % intervals";
  const drift = chosen?.drift;
  byId("drift").textContent = drift ? `${drift.drifting} of ${drift.series}` : "–";
  byId("drift-note").textContent = drift ? `series drift; moves ${drift.spread.toFixed(2)} × the model's` : "of the series";
  byId("drift").parentElement.classList.toggle("warn", Boolean(drift && drift.drifting > MANY_DRIFT * drift.series));
}

// The outcomes of the chosen series' forecasts: the histogram is flat where the forecasts are right.
function drawCalibration() {
  const found = scored.get(view.key)?.find((one) => one.step === view.step);
  byId("calibration-body").hidden = !found;
  byId("calibration-note").textContent = found
    ? `${view.key}, ${candles(found.step)} ahead: the newest ${found.count} forecasts that have been scored`
    : "Nothing has been scored yet";
  if (!found) return;
  const most = Math.max(3 / found.pit.length, ...found.pit, ...found.raw_pit);
  const even = 1 / found.pit.length;
  byId("pit").replaceChildren(...found.pit.map((share, i) => {
    const bin = make("div", { title: `${percent(share)} of closes; the model alone ${percent(found.raw_pit[i])}` });
    for (const [name, height] of [["calibrated", share], ["raw", found.raw_pit[i]]]) {
      const bar = make("i", { className: name });
      bar.style.height = `${(100 * height) / most}%`;
      bin.append(bar);
    }
    return bin;
  }));
  byId("pit").style.setProperty("--even", `${(100 * even) / most}%`);
  byId("pit-note").textContent = `How often closes came in each tenth of the forecast, low to high. ${percent(even, 0)} each (dashed) is right.`;
  byId("coverages").replaceChildren(...Object.keys(found.coverage).map((name) => {
    const line = make("tr", {});
    line.append(...[`${name} %`, percent(found.coverage[name]), percent(found.raw_coverage[name])].map((textContent) => make("td", { textContent })));
    return line;
  }));
  const facts = [
    ["Quantiles", skillText(found, true), found.against_baseline === WORSE],
    ["Median, against no change", percent(found.persistence_skill), false],
  ];
  byId("skills").replaceChildren(...facts.flatMap(([name, textContent, isBad]) => [
    make("dt", { textContent: name }), make("dd", { textContent, className: isBad ? "bad" : "" }),
  ]));
}

function draw() {
  if (!dirty || document.hidden) return;
  dirty = false;
  const now = Date.now();
  for (const row of rows.values()) row.age = Math.max(now - row.madeMs, 0) / 1000;
  table.draw(rows, view.key);
  drawChart();
  drawHealth();
  drawCalibration();
}

// What is not as it should be, in words: the title and what to do.
function trouble() {
  const { status, events } = health;
  if (events === "key") return ["This API asks for a key", "Each tab wants it once."];
  if (status === null) return ["The connection to the API is lost", "What is shown is from before. The page tries again by itself."];
  if (status && !status.connected) {
    const since = `since ${clock(status.since_ms)}`;
    if (/out of reach/.test(status.detail)) {
      return [`Kafka${status.kafka ? ` at ${status.kafka}` : ""} cannot be reached ${since}`, "Or one of its topics is missing. What is shown is from before; candlecast doctor says what is wrong."];
    }
    return ["The API reads what the stream has", `It is not done yet: ${status.detail}, ${since}.`];
  }
  if (unknown) return [`The stream has no ${unknown}`, "The address of this page names it. Choose another one below."];
  return null;
}

function drawTrouble() {
  const found = trouble();
  byId("trouble").hidden = !found;
  const text = found?.join(". ") ?? "";
  if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
  byId("empty-title").textContent = found ? found[0] : series || !health.status?.series ? "Nothing has been forecast yet" : "Candles come, forecasts do not yet";
  byId("empty-note").textContent = found ? found[1] : health.status?.series
    ? "A forecast needs as many candles as the model reads. If none comes, candlecast doctor says what is wrong."
    : "The chart begins with the first forecast in the stream. make demo starts one.";
}

function drawChart() {
  drawTrouble();
  const isEmpty = !series || !series.candles.length;
  byId("empty").hidden = !isEmpty;
  byId("chart").parentElement.classList.toggle("is-empty", isEmpty);
  byId("chart").style.visibility = isEmpty ? "hidden" : "visible";
  if (isEmpty) return;
  chart ??= new FanChart(byId("chart"));
  const most = Math.max(series.forecasts.size - 1, 0);
  view.back = Math.min(view.back, most);
  byId("back").max = most;
  byId("back").value = most - view.back; // right is now
  const chosen = chart.show(series, view);
  const last = series.candles[series.candles.length - 1];
  byId("title").textContent = series.symbol;
  byId("subtitle").textContent = `${series.interval} candles · last ${day(last.open_ms, series.interval)}`;
  const behind = chosen && !view.back ? series.candles.filter((one) => one.close_ms > chosen.as_of_ms).length : 0;
  byId("back-text").textContent = view.back ? `${candles(view.back)} ago` : behind ? `${candles(behind)} behind` : "now";
  byId("figures").classList.toggle("behind", behind > 0);
  drawFigures(last, chosen);
}

const make = (name, properties) => Object.assign(document.createElement(name), properties);
const candles = (count) => `${count} candle${count === 1 ? "" : "s"}`;

function drawFigures(last, chosen) {
  const made = [figure("Last close", price(last.close))];
  for (const horizon of chosen?.horizons ?? []) {
    const move = expectedMove(horizon, chosen.last_close);
    const [low, , , , high] = bands(horizon);
    const ahead = `${candles(horizon.step)} ahead`;
    made.push(figure(ahead, price(horizon.predicted_close, last.close), plusMinus(move), "", `90 %: ${price(low, last.close)} – ${price(high, last.close)}`));
  }
  byId("figures").replaceChildren(...made);
  const next = chosen?.horizons[0];
  byId("reading").textContent = next && view.back === 0 ? `${series.symbol}: last ${price(last.close)}, next ${price(next.predicted_close)}` : "";
}

function figure(label, value, move = "", className = "", range = "") {
  const element = make("div", { className: "figure" });
  element.append(make("dt", { textContent: label }), make("dd", { className: "value", textContent: value }));
  element.append(make("dd", { className: `move ${className}`, textContent: move }));
  if (range) element.append(make("dd", { className: "range", textContent: range }));
  return element;
}

function drawHorizons() {
  const newest = [...series.forecasts.values()].pop();
  const steps = newest ? newest.horizons.map((one) => one.step) : [1];
  if (!steps.includes(view.step)) view.step = steps[0];
  byId("horizon").replaceChildren(...steps.map((step) => new Option(`${step} ahead`, step, false, step === view.step)));
}

const STATES = { live: "Live", connecting: "Reconnecting", down: "Stream down", key: "Key needed" };

const health = { events: "connecting", isFollowed: true, status: undefined }; // our stream of events, and the API's of Kafka

async function setState(state) {
  health.events = state;
  drawState();
  if (state === "key") await askForKey();
}

function drawState() {
  const state = health.events === "live" && !health.isFollowed ? "down" : health.events;
  byId("state").dataset.state = state;
  byId("state").textContent = STATES[state];
  drawTrouble();
}

let asking = null;
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    dialog.addEventListener("close", () => { setKey(byId("key").value.trim()); asking = null; resolve(); }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function quietly(work) {
  try { await work(); } catch (error) { if (error instanceof KeyNeeded) await setState("key"); }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  chart?.paint();
}

// --- start

const table = new SymbolTable(byId("head"), byId("rows"), byId("none"), byId("count"), (key) => quietly(() => select(key)));
const darkness = matchMedia("(prefers-color-scheme: dark)");
setTheme(localStorage.getItem("theme") ?? (darkness.matches ? "dark" : "light"));
darkness.addEventListener("change", () => { if (!localStorage.getItem("theme")) setTheme(darkness.matches ? "dark" : "light"); });
byId("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", theme);
  setTheme(theme);
});
byId("filter").addEventListener("input", (event) => table.setFilter(event.target.value));
byId("horizon").addEventListener("change", (event) => { view.step = Number(event.target.value); dirty = true; });
byId("back").addEventListener("input", (event) => { view.back = Number(event.target.max) - Number(event.target.value); dirty = true; });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); byId("filter").focus(); }
});
addEventListener("hashchange", () => {
  unknown = rows.has(hashKey()) ? null : hashKey();
  dirty = true;
  if (!unknown) quietly(() => select(hashKey()));
});
document.addEventListener("visibilitychange", () => { dirty = true; });
setInterval(draw, DRAW_MS);
setInterval(() => { dirty = true; }, 1000); // ages grow
setInterval(() => quietly(loadStatus), STATUS_MS);
setInterval(() => { if (byId("state").dataset.state === "live") quietly(loadScores); }, SCORES_MS);
quietly(loadStatus);
new EventStream("/v1/stream?events=candle,forecast", takeEvent, setState).run();
