// The table of all symbols: sorts, filters, groups, works with the keyboard; draws what is in sight.

import { ago, percent, plusMinus, price, signed, times } from "./format.js";

export const WORSE = "worse than no model"; // as the API says it

const ROW_PX = 36; // as the style sheet has it
const AROUND = 8; // rows drawn above and below those in sight

const GROUPS = { none: () => "", interval: (row) => row.interval, model: (row) => row.model };

export const COLUMNS = [
  { name: "symbol", title: "Symbol", text: (row) => row.symbol, more: (row) => row.interval, sort: (row) => row.symbol },
  { name: "last", title: "Last", text: (row) => price(row.last), sort: (row) => row.last },
  { name: "move", title: "Expected move", hint: "Mean distance from the last close, by the forecast: of the next close, and of those at the further horizons", text: (row) => plusMinus(row.moves[0]), more: (row) => row.moves.slice(1).map((share) => (100 * share).toFixed(2)).join(" · "), sort: (row) => row.moves[0] },
  { name: "usual", title: "Against usual", hint: "The expected move of the next candle over the mean one of the newest 100 scored candles of this symbol", text: (row) => times(usual(row)), sort: usual },
  { name: "range", title: "90 % interval", text: (row) => `${price(row.low, row.last)} – ${price(row.high, row.last)}`, sort: (row) => (row.high - row.low) / row.last },
  { name: "var", title: "VaR 95 %", hint: "Value at risk: in one of 20 candles the next close is further down", text: (row) => signed(row.risk), sort: (row) => row.risk },
  { name: "skill", title: "Skill", hint: "Of the next candle's quantiles: 1 - pinball loss / that of a baseline without a model", text: (row) => skillText(row.scores), sort: (row) => row.scores?.baseline_skill, tone: (row) => (row.scores?.against_baseline === WORSE ? -1 : 0) },
  { name: "coverage", title: "Coverage", hint: "Share of the next closes inside the 90 % interval", text: (row) => percent(row.scores?.coverage["90"]), sort: (row) => row.scores?.coverage["90"] },
  { name: "model", title: "Model", hint: "The interval that it is trained on where that is another one", text: (row) => (row.modelInterval ? `${row.model} (${row.modelInterval})` : row.model), sort: (row) => row.model },
  { name: "age", title: "Updated", text: (row) => (row.behind ? `${row.behind} candle${row.behind === 1 ? "" : "s"} behind` : ago(row.age)), sort: (row) => row.madeMs && -row.madeMs },
];

function usual(row) {
  const mean = row.scores?.persistence_mean_absolute_error;
  return mean ? row.moves[0] / mean : null;
}

// The skill of some scores against no model; in words where it is clearly worse, or where words are wanted.
export function skillText(scores, always = false) {
  if (!scores) return percent(null);
  const share = percent(scores.baseline_skill);
  if (scores.against_baseline === WORSE || always) return `${scores.against_baseline} (${share})`;
  return share;
}

export class SymbolTable {
  // onSelect(key) hears which series is chosen.
  constructor(section, onSelect) {
    const find = (selector) => section.querySelector(selector);
    Object.assign(this, {
      scroller: find(".scroll"), head: find("#head"), body: find("#rows"), sizer: find("#sizer"), above: find("#above"), below: find("#below"),
      none: find("#none"), count: find("#count"), groups: find("#groups"), onSelect,
      rows: new Map(), items: [], elements: new Map(), filter: "", by: COLUMNS[0], isDown: false, selected: null, active: null,
    });
    for (const column of COLUMNS) {
      this.head.append(this.header(column));
      this.sizer.append(document.createElement("td"));
    }
    this.scroller.addEventListener("scroll", () => this.paint(), { passive: true });
    this.body.addEventListener("click", (event) => this.choose(event.target.closest("tr")?.dataset.key));
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    this.groups.addEventListener("change", () => this.order());
    find("#filter").addEventListener("input", (event) => { this.filter = event.target.value.trim().toLowerCase(); this.order(); });
    this.order();
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
    this.isDown = this.by === column ? !this.isDown : false;
    this.by = column;
    for (const one of COLUMNS) {
      one.header.setAttribute("aria-sort", one === column ? (this.isDown ? "descending" : "ascending") : "none");
    }
    this.order();
  }

  nextGroups() {
    this.groups.selectedIndex = (this.groups.selectedIndex + 1) % this.groups.options.length;
    this.order();
  }

  setRows(rows) {
    this.rows = rows;
    this.order();
  }

  // Puts the rows that match in order, a title before each group.
  order() {
    const groupOf = GROUPS[this.groups.value];
    const matches = [...this.rows].filter(([, row]) => row.symbol.toLowerCase().includes(this.filter))
      .map(([key, row]) => ({ key, row, value: this.by.sort(row) ?? null, group: groupOf(row) }));
    const sign = this.isDown ? -1 : 1;
    matches.sort((a, b) => compare(a.group, b.group) || sign * compare(a.value, b.value) || compare(a.key, b.key));
    this.items = [];
    const sizes = new Map();
    for (const { group } of matches) sizes.set(group, (sizes.get(group) ?? 0) + 1);
    let group = "";
    for (const match of matches) {
      if (match.group !== group) {
        ({ group } = match);
        this.items.push({ key: `group ${group}`, title: `${group} · ${sizes.get(group).toLocaleString("en")}` });
      }
      this.items.push(match);
    }
    this.none.hidden = matches.length > 0;
    this.none.textContent = this.rows.size ? "No symbol matches." : "No symbols yet.";
    const all = this.rows.size.toLocaleString("en");
    this.count.textContent = !this.rows.size ? "" : matches.length < this.rows.size ? `${matches.length.toLocaleString("en")} of ${all}` : all;
    this.head.closest("table").setAttribute("aria-rowcount", this.items.length + 1);
    this.paint();
  }

