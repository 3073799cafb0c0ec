// The record of one symbol: calibration, skill over time, worst misses, and all of it as CSV.

import { drawCalibration } from "./calibration.js";
import { SharesChart } from "./shares.js";
import { day, percent, signed, times } from "./format.js";
import { begin, byId, candles, drawState, hashKey, health, make, polledStatus, quietly } from "./page.js";
import { Missing, poll } from "./stream.js";

const EACH_MS = 5000;
const ROLLING = 50; // scores that a point over time is of
const WORST = 10;

const known = new Map(); // "AAPL 1d" -> as GET /v1/scores/{symbol} had it last; an unchanged one is not sent again
let found = null; // of the series that is shown
let chart = null;

const step = () => found?.steps.find((one) => String(one.summary.step) === byId("horizon").value) ?? found?.steps[0];

async function reload() {
  await polledStatus();
  const key = hashKey();
  const [, symbol, interval] = /^(.*) ([^ ]*)$/.exec(key) ?? [];
  if (!symbol) { say("No symbol is named", "Choose one in the table of forecasts."); return; }
  byId("back").href = `/dashboard${location.hash}`;
  try {
    const scores = await poll(`/v1/scores/${encodeURIComponent(symbol)}?interval=${encodeURIComponent(interval)}&limit=1000`);
    if (scores) known.set(key, scores);
    if (key !== hashKey()) return; // the page is of another series by now
    found = known.get(key);
    health.unknown = null;
    drawState();
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    if (key !== hashKey()) return;
    found = null;
    health.unknown = key;
    drawState();
    say(`The stream has no ${key}`, "Choose another one in the table of forecasts.");
    return;
  }
  drawHorizons();
  draw();
}

function say(title, note) {
  byId("title").textContent = title;
  byId("subtitle").textContent = note;
  document.body.classList.add("is-empty");
}

function drawHorizons() {
  const steps = found.steps.map((one) => String(one.summary.step));
  const shown = [...byId("horizon").options].map((one) => one.value);
  if (steps.join() === shown.join()) return;
  byId("horizon").replaceChildren(...steps.map((one) => new Option(`${one} ahead`, one)));
}

function draw() {
  const chosen = step();
  if (!chosen) { say(`${found.symbol} ${found.interval}`, "Nothing of it has been scored yet."); return; }
  document.body.classList.remove("is-empty");
  const { summary, scores } = chosen;
  byId("title").textContent = `${found.symbol} ${found.interval}`;
  document.title = `${found.symbol} ${found.interval}: record · Candlecast`;
  byId("subtitle").textContent = `the newest ${summary.count} forecasts of ${candles(summary.step)} ahead that have been scored, ${dayOf(scores[0])} to ${dayOf(scores[scores.length - 1])}`;
  byId("drift").textContent = driftText(found.drift);
  byId("calibration-body").hidden = false;
  drawCalibration(summary);
  drawTime(scores);
  drawMisses(scores);
}

const dayOf = (score) => day(score.as_of_ms - 1, found.interval); // of the last candle that it used

function driftText(drift) {
  if (!drift) return "Too little has been scored to say whether it drifts.";
  const size = `moves are ${drift.spread.toFixed(2)} × as large as forecast, shifted by ${drift.shift.toFixed(2).replace("-", "−")} deviations`;
  return drift.drifting ? `It drifts, for ${candles(drift.drifting)}: ${size}.` : `It does not drift: ${size}.`;
}

// Skill and coverage of the newest ROLLING scores, at each score from there on.
export function rolling(scores, length = ROLLING) {
  const points = [];
  let [loss, base, inside] = [0, 0, 0];
  scores.forEach((score, i) => {
    const old = scores[i - length];
    loss += score.pinball - (old?.pinball ?? 0);
    base += score.baseline_pinball - (old?.baseline_pinball ?? 0);
    inside += (score.inside["90"] ? 1 : 0) - (old?.inside["90"] ? 1 : 0);
    if (i >= length - 1) points.push({ time: score.as_of_ms / 1000, skill: base > 0 ? 1 - loss / base : 0, coverage: inside / length });
  });
  return points;
}

function drawTime(scores) {
  const points = rolling(scores);
  const newest = points[points.length - 1];
  byId("skill").hidden = !newest;
  byId("skill-note").textContent = newest
    ? `Of the ${ROLLING} newest scores at each: now a skill of ${percent(newest.skill)}, and ${percent(newest.coverage)} of closes inside the 90 % interval`
    : `${ROLLING} scores are needed, ${scores.length} are there`;
  if (!newest) return;
  chart ??= new SharesChart(byId("skill"), [{ colour: "--fan-line", level: 0 }, { colour: "--muted", level: 0.9 }]);
  chart.show([points.map(({ time, skill }) => ({ time, value: skill })), points.map(({ time, coverage }) => ({ time, value: coverage }))], found.interval);
}

function drawMisses(scores) {
  const mean = scores.reduce((sum, one) => sum + one.pinball, 0) / scores.length;
  const worst = [...scores].sort((a, b) => b.pinball - a.pinball).slice(0, WORST);
  byId("misses").replaceChildren(...worst.map((one) => make("tr", {},
    ...[dayOf(one), signed(one.persistence_error), percent(one.pit), ...[one.pinball, one.baseline_pinball].map((loss) => times(mean > 0 ? loss / mean : null))]
      .map((textContent) => make("td", { textContent })))));
}

// Every score of every step; a link could not send the key.
function csv() {
  const held = Object.keys(found.steps[0]?.scores[0]?.inside ?? {});
  const plain = ["as_of_ms", "error", "persistence_error", "pinball", "raw_pinball", "baseline_pinball", "pit", "raw_pit"];
  const lines = [["symbol", "interval", "step", ...plain, ...held.map((name) => `inside_${name}`), ...held.map((name) => `raw_inside_${name}`)]];
  for (const { summary, scores } of found.steps) {
    for (const one of scores) {
      lines.push([found.symbol, found.interval, summary.step, ...plain.map((name) => one[name]), ...held.map((name) => one.inside[name]), ...held.map((name) => one.raw_inside[name])]);
    }
  }
  return lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
}

const quoted = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value);

function download() {
  if (!found) return;
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: url, download: `${found.symbol}-${found.interval}.csv`.replace(/[^\w.-]/g, "-") }).click();
  URL.revokeObjectURL(url);
}

begin(() => chart?.paint(), { r: () => byId("back").click() });
byId("horizon").addEventListener("change", draw);
byId("csv").addEventListener("click", download);
addEventListener("hashchange", () => { found = null; quietly(reload); });
setInterval(() => quietly(reload), EACH_MS);
quietly(reload);
