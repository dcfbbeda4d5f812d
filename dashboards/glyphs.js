"use strict";
// How roles are told apart beside colour: by the part of a cell they fill, by stripes and dots.

// Where a cell is filled, from its top (0) to its bottom (1): what tells roles apart beside colour.
const GLYPH = {
  0: [[0, 1]],
  1: [[0, 0.5]],
  2: [[0.68, 1]],
  3: [0, 1, 2, 3].map((k) => [k / 3.5, (k + 0.5) / 3.5]),
  4: [
    [0, 0.1],
    [0.9, 1],
  ],
};
const LEAST_LABEL = 12; // pixels of a cell that bears a letter
const LEAST_ROW = 15; // and of its row
const wordWidth = (word) => 8 + 6.5 * word.length;

// A place without stripes where the cell's label will stand.
function clearForLabel(pen, x0, x1, top, tall, ratio) {
  const room = (x1 - x0) / ratio,
    letters = room < wordWidth(ROLES[DELAYED]) ? 1 : ROLES[DELAYED].length;
  if (room < LEAST_LABEL) return;
  const wide = (6.5 * letters + 4) * ratio,
    high = Math.min(14 * ratio, tall);
  pen.fillStyle = colour("paper");
  pen.fillRect((x0 + x1 - wide) / 2, top + (tall - high) / 2, wide, high);
}

// Shares stand too narrow for glyphs: delayed and unknown are told by stripes and dots instead.
function hatch(pen, role, fill, ratio) {
  if (role !== DELAYED && role !== UNKNOWN && role !== DECODE) return fill;
  const tile = document.createElement("canvas"),
    size = 4 * Math.max(1, Math.round(ratio));
  tile.width = tile.height = size;
  const mine = tile.getContext("2d"),
    half = size / 2;
  mine.fillStyle = colour("cell");
  mine.fillRect(0, 0, size, size);
  mine.fillStyle = fill;
  if (role === DELAYED) mine.fillRect(0, 0, size, half);
  if (role === DECODE) mine.fillRect(0, 0, size, size - size / 4);
  if (role === UNKNOWN) {
    mine.fillRect(0, 0, half, half);
    mine.fillRect(half, half, half, half);
  }
  return pen.createPattern(tile, "repeat");
}
