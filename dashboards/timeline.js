"use strict";
// The rank × iteration timeline: paints the window in view, answers the pointer, walks the cells.

class Timeline {
  constructor(tile, cells, requests) {
    this.tile = tile;
    this.cells = cells;
    this.requests = requests;
    this.words = new CellWords(cells, requests);
    this.gd = document.getElementById(tile.id);
    this.box = this.gd.closest(".tile");
    this.readout = this.box.querySelector(".readout");
    this.prompt = this.readout.textContent;
    this.tip = element("div", { class: "tip", hidden: true });
    this.box.append(this.tip);
    this.mode = cells.x;
    this.margin = tile.spec.layout.margin;
    this.cursor = null;
    this.marks = []; // shapes that others put on it: the stretch, a request's way
    this.window = this.full();
  }

  full() {
    return this.mode === "time"
      ? [0, Math.max(this.cells.end[this.cells.blocks - 1], 1e-3)]
      : [0, this.cells.iterations];
  }
  from(i) {
    return this.mode === "time" ? this.cells.start[i] : i * this.cells.size;
  }
  to(i) {
    return this.mode === "time"
      ? this.cells.end[i]
      : Math.min((i + 1) * this.cells.size, this.cells.iterations);
  }

  // Units that lie in a stretch of the axis, those cut by its ends too.
  unitsIn(lo, hi) {
    const n = this.cells.blocks,
      first = search(n, (i) => this.to(i) > lo);
    return [
      first,
      Math.max(
        search(n, (i) => this.from(i) >= hi),
        first,
      ),
    ];
  }

  // ---- words -----------------------------------------------------------------------------------
  wordsAt(index, r) {
    const column = this.columns[index];
    if (column.gap) return this.words.ofGap(column.units[0], r);
    return this.exact
      ? this.words.ofCell(column.units[0], r)
      : this.words.ofColumn(column, r, this.mode);
  }

  // ---- columns of the window -------------------------------------------------------------------
  build() {
    const [a, b] = this.unitsIn(...this.window);
    const limit = Math.max(120, Math.min(600, Math.floor(this.gd.clientWidth / 2)));
    this.exact = this.cells.size === 1 && b - a <= limit;
    this.columns = this.exact ? this.buildCells(a, b) : this.buildShares(a, b, limit);
  }

  buildCells(a, b) {
    const columns = [],
      c = this.cells;
    for (let i = a; i < b; i++) {
      const x0 = this.from(i),
        x1 = this.to(i),
        held = this.mode === "time" ? c.heldBefore(i) : 0;
      if (held && x0 > this.window[0])
        columns.push({ x0: x0 - held, x1: x0, gap: true, units: [i, i + 1] });
      if (x1 > x0) columns.push({ x0, x1, units: [i, i + 1] });
    }
    this.status = `${count(b - a)} iterations, each its own cell`;
    return columns;
  }

  buildShares(a, b, limit) {
    const c = this.cells,
      [lo, hi] = this.window,
      time = this.mode === "time",
      columns = [];
    // A column narrower than a unit would only repeat it.
    const n = Math.max(1, Math.min(limit, time && c.size === 1 ? limit : b - a)),
      w = (hi - lo) / n;
    let i = a;
    for (let k = 0; k < n; k++) {
      const x0 = lo + k * w,
        x1 = k === n - 1 ? hi : x0 + w;
      while (i < b && this.to(i) <= x0) i++;
      let j = i;
      while (j < b && this.from(j) < x1) j++;
      if (j === i) {
        // Between two passes: time that the delayer withheld, if it did.
        if (!(
          time &&
          c.size === 1 &&
          i < c.blocks &&
          c.heldBefore(i) &&
          this.from(i) - c.heldBefore(i) < x1
        ))
          continue;
      }
      const shares = new Float64Array(c.ranks * 5);
      const inside = (f, t) => Math.max(Math.min(t, x1) - Math.max(f, x0), 0);
      const dense = (q) =>
        c.size > 1 && time ? Math.min(c.busyOf(q) / Math.max(c.end[q] - c.start[q], 1e-9), 1) : 1;
      c.addRoles(i, j, (q) => (inside(this.from(q), this.to(q)) / w) * dense(q), time, shares);
      if (time && c.size === 1) {
        for (let q = i; c.heldTime && q <= Math.min(j, c.blocks - 1); q++) {
          const held = c.heldBefore(q),
            part = held ? inside(c.start[q] - held, c.start[q]) / w : 0;
          for (let r = 0; part && r < c.ranks; r++) {
            if (c.heldOn(q, r)) shares[r * 5 + DELAYED] += part;
          }
        }
      }
      columns.push({ x0, x1, shares, units: [i, Math.max(j, i + 1)] });
      if (j > i && this.to(j - 1) > x1) i = j - 1;
      else i = j;
    }
    const each = time ? seconds(w) : `${count(w)} iterations`;
    this.status = `${count(c.iterationsIn(a, b))} iterations, one column = ${each}; zoom in for more`;
    return columns;
  }

