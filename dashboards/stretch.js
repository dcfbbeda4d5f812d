"use strict";
// A selected stretch of iterations: marked on the timeline, told in words, and every other tile of
// the same run told again for it.

class Stretch {
  constructor(timeline, tiles) {
    this.timeline = timeline;
    this.cells = timeline.cells;
    this.tiles = tiles; // the other figures of the run
    this.units = null;
    this.turn = 0;
    this.bar = document.getElementById("stretch");
    timeline.marks.push((t) => this.shapes(t));
    this.buildControls();
  }

  buildControls() {
    const { box } = this.timeline,
      last = this.cells.lastNumberOf(this.cells.blocks - 1),
      first = this.cells.numberOf(0);
    const input = (label) =>
      element("input", { type: "number", "aria-label": label, min: first, max: last });
    this.low = input("First iteration of the stretch");
    this.high = input("Last iteration of the stretch");
    this.pen = element("button", {
      type: "button",
      "data-do": "select",
      "aria-pressed": "false",
      text: "select",
      title: "Drag selects instead of zooming (so does dragging with Shift)",
    });
    box.querySelector(".tools").prepend(this.pen);
    this.pen.addEventListener("click", () => this.setPen(!this.drawing));
    const form = element(
      "form",
      { class: "pick" },
      element("span", { text: "Iterations" }),
      this.low,
      element("span", { text: "to" }),
      this.high,
      element("button", { type: "submit", text: "Select" }),
      element("button", {
        type: "button",
        "data-do": "select-window",
        text: "Select what is shown",
        onclick: () => this.selectWindow(),
      }),
    );
    form.addEventListener("submit", (e) => {
      e.preventDefault();
      this.selectNumbers();
    });
    this.timeline.readout.after(form);
  }

  setPen(on) {
    this.drawing = on;
    this.pen.setAttribute("aria-pressed", String(on));
    this.timeline.box.classList.toggle("drawing", on);
  }

  selectNumbers() {
    const low = Number(this.low.value || this.low.min),
      high = Number(this.high.value || this.high.max);
    return this.set(
      this.cells.withNumber(Math.min(low, high)),
      this.cells.withNumber(Math.max(low, high)) + 1,
    );
  }

  selectWindow() {
    return this.set(...this.timeline.unitsIn(...this.timeline.window));
  }

  // A drag takes the units whose middle it covers, or the one it lies in.
  selectRange(lo, hi) {
    const t = this.timeline,
      [a, b] = t.unitsIn(Math.min(lo, hi), Math.max(lo, hi)),
      middle = (i) => (t.from(i) + t.to(i)) / 2;
    let first = a,
      last = b;
    while (first < last && middle(first) < Math.min(lo, hi)) first++;
    while (last > first && middle(last - 1) > Math.max(lo, hi)) last--;
    return first < last ? this.set(first, last) : b > a ? this.set(a, a + 1) : this.clear();
  }

  async set(a, b) {
    const n = this.cells.blocks;
    a = Math.min(Math.max(a, 0), n - 1);
    b = Math.min(Math.max(b, a + 1), n);
    this.units = [a, b];
    this.low.value = this.cells.numberOf(a);
    this.high.value = this.cells.lastNumberOf(b - 1);
    this.say();
    await this.timeline.mark();
    return this.tellTiles();
  }

  async clear() {
    if (!this.units) return;
    this.units = null;
    this.low.value = this.high.value = "";
    this.bar.hidden = true;
    this.bar.replaceChildren();
    await this.timeline.mark();
    return this.tellTiles();
  }

