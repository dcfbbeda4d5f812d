"use strict";
// Numbers and names as the pages show them; what came from a log is shown as text only.

const ROLES = ["prefill", "decode", "idle", "delayed", "unknown"];
const [PREFILL, DECODE, IDLE, DELAYED, UNKNOWN] = [0, 1, 2, 3, 4];

const wholeNumber = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const count = (n) => wholeNumber.format(n);
const decimals = (n, most, least = 0) =>
  new Intl.NumberFormat("en-US", {
    maximumFractionDigits: most,
    minimumFractionDigits: least,
  }).format(n);
const precise = (n, digits) => Number(n.toPrecision(digits)).toString();

function seconds(s) {
  if (s < 1) return `${precise(s * 1e3, 3)} ms`;
  return `${s.toFixed(s < 100 ? 2 : 1)} s`;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share < 1 && share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

function short(n) {
  for (const [unit, size] of [
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ]) {
    if (n >= 10 * size || (unit !== "k" && n >= size)) return `${precise(n / size, 3)}${unit}`;
  }
  return count(n);
}

// A metric's number and unit, as pages/numbers.py has them.
function metricWords(value, unit) {
  if (value === null || !Number.isFinite(value)) return ["–", ""];
  if (unit === "ratio") return [percent(value), ""];
  if (unit === "s") {
    if (value === 0 || Math.abs(value) >= 1000) return [count(value), "s"];
    return Math.abs(value) < 1 ? [precise(value * 1e3, 3), "ms"] : [precise(value, 4), "s"];
  }
  const shown = unit === "count" ? "" : unit;
  return [
    Number.isInteger(value) || Math.abs(value) >= 1000 ? count(value) : precise(value, 3),
    shown,
  ];
}

// Control and bidirectional marks could reorder what is read: their code points are shown instead.
const visible = (text) =>
  String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

// An element with text; never with markup.
function element(tag, { text, ...rest } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(rest)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  if (text !== undefined) made.textContent = visible(text);
  made.append(...children);
  return made;
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 0));
