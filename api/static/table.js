// The table of all symbols: sorts, filters, works with the keyboard; redraws only what has changed.

import { ago, percent, plusMinus, price, signed, times } from "./format.js";

export const WORSE = "worse than no model"; // as the API says it

export const COLUMNS = [
  { name: "symbol", title: "Symbol", text: (row) => row.symbol, sort: (row) => row.symbol },
  { name: "last", title: "Last", text: (row) => price(row.last), sort: (row) => row.last },
  { name: "move", title: "Expected move", hint: "Mean distance of the next close from the last, by the forecast", text: (row) => plusMinus(row.move), sort: (row) => row.move },
  { name: "usual", title: "Against usual", hint: "The expected move over the mean one of the newest 100 scored candles of this symbol", text: (row) => times(usual(row)), sort: usual },
  { name: "range", title: "90 % interval", text: (row) => `${price(row.low, row.last)} – ${price(row.high, row.last)}`, sort: (row) => (row.high - row.low) / row.last },
  { name: "var", title: "VaR 95 %", hint: "Value at risk: in one of 20 candles the next close is further down", text: (row) => signed(row.risk), sort: (row) => row.risk },
  { name: "skill", title: "Skill", hint: "Of the next candle's quantiles: 1 - pinball loss / that of a baseline without a model", text: (row) => skillText(row.scores), sort: (row) => row.scores?.baseline_skill, tone: (row) => (row.scores?.against_baseline === WORSE ? -1 : 0) },
  { name: "coverage", title: "Coverage", hint: "Share of the next closes inside the 90 % interval", text: (row) => percent(row.scores?.coverage["90"]), sort: (row) => row.scores?.coverage["90"] },
  { name: "model", title: "Model", hint: "The interval that it is trained on where that is another one", text: (row) => (row.modelInterval ? `${row.model} (${row.modelInterval})` : row.model), sort: (row) => row.model },
  { name: "age", title: "Updated", text: (row) => ago(row.age), sort: (row) => row.age },
];

function usual(row) {
  const mean = row.scores?.persistence_mean_absolute_error;
  return mean ? row.move / mean : null;
}

// The skill of some scores against no model; in words where it is clearly worse, or where words are wanted.
export function skillText(scores, always = false) {
  if (!scores) return percent(null);
  const share = percent(scores.baseline_skill);
  if (scores.against_baseline === WORSE || always) return `${scores.against_baseline} (${share})`;
  return share;
}

export class SymbolTable {
  constructor(head, body, none, count, onSelect) {
    Object.assign(this, { head, body, none, count, onSelect, elements: new Map(), filter: "", by: COLUMNS[0], down: false, selected: null });
    for (const column of COLUMNS) this.head.append(this.header(column));
    this.body.addEventListener("click", (event) => this.choose(event.target.closest("tr")));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  header(column) {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    cell.scope = "col";
    button.type = "button";
    button.textContent = column.title;
    button.title = column.hint ?? "";
    button.addEventListener("click", () => this.sortBy(column));
    cell.append(button);
    column.header = cell;
    cell.setAttribute("aria-sort", column === this.by ? "ascending" : "none");
    return cell;
  }

  sortBy(column) {
    this.down = this.by === column ? !this.down : false;
    this.by = column;
    for (const one of COLUMNS) {
      one.header.setAttribute("aria-sort", one === column ? (this.down ? "descending" : "ascending") : "none");
    }
    this.order();
  }

  setFilter(text) {
    this.filter = text.trim().toLowerCase();
    this.order();
  }

  // Draws rows, given by key; call it as often as you like.
  draw(rows, selected) {
    this.rows = rows;
    this.selected = selected;
    for (const [key, row] of rows) this.drawRow(key, row);
    for (const [key, element] of this.elements) {
      if (!rows.has(key)) { element.remove(); this.elements.delete(key); }
    }
    this.order();
  }

  drawRow(key, row) {
    let element = this.elements.get(key);
    if (!element) {
      element = document.createElement("tr");
      element.dataset.key = key;
      element.tabIndex = -1;
      element.append(...COLUMNS.map(() => document.createElement("td")));
      this.elements.set(key, element);
    }
    COLUMNS.forEach((column, i) => drawCell(element.cells[i], column, row));
    element.setAttribute("aria-selected", String(key === this.selected));
    if (row.isNew) {
      row.isNew = false;
      element.classList.remove("flash");
      void element.offsetWidth; // lets the animation start again
      element.classList.add("flash");
    }
  }

  order() {
    const matches = [...(this.rows ?? [])].filter(([, row]) => row.symbol.toLowerCase().includes(this.filter));
    const value = ([, row]) => this.by.sort(row) ?? null;
    const sign = this.down ? -1 : 1;
    matches.sort((a, b) => sign * compare(value(a), value(b)) || compare(a[0], b[0]));
    const wanted = matches.map(([key]) => this.elements.get(key));
    const now = [...this.body.children];
    if (wanted.length !== now.length || wanted.some((one, i) => one !== now[i])) {
      const focused = document.activeElement;
      this.body.replaceChildren(...wanted);
      if (wanted.includes(focused)) focused.focus({ preventScroll: true });
    }
    const stop = wanted.find((one) => one.dataset.key === this.selected) ?? wanted[0];
    for (const one of wanted) one.tabIndex = one === stop ? 0 : -1;
    this.none.hidden = wanted.length > 0;
    this.none.textContent = this.rows?.size ? "No symbol matches." : "No symbols yet.";
    const all = (this.rows?.size ?? 0).toLocaleString("en");
    this.count.textContent = !this.rows?.size ? "" : wanted.length < this.rows.size ? `${wanted.length.toLocaleString("en")} of ${all}` : all;
  }

  choose(element) {
    if (element) this.onSelect(element.dataset.key);
  }

  key(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling, Home: this.body.firstElementChild, End: this.body.lastElementChild }[event.key];
    if (next) {
      event.preventDefault();
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(row);
    }
  }
}

function drawCell(cell, column, row) {
  const text = column.text(row);
  if (cell.textContent === (column.name === "symbol" ? text + row.interval : text)) return;
  cell.textContent = text;
  if (column.name === "symbol") {
    cell.append(Object.assign(document.createElement("span"), { textContent: row.interval }));
  }
  const tone = column.tone?.(row) ?? 0;
  cell.classList.toggle("up", tone > 0);
  cell.classList.toggle("down", tone < 0);
}

// What is missing comes last, whichever way it is sorted up.
function compare(a, b) {
  if (a === null || b === null || Number.isNaN(a) || Number.isNaN(b)) return (a ?? -Infinity) === (b ?? -Infinity) ? 0 : a === null ? 1 : -1;
  return a < b ? -1 : a > b ? 1 : 0;
}