  say() {
    const c = this.cells,
      [a, b] = this.units,
      n = c.iterationsIn(a, b);
    const words =
      `${count(n)} of ${count(c.iterations)} iterations selected: ${count(c.numberOf(a))} to ${count(c.lastNumberOf(b - 1))}, ` +
      `${seconds(c.end[b - 1] - c.start[a])} from ${c.clock(c.start[a])} UTC.`;
    const blocks = c.size > 1 ? ` To whole blocks of ${count(c.size)}.` : "";
    const zoom = element("button", {
      type: "button",
      text: "Zoom to it",
      onclick: () =>
        this.timeline.lead(this.timeline.show(this.timeline.from(a), this.timeline.to(b - 1))),
    });
    const clear = element("button", {
      type: "button",
      "data-do": "clear",
      text: "Clear (Esc)",
      onclick: () => this.clear(),
    });
    this.bar.replaceChildren(
      element("span", {
        text: `${words}${blocks} Every tile tells of them alone, unless it says otherwise.`,
      }),
      zoom,
      clear,
    );
    this.bar.hidden = false;
  }

  shapes(t) {
    if (!this.units) return [];
    const x0 = t.from(this.units[0]),
      x1 = t.to(this.units[1] - 1),
      [ink, paper] = ["ink", "paper"].map((k) => page.palette[k][0]);
    const veil = (from, to) => ({
      type: "rect",
      x0: from,
      x1: to,
      y0: 0,
      y1: t.cells.ranks,
      fillcolor: paper,
      opacity: 0.6,
      line: { width: 0 },
    });
    const [lo, hi] = t.full();
    return [
      veil(lo, x0),
      veil(x1, hi),
      {
        type: "rect",
        x0,
        x1,
        y0: 0,
        y1: t.cells.ranks,
        line: { color: ink, width: 2, dash: "dash" },
      },
    ];
  }

  // ---- the other tiles ---------------------------------------------------------------------------
  async tellTiles() {
    const turn = ++this.turn,
      began = performance.now();
    this.tellMetrics();
    for (const tile of this.tiles) {
      await pause();
      if (turn !== this.turn) return; // another stretch was selected meanwhile
      await this.tellTile(tile);
    }
    this.bar.dataset.tookMs = (performance.now() - began).toFixed(1);
    document.documentElement.dataset.told = String(turn);
  }

  scope(tile) {
    const [a, b] = this.units;
    return {
      tile,
      cells: this.cells,
      requests: this.timeline.requests,
      a,
      b,
      body: tile && tile.kept.body,
      t0: this.cells.start[a],
      t1: Math.max(this.cells.end[b - 1], this.cells.start[a] + 1e-6),
    };
  }

  async tellTile(tile) {
    const gd = document.getElementById(tile.id),
      box = gd.closest(".tile");
    if (!tile.kept)
      tile.kept = {
        alt: gd.getAttribute("aria-label"),
        body: box.querySelector("tbody")?.cloneNode(true),
      };
    const note = scopeNote(box);
    let drawn = tile.spec,
      rows = null,
      said = "",
      alt = tile.kept.alt;
    // A figure that has nothing to show of the whole run has nothing of a stretch.
    const isEmpty = !tile.tabular && !tile.spec.data.length;
    if (this.units && !isEmpty) {
      const tell = stretchFigures[tile.figure];
      const told = tell
        ? tell(this.scope(tile))
        : { why: wholeRunFigures[tile.figure] || "whole run: this figure is not of iterations" };
      if (told.why === undefined) {
        drawn = told;
        rows = told.rows;
        alt = told.alt;
        said = `Of the stretch${told.note ? `; ${told.note}` : ""}.`;
      } else {
        if (told.empty) drawn = { data: [], layout: tile.spec.layout };
        said = told.why ? `${told.why[0].toUpperCase()}${told.why.slice(1)}.` : "";
      }
    }
    note.textContent = said;
    note.hidden = !said;
    box.classList.toggle("of-whole", Boolean(this.units) && drawn === tile.spec);
    tile.shown = drawn;
    if (tile.tabular) return;
    gd.setAttribute("aria-label", alt);
    await drawPlain(tile);
    fillTable(box, tile.kept.body, rows);
  }

