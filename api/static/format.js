// Numbers and times as people read them.

const NOTHING = "–";

// Decimals that a price is shown with: about five digits in all.
export function decimals(value) {
  const size = Math.abs(value);
  return size >= 10000 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 5;
}

const formats = {}; // by decimals: to make one takes longer than to use it

// A price, with the decimals of another one beside which it stands.
export function price(value, beside = value) {
  if (value === null || value === undefined) return NOTHING;
  const digits = decimals(beside);
  formats[digits] ??= new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return formats[digits].format(value);
}

export function percent(share, digits = 1) {
  return share === null || share === undefined ? NOTHING : `${(share * 100).toFixed(digits)} %`.replace("-", "−");
}

export function signed(share) {
  if (share === null || share === undefined) return NOTHING;
  return `${share > 0 ? "+" : ""}${(share * 100).toFixed(2)} %`.replace("-", "−");
}

export function plusMinus(share) {
  return share === null || share === undefined ? NOTHING : `± ${(share * 100).toFixed(2)} %`;
}

// Odds as fan.js has them: beyond the outer quantiles a bound.
export function odds({ share, edge }) {
  return `${edge > 0 ? "over " : edge < 0 ? "under " : ""}${percent(share, share > 0.015 && share < 0.985 ? 0 : 1)}`;
}

export function large(value) {
  return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

export function times(ratio) {
  return ratio === null || ratio === undefined ? NOTHING : `${ratio.toFixed(1)} ×`;
}

export function clock(ms) {
  return `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function ago(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return days(seconds / 86400);
}

export function days(count) {
  if (count < 730) return `${Math.floor(count)} days`;
  return `${(count / 365.25).toFixed(1)} years`;
}

export function millis(value) {
  if (value === null || value === undefined) return NOTHING;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

export function day(ms, interval) {
  const text = new Date(ms).toISOString();
  return /[mh]$/.test(interval) ? `${text.slice(0, 10)} ${text.slice(11, 16)} UTC` : text.slice(0, 10);
}