  // ---- painting --------------------------------------------------------------------------------
  // The window as an image: a browser paints a picture faster than ten thousand marks.
  paint() {
    const canvas = document.createElement("canvas"),
      ratio = Math.min(devicePixelRatio || 1, 2);
    const c = this.cells,
      [lo, hi] = this.window,
      row = Math.round(c.rowHeight * ratio);
    canvas.width = Math.max(1, Math.round(this.width() * ratio));
    canvas.height = row * c.ranks;
    const pen = canvas.getContext("2d"),
      scale = canvas.width / (hi - lo);
    const pad = Math.max(1, Math.round(row * 0.08)),
      tall = row - 2 * pad;
    const flat = ROLES.map(colour),
      ground = colour("cell"),
      hatched = flat.map((f, k) => hatch(pen, k, f, ratio));
    for (const column of this.columns) {
      const x0 = (column.x0 - lo) * scale,
        whole = (column.x1 - column.x0) * scale;
      // A hair between cells, once they are wide enough to spare it.
      const wide = this.exact ? Math.max(whole - (whole > 5 ? ratio : 0), 0.4) : whole + 0.5;
      for (let r = 0; r < c.ranks; r++) {
        if (column.gap && !c.heldOn(column.units[0], r)) continue;
        const top = r * row + pad;
        if (!column.gap) {
          pen.fillStyle = ground;
          pen.fillRect(x0, top, wide, tall);
        }
        if (!column.shares) {
          const role = column.gap ? DELAYED : c.state(column.units[0], r).role;
          pen.fillStyle = flat[role];
          for (const [a, b] of GLYPH[role]) pen.fillRect(x0, top + a * tall, wide, (b - a) * tall);
          if (role === DELAYED)
            clearForLabel(
              pen,
              Math.max(x0, 0),
              Math.min(x0 + wide, canvas.width),
              top,
              tall,
              ratio,
            );
          continue;
        }
        let at = top + tall;
        for (let role = 0; role < 5; role++) {
          const share = column.shares[r * 5 + role];
          // Whatever is there keeps a pixel: rare is not never.
          const high = share > 0 ? Math.max(share * tall, ratio) : 0;
          if (!high) continue;
          pen.fillStyle = hatched[role];
          pen.fillRect(x0, Math.max(at - high, top), wide, Math.min(high, at - top));
          at -= high;
        }
      }
    }
    return {
      source: canvas.toDataURL(),
      xref: "x",
      yref: "y",
      x: lo,
      sizex: hi - lo,
      y: 0,
      sizey: c.ranks,
      sizing: "stretch",
      layer: "below",
      yanchor: "top",
    };
  }

  width() {
    return Math.max(this.gd.clientWidth - this.margin.l - this.margin.r, 1);
  }

  // A cell bears its tokens or its role in words, or by the first letter where room is short.
  labels() {
    const out = { x: [], y: [], text: [], textfont: { size: 11, color: [] } };
    const c = this.cells;
    if (!this.exact || c.rowHeight < LEAST_ROW) return out;
    const [lo, hi] = this.window,
      scale = this.width() / (hi - lo);
    for (const column of this.columns) {
      const x0 = Math.max(column.x0, lo),
        x1 = Math.min(column.x1, hi),
        room = (x1 - x0) * scale;
      if (room < LEAST_LABEL) continue;
      for (let r = 0; r < c.ranks; r++) {
        const i = column.units[0];
        if (column.gap && !c.heldOn(i, r)) continue;
        const role = column.gap ? DELAYED : c.state(i, r).role;
        const works = role === PREFILL || role === DECODE;
        let word = works
          ? c.tokens.size === 1
            ? short(c.tokensIn(r, i, i + 1).sum)
            : ""
          : ROLES[role];
        // Idle is by far the commonest, and its low bar is mark enough.
        if (room < wordWidth(word)) word = works || role === IDLE ? "" : word[0];
        if (!word) continue;
        out.x.push((x0 + x1) / 2);
        out.y.push(r + (role === IDLE ? 0.4 : 0.5));
        out.text.push(word);
        out.textfont.color.push(role === PREFILL ? colour("paper") : colour("ink"));
      }
    }
    return out;
  }

  shapes() {
    const shapes = recolour(this.marks.flatMap((make) => make(this)));
    const at = this.cursor && this.columns && this.columns[this.cursor.column];
    if (at)
      shapes.push({
        type: "rect",
        x0: at.x0,
        x1: at.x1,
        y0: this.cursor.rank + 0.03,
        y1: this.cursor.rank + 0.97,
        line: { color: colour("ink"), width: 2 },
      });
    return shapes;
  }

