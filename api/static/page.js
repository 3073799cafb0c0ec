// What all pages have: the theme, the key, shortcuts, and troubles in plain words.

import { clock } from "./format.js";
import { KeyNeeded, load, setKey } from "./stream.js";

export const byId = (id) => document.getElementById(id);
export const make = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
export const candles = (count) => `${count} candle${count === 1 ? "" : "s"}`;
export const facts = (pairs) => pairs.flatMap(([name, text, className = ""]) => [
  make("dt", { textContent: name }), make("dd", { textContent: text, className }),
]);

// "#AAPL/1d" names a series; a symbol may have a slash itself.
export const keyOf = (one) => `${one.symbol} ${one.interval}`;
export const hashKey = () => decodeURIComponent(location.hash.slice(1)).replace(/\/([^/]*)$/, " $1");
export const hashOf = ({ symbol, interval }) => `#${encodeURIComponent(symbol)}/${interval}`;

const STATES = { live: "Live", connecting: "Reconnecting", down: "Stream down", key: "Key needed" };

export const health = { events: "connecting", isFollowed: true, status: undefined, unknown: null }; // our stream of events, and the API's of Kafka

export async function setState(state) {
  if (state === "open") { if (health.events === "key") health.events = "connecting"; } else health.events = state;
  drawState();
  if (state === "key") await askForKey();
}

// For a page that polls: reads the state of the stream, and says whether the API answers.
export async function polledStatus() {
  const status = await loadStatus();
  await setState(status ? "live" : "connecting");
  return status;
}

// Reads the state of the stream; null when the API does not answer.
export async function loadStatus() {
  health.status = await load("/v1/status").catch((error) => {
    if (error instanceof KeyNeeded) throw error;
    return null;
  });
  if (health.status) health.isFollowed = health.status.connected;
  drawState();
  return health.status;
}

export function drawState() {
  const isDown = health.status && !health.isFollowed && health.events !== "key";
  const state = isDown ? "down" : health.events;
  byId("state").dataset.state = state;
  byId("state").textContent = STATES[state];
  const found = trouble();
  byId("trouble").hidden = !found;
  const text = found?.join(". ") ?? "";
  if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
}

// What is not as it should be, in words: the title and what to do; null when all is well.
export function trouble() {
  const { status, events, unknown } = health;
  if (events === "key") return ["This API asks for a key", "Each tab wants it once."];
  if (status === null) return ["The connection to the API is lost", "What is shown is from before. The page tries again by itself."];
  if (status && !status.connected) {
    const since = `since ${clock(status.since_ms)}`;
    if (/out of reach/.test(status.detail)) {
      return [`Kafka${status.kafka ? ` at ${status.kafka}` : ""} cannot be reached ${since}`, "Or one of its topics is missing. What is shown is from before; candlecast doctor says what is wrong."];
    }
    return ["The API reads what the stream has", `It is not done yet: ${status.detail}, ${since}.`];
  }
  if (unknown) return [`The stream has no ${unknown}`, "The address of this page names it. Choose another one in the table of forecasts."];
  return null;
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

// Does work that asks the API; what fails is tried again later.
export async function quietly(work) {
  try { await work(); } catch (error) { if (error instanceof KeyNeeded) await setState("key"); }
}

// Begins a page: repaint() after another theme, shortcuts by key.
export function begin(repaint, shortcuts) {
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const set = (theme) => { document.documentElement.dataset.theme = theme; repaint(); };
  const turn = () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    set(theme);
  };
  const help = () => byId("keys-dialog").showModal();
  set(localStorage.getItem("theme") ?? (darkness.matches ? "dark" : "light"));
  darkness.addEventListener("change", () => { if (!localStorage.getItem("theme")) set(darkness.matches ? "dark" : "light"); });
  byId("theme").addEventListener("click", turn);
  byId("keys").addEventListener("click", help);
  for (const link of document.querySelectorAll("nav a")) if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
  const all = { t: turn, "?": help, ...shortcuts };
  document.addEventListener("keydown", (event) => {
    const isTyping = /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName) && document.activeElement.type !== "range";
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping || document.querySelector("dialog[open]")) return;
    const act = Object.hasOwn(all, event.key) ? all[event.key] : null;
    if (act) { event.preventDefault(); act(); }
  });
}