  // Draws the rows in sight, and no others: there may be thousands.
  paint(selected = this.selected) {
    this.selected = selected;
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(Math.floor(scrollTop / ROW_PX) - AROUND, 0);
    const last = Math.min(Math.ceil((scrollTop + clientHeight) / ROW_PX) + AROUND, this.items.length);
    const stop = this.stop();
    const wanted = this.items.slice(first, last).map((item, i) => this.element(item, first + i, item === stop));
    const now = [...this.body.children];
    if (wanted.length !== now.length || wanted.some((one, i) => one !== now[i])) {
      const focused = document.activeElement;
      const hadFocus = this.body.contains(focused);
      this.body.replaceChildren(...wanted);
      if (hadFocus) (wanted.includes(focused) ? focused : this.scroller).focus({ preventScroll: true });
      const kept = new Set(wanted);
      for (const [key, element] of this.elements) if (!kept.has(element)) this.elements.delete(key);
    }
    this.above.style.height = `${first * ROW_PX}px`;
    this.below.style.height = `${(this.items.length - last) * ROW_PX}px`;
  }

  // The one row that Tab comes to.
  stop() {
    const at = (key) => this.items.find((one) => one.row && one.key === key);
    return at(this.active) ?? at(this.selected) ?? this.items.find((one) => one.row);
  }

  element(item, number, isStop) {
    let element = this.elements.get(item.key);
    if (!element) {
      element = document.createElement("tr");
      if (item.row) element.dataset.key = item.key;
      element.append(...(item.row ? COLUMNS.map(() => document.createElement("td")) : [groupTitle()]));
      this.elements.set(item.key, element);
    }
    element.setAttribute("aria-rowindex", number + 2);
    if (!item.row) {
      if (element.textContent !== item.title) element.firstChild.textContent = item.title;
      return element;
    }
    COLUMNS.forEach((column, i) => {
      drawCell(element.cells[i], column, item.row);
      if (element.cells[i].textContent.length > this.sizer.cells[i].textContent.length) {
        this.sizer.cells[i].replaceChildren(...element.cells[i].cloneNode(true).childNodes); // columns keep their width as one scrolls
      }
    });
    element.tabIndex = isStop ? 0 : -1;
    element.classList.toggle("behind", item.row.behind > 0);
    element.setAttribute("aria-selected", String(item.key === this.selected));
    if (item.row.isNew) {
      item.row.isNew = false;
      element.classList.remove("flash");
      void element.offsetWidth; // lets the animation start again
      element.classList.add("flash");
    }
    return element;
  }

  // The key of the series so many rows after one.
  beside(key, by) {
    const rows = this.items.filter((one) => one.row);
    const at = rows.findIndex((one) => one.key === key);
    return rows[Math.max(Math.min(at + by, rows.length - 1), 0)]?.key;
  }

  choose(key) {
    if (!key) return;
    this.active = key;
    this.onSelect(key);
  }

  key(event) {
    const key = event.target.dataset.key ?? this.stop()?.key;
    const size = this.items.length;
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -size, End: size }[event.key];
    if (event.target.closest("thead") || !key) return;
    if (by) {
      event.preventDefault();
      this.active = this.beside(key, by);
      this.reveal(this.active);
      this.elements.get(this.active).focus({ preventScroll: true });
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(key);
    }
  }

  reveal(key) {
    const top = this.items.findIndex((one) => one.key === key) * ROW_PX;
    const { scrollTop, clientHeight } = this.scroller;
    const seen = clientHeight - 2 * ROW_PX; // beside the header
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top > scrollTop + seen) this.scroller.scrollTop = top - seen;
    this.paint();
  }
}

function groupTitle() {
  return Object.assign(document.createElement("th"), { colSpan: COLUMNS.length, scope: "rowgroup", className: "group" });
}

function drawCell(cell, column, row) {
  const text = column.text(row);
  const more = column.more?.(row) ?? "";
  if (cell.textContent === text + more) return;
  cell.textContent = text;
  if (more) cell.append(Object.assign(document.createElement("span"), { textContent: more }));
  const tone = column.tone?.(row) ?? 0;
  cell.classList.toggle("up", tone > 0);
  cell.classList.toggle("down", tone < 0);
}

// What is missing comes last, whichever way it is sorted up.
function compare(a, b) {
  if (a === null || b === null || Number.isNaN(a) || Number.isNaN(b)) return (a ?? -Infinity) === (b ?? -Infinity) ? 0 : a === null ? 1 : -1;
  return a < b ? -1 : a > b ? 1 : 0;
}
