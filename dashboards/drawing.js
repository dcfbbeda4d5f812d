"use strict";
// Draws figures in the colours of the page: they come in the light palette, dark pages recolour
// them, printed ones never.

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const page = JSON.parse(document.getElementById("page-data").textContent);
let printing = false;
const isDark = () => darkScheme.matches && !printing;
const colour = (name) => page.palette[name][isDark() ? 1 : 0];
const lightToDark = new Map(Object.values(page.palette));

function recolour(node) {
  if (typeof node === "string") return (isDark() && lightToDark.get(node)) || node;
  if (Array.isArray(node)) return node.map(recolour);
  if (node && typeof node === "object") {
    return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, recolour(v)]));
  }
  return node;
}

const plotConfig = { displayModeBar: false, doubleClick: false, responsive: true };

// A figure that is not the timeline; `shown` is what a stretch made of it.
function drawPlain(tile) {
  if (tile.tabular) return undefined;
  const { data, layout } = tile.shown || tile.spec;
  return Plotly.react(tile.id, recolour(data), fitPaper(tile.id, recolour(layout)), plotConfig);
}

// On paper a figure takes the width of its tile at once; on the screen Plotly follows the window.
function fitPaper(id, layout) {
  if (printing) layout.width = document.getElementById(id).clientWidth;
  return layout;
}