  layout() {
    const layout = recolour(this.tile.spec.layout);
    layout.xaxis.range = this.window.slice();
    layout.xaxis.title.text =
      this.mode === "time"
        ? `seconds since ${new Date(this.cells.origin).toISOString().replace("T", " ").slice(0, 23)} UTC`
        : "iteration";
    layout.xaxis.tickformat = this.mode === "time" ? "" : ",d";
    layout.images = [this.paint()];
    layout.shapes = this.shapes();
    return layout;
  }

  async draw(first = false) {
    const began = performance.now();
    this.build();
    const traces = [Object.assign({}, recolour(this.tile.spec.data[0]), this.labels())];
    const layout = fitPaper(this.tile.id, this.layout());
    this.gd.dataset.buildMs = (performance.now() - began).toFixed(1);
    if (first) await Plotly.newPlot(this.gd, traces, layout, plotConfig);
    else await Plotly.react(this.gd, traces, layout, plotConfig);
    this.box.querySelector(".status").textContent = this.status;
    this.gd.dataset.exact = this.exact;
    this.gd.dataset.drawMs = (performance.now() - began).toFixed(1);
  }

  mark() {
    return Plotly.relayout(this.gd, { shapes: this.shapes() });
  }

  // ---- moving ----------------------------------------------------------------------------------
  show(lo, hi) {
    const [min, max] = this.full();
    const span = Math.min(
      Math.max(hi - lo, (max - min) * 1e-9, this.mode === "time" ? 1e-4 : 1),
      max - min,
    );
    lo = Math.min(Math.max(lo, min), max - span);
    this.window = [lo, lo + span];
    this.cursor = null;
    this.tip.hidden = true;
    this.readout.textContent = this.prompt;
    return this.draw();
  }

  zoom(factor) {
    const at = this.cursor && this.columns[this.cursor.column],
      [lo, hi] = this.window;
    const middle = at ? (at.x0 + at.x1) / 2 : (lo + hi) / 2,
      half = ((hi - lo) / 2) * factor;
    return this.show(middle - half, middle + half);
  }

  pan(share) {
    const step = (this.window[1] - this.window[0]) * share;
    return this.show(this.window[0] + step, this.window[1] + step);
  }

  async toggle(mode) {
    if (mode === this.mode) return;
    const [a, b] = this.unitsIn(...this.window);
    this.mode = mode;
    if (b > a) this.window = [this.from(a), this.to(b - 1)];
    this.cursor = null;
    await this.draw();
  }

  tell(words) {
    this.readout.textContent = words.join(" · ");
  }

  move(columns, ranks) {
    if (!this.columns.length) return;
    const at = this.cursor || { column: columns < 0 ? this.columns.length : -1, rank: 0 };
    const step = this.cursor ? columns : columns || 1;
    this.cursor = {
      column: Math.min(Math.max(at.column + step, 0), this.columns.length - 1),
      rank: Math.min(Math.max(at.rank + ranks, 0), this.cells.ranks - 1),
    };
    this.tell(this.wordsAt(this.cursor.column, this.cursor.rank));
    this.mark();
  }

  // ---- pointer ---------------------------------------------------------------------------------
  place(event) {
    const box = this.gd.getBoundingClientRect(),
      [lo, hi] = this.window;
    const px = event.clientX - box.left - this.margin.l,
      py = event.clientY - box.top - this.margin.t;
    const high = this.gd.clientHeight - this.margin.t - this.margin.b;
    const inside = px >= 0 && px <= this.width() && py >= 0 && py < high;
    return {
      x: lo + (px / this.width()) * (hi - lo),
      rank: Math.floor((py / high) * this.cells.ranks),
      inside,
    };
  }

  columnAt(x) {
    const k = search(this.columns.length, (q) => this.columns[q].x1 > x);
    return k < this.columns.length && this.columns[k].x0 <= x ? k : -1;
  }

  hover(event) {
    const { x, rank, inside } = this.place(event),
      k = inside ? this.columnAt(x) : -1;
    this.tip.hidden = k < 0;
    if (k < 0) return;
    const words = this.wordsAt(k, rank),
      box = this.box.getBoundingClientRect();
    this.tip.replaceChildren(...words.map((text) => element("div", { text })));
    this.tell(words);
    const left = Math.min(event.clientX - box.left + 14, box.width - this.tip.offsetWidth - 8);
    this.tip.style.left = `${Math.max(left, 8)}px`;
    this.tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  // A click keeps the readout at its cell.
  pick(event) {
    const { x, rank, inside } = this.place(event),
      k = inside ? this.columnAt(x) : -1;
    if (k < 0) return;
    this.cursor = { column: k, rank };
    this.tell(this.wordsAt(k, rank));
    this.mark();
  }
}
