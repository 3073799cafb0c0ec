// The system: processes, rates, models, drift and refused messages, as this API sees them.

import { ago, clock, day, days } from "./format.js";
import { begin, byId, health, make, polledStatus, quietly } from "./page.js";
import { SharesChart } from "./shares.js";
import { load } from "./stream.js";

const EACH_MS = 5000;
const DAY_MS = 86400000;
const QUIET_MS = 300000; // after which a silent source is worth a word
const MANY_DRIFT = 0.1;

let chart = null;

async function reload() {
  const status = await polledStatus();
  if (!status) return;
  const [system, models, scores] = await Promise.all([
    load("/v1/system"), load("/v1/models"), status.connected ? load("/v1/scores") : { overall: [] },
  ]);
  drawProcesses(status, system);
  drawRates(system);
  drawModels(models, status.model);
  drawDrift(scores.overall);
  drawRefused(system);
}

const row = (cells) => make("tr", {}, ...cells.map((cell) => {
  const [textContent, className = ""] = [cell].flat();
  return make("td", { textContent, className });
}));
const since = (ms, now) => (ms ? `${ago(Math.max(now - ms, 0) / 1000)} ago`.replace("now ago", "now") : "–");
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

function drawProcesses(status, { topics, series, waiting, started_ms: started }) {
  const now = Date.now();
  const newest = Object.fromEntries(topics.map((one) => [one.kind, one.newest_ms]));
  const isQuiet = newest.candles && now - newest.candles > QUIET_MS;
  const lost = status.connected ? null : [`not seen: ${health.status.detail}`, "bad"];
  byId("processes").replaceChildren(
    row(["Kafka", status.connected ? `answers at ${status.kafka || "its address"}` : [`${status.detail}, since ${clock(status.since_ms)}`, "bad"], since(status.connected ? now : null, now)]),
    row(["Producer", lost ?? (newest.candles ? (isQuiet ? ["no candle for a while: its market is closed, or it has stopped", "warned"] : "candles come") : "no candle has come yet"), since(newest.candles, now)]),
    row(["Worker", lost ?? (waiting ? [`${waiting.toLocaleString("en")} of ${series.toLocaleString("en")} series wait for a forecast of their newest candle`, "warned"] : newest.forecasts ? "every series has the forecast of its newest candle" : "no forecast has come yet"), since(newest.forecasts, now)]),
    row(["Scores", lost ?? (newest.scores ? "outcomes are scored" : "nothing has been scored yet"), since(newest.scores, now)]),
    row(["API", `up since ${clock(started)}, ${count(status.lag ?? 0, "message")} behind, ${count(status.subscribers, "client")} of its event stream`, since(now, now)]),
  );
}

function drawRates({ rates, span_ms: span }) {
  byId("rates").hidden = rates.length < 2;
  if (!rates.length) return;
  const all = filled(rates, span);
  const minute = (kind) => all.map((one) => ({ time: one.from_ms / 1000, value: one[kind] * (60000 / span) }));
  const newest = all.slice(-4);
  const mean = (kind) => Math.round(newest.reduce((sum, one) => sum + one[kind], 0) / newest.length * (60000 / span)).toLocaleString("en");
  byId("rates-note").textContent = `In the newest minute of the stream ${mean("candles")} candles, ${mean("forecasts")} forecasts and ${mean("scores")} messages of scores`;
  if (rates.length < 2) return; // a line has two ends
  const text = (value) => Math.round(value).toLocaleString("en");
  chart ??= new SharesChart(byId("rates"), [{ colour: "--fan-line", text }, { colour: "--up", text }, { colour: "--muted", text }]);
  chart.show([minute("candles"), minute("forecasts"), all.filter((one) => one.lag !== null).map((one) => ({ time: one.from_ms / 1000, value: one.lag }))], "1m");
}

// The spans of an hour before the newest, with those in which nothing came.
function filled(rates, span) {
  const last = rates[rates.length - 1].from_ms;
  const known = new Map(rates.map((one) => [one.from_ms, one]));
  const first = Math.max(rates[0].from_ms, last - 3600000);
  const all = [];
  for (let at = first; at <= last; at += span) all.push(known.get(at) ?? { from_ms: at, candles: 0, forecasts: 0, scores: 0, lag: null });
  return all;
}

function drawModels({ state, versions, champions }, card) {
  const isPlain = !champions.length && /^models of generation/.test(state);
  byId("models-note").textContent = isPlain ? "No champion has been promoted" : state;
  const now = Date.now();
  const age = (ms) => days((now - ms) / DAY_MS);
  const promoted = new Map(champions.map(({ champion }) => [champion.version, `${clock(champion.at_ms)} by ${champion.by}`]));
  const lines = versions.map((one) => [
    one.version, one.fault ? [one.fault, "bad"] : one.champion_of.join(", ") || "nothing", `${one.intervals.join(", ")}: ${count(one.candles, "candle")}`,
    day(one.last_ms, one.intervals[0] ?? "1d"), age(one.last_ms), promoted.get(one.version) ?? "–",
  ]);
  if (!lines.length) { // models that are of no store
    lines.push([card.model_version, "every series", card.interval ?? "–", card.data ? day(card.data.last_ms, card.interval ?? "1d") : "–", card.data ? age(card.data.last_ms) : "–", "–"]);
  }
  byId("models").replaceChildren(...lines.map(row));
}

function drawDrift(overall) {
  const words = overall.flatMap(({ interval, drift, features }) => {
    if (!drift) return [];
    const isMuch = drift.drifting > MANY_DRIFT * drift.series;
    const said = drift.drifting === 0 ? "none of its series drifts" : `${drift.drifting} of its ${drift.series} series drift${isMuch ? ": the model no longer fits, a new one is due" : ", which is ordinary after news"}`;
    const moves = `moves are ${drift.spread.toFixed(2)} × as large as the model says`;
    const off = features.filter((one) => one.drifts).map((one) => `${one.feature} (${one.psi.toFixed(2)})`);
    return [[`${interval}: ${said}; ${moves}${off.length ? `; features away from their training: ${off.join(", ")}` : ""}.`, isMuch ? "warned" : ""]];
  });
  if (!words.length) words.push(["Too little has been scored to say.", "muted"]);
  byId("drift").replaceChildren(...words.map(([textContent, className]) => make("li", { textContent, className })));
}

function drawRefused({ refused }) {
  byId("refused-note").textContent = refused.length
    ? "Read by this API and not usable. The worker puts such candles aside: candlecast dlq list has them, with what only it can see."
    : "Every message that this API has read can be used. candlecast dlq list has what the worker put aside.";
  byId("refused").parentElement.parentElement.hidden = !refused.length;
  byId("refused").replaceChildren(...refused.map((one) => row([
    one.reason, one.count.toLocaleString("en"), since(one.newest_ms, Date.now()), `${one.topic}, partition ${one.partition}, offset ${one.offset}`, one.detail,
  ])));
}

begin(() => chart?.paint(), {});
setInterval(() => quietly(reload), EACH_MS);
quietly(reload);