  tellMetrics() {
    const values = this.units ? measureStretch(this.scope(null)) : null;
    for (const item of document.querySelectorAll("[data-metric]")) {
      const dd = item.querySelector("dd");
      if (!item.kept) item.kept = [...dd.childNodes].map((node) => node.cloneNode(true));
      // What the whole run does not tell, no stretch of it tells either.
      const isKnown = !item.kept[0]?.textContent.trim().startsWith("–");
      const told = values && values[item.dataset.metric];
      item.classList.toggle("of-whole", Boolean(values) && !told);
      dd.replaceChildren(...item.kept.map((node) => node.cloneNode(true)));
      if (!values || !isKnown) continue;
      if (!told) {
        dd.querySelector("small")?.remove();
        dd.append(element("small", { text: "whole run: it has no times" }));
        continue;
      }
      const [number, unit] = metricWords(told[0], item.dataset.unit || "");
      dd.replaceChildren(
        `${number} `,
        element("span", { class: "unit", text: unit }),
        element("small", { text: told[1] || "of the stretch" }),
      );
    }
  }
}

function scopeNote(box) {
  let note = box.querySelector(".scope");
  if (!note) {
    note = element("span", { class: "note scope", hidden: true });
    box.querySelector("h2").after(note);
  }
  return note;
}

function fillTable(box, kept, rows) {
  const body = box.querySelector("tbody");
  if (!body || !kept) return;
  const cell = (v) =>
    v === null || v === undefined ? "–" : typeof v === "number" ? decimals(v, 3) : v;
  const made = rows
    ? rows.map((row) => element("tr", {}, ...row.map((v) => element("td", { text: cell(v) }))))
    : [...kept.cloneNode(true).childNodes];
  body.replaceChildren(...made);
  const summary = body.closest("details").querySelector("summary");
  const number = rows ? rows.length : kept.querySelectorAll("tr").length;
  summary.textContent = `Table · ${count(number)} ${number === 1 ? "row" : "rows"}${rows ? " · of the stretch" : ""}`;
}

// Drags on the timeline that select: with Shift, or with the select button down.
function selectByDrag(stretch) {
  const { timeline } = stretch,
    { gd, box } = timeline,
    brush = element("div", { class: "brush", hidden: true });
  box.append(brush);
  gd.addEventListener(
    "mousedown",
    (e) => {
      if (e.button !== 0 || !(e.shiftKey || stretch.drawing)) return;
      const from = timeline.place(e);
      if (!from.inside) return;
      e.preventDefault();
      e.stopPropagation(); // Plotly would zoom
      const parent = box.getBoundingClientRect(),
        area = gd.getBoundingClientRect(),
        left = area.left + timeline.margin.l,
        right = left + timeline.width();
      const within = (x) => Math.min(Math.max(x, left), right);
      const move = (m) => {
        const [x0, x1] = [within(e.clientX), within(m.clientX)].sort((x, y) => x - y);
        brush.hidden = false;
        Object.assign(brush.style, {
          left: `${x0 - parent.left}px`,
          width: `${x1 - x0}px`,
          top: `${area.top - parent.top + timeline.margin.t}px`,
          height: `${gd.clientHeight - timeline.margin.t - timeline.margin.b}px`,
        });
      };
      const up = (m) => {
        document.removeEventListener("mousemove", move);
        document.removeEventListener("mouseup", up);
        brush.hidden = true;
        const [lo, hi] = timeline.window,
          at = (x) => lo + ((within(x) - left) / timeline.width()) * (hi - lo);
        stretch.selectRange(at(e.clientX), at(m.clientX));
      };
      document.addEventListener("mousemove", move);
      document.addEventListener("mouseup", up);
    },
    true,
  );
}

// Shift and the arrow keys grow a stretch from the cell of the cursor.
function selectByKey(stretch, step) {
  const { timeline } = stretch;
  if (!timeline.cursor) timeline.move(0, 0);
  const column = timeline.columns[timeline.cursor.column];
  if (!column) return;
  if (!stretch.anchor || !stretch.units) stretch.anchor = column.units.slice();
  else timeline.move(step, 0);
  const now = timeline.columns[timeline.cursor.column].units;
  stretch.set(Math.min(stretch.anchor[0], now[0]), Math.max(stretch.anchor[1], now[1]));
}
