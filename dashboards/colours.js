"use strict";
// The two palettes: figures come in the light one; dark pages recolour them, printed ones never.

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
