"use strict";
// Draws the tiles from the data block, follows the colour scheme, and refines the timeline on zoom.
(async () => {
  await loadPlotly();
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, doubleClick: false, responsive: true };
  const ROLES = ["prefill", "decode", "idle", "delayed", "unknown"];
  const [PREFILL, DECODE, IDLE, DELAYED, UNKNOWN] = [0, 1, 2, 3, 4];
  // Where a cell is filled, from its top (0) to its bottom (1): what tells roles apart beside colour.
  const GLYPH = {
    0: [[0, 1]], 1: [[0, 0.5]], 2: [[0.68, 1]], 3: [0, 1, 2, 3].map((k) => [k / 3.5, (k + 0.5) / 3.5]), 4: [[0, 0.1], [0.9, 1]],
  };
  const colour = (name) => page.palette[name][dark.matches ? 1 : 0];

  // ---- colours -----------------------------------------------------------------------------------
  const toDark = new Map(Object.values(page.palette));
  const recolour = (node) => {
    if (typeof node === "string") return (dark.matches && toDark.get(node)) || node;
    if (Array.isArray(node)) return node.map(recolour);
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, recolour(v)]));
    }
    return node;
  };

  // ---- words ---------------------------------------------------------------------------------------
  const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const count = (n) => grouped.format(n);
  const seconds = (s) => s < 1 ? `${(s * 1e3).toPrecision(3)} ms` : `${s.toFixed(s < 100 ? 2 : 1)} s`;
  const percent = (x) => {
    if (x > 0 && x < 0.001) return "< 0.1 %";
    if (x < 1 && x > 0.999) return "> 99.9 %";
    return `${(100 * x).toFixed(1)} %`;
  };
  const short = (n) => n < 1000 ? `${n}` : n < 1e6 ? `${(n / 1e3).toPrecision(2)}k` : `${(n / 1e6).toPrecision(2)}M`;
  const escape = (s) => s.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

  // ---- timeline ------------------------------------------------------------------------------------
  class Timeline {
    constructor(tile, levels, arrays) {
      Object.assign(this, levels, arrays);
      this.tile = tile;
      this.gd = document.getElementById(tile.id);
      this.box = this.gd.closest(".tile");
      this.readout = this.box.querySelector(".readout");
      this.t1 = Float64Array.from(this.t1);
      if (this.busy) this.busy = Float64Array.from(this.busy);
      for (let i = 0, n = this.blocks; i < n; i++) { this.t0[i] /= 1e5; this.t1[i] = this.t0[i] + this.t1[i] / 1e5; }
      if (this.busy) this.busy = this.busy.map((v) => v / 1e5);
      this.mode = levels.x;
      this.margin = tile.spec.layout.margin.l + tile.spec.layout.margin.r;
      this.cursor = null;
      this.present = new Set();
      this.window = this.full();
    }

    full() { return this.mode === "time" ? [0, Math.max(this.t1[this.blocks - 1], 1e-3)] : [0, this.iterations]; }
    from(i) { return this.mode === "time" ? this.t0[i] : i * this.size; }
    to(i) { return this.mode === "time" ? this.t1[i] : Math.min((i + 1) * this.size, this.iterations); }
    sizeOf(i) { return Math.min(this.size, this.iterations - i * this.size); }

    visible() {
      const [lo, hi] = this.window;
      let a = 0, b = this.blocks;
      while (a < b) { const m = (a + b) >> 1; if (this.to(m) > lo) b = m; else a = m + 1; }
      const first = a;
      b = this.blocks;
      while (a < b) { const m = (a + b) >> 1; if (this.from(m) < hi) a = m + 1; else b = m; }
      return [first, Math.max(a, first)];
    }

    // Share of block i that rank r spent in each role, of the block's whole extent on the axis.
    shares(i, r, out) {
      out.fill(0);
      const at = r * this.blocks + i;
      if (this.size === 1) { out[this.role[at]] = 1; return; }
      const time = this.mode === "time";
      const span = this.t1[i] - this.t0[i];
      const busy = time ? (span > 0 ? Math.min(this.busy[i] / span, 1) : 0) : 1;
      let rest = 1;
      for (const c of [PREFILL, DECODE, DELAYED, UNKNOWN]) {
        const source = time ? this["time" + c] : this["count" + c];
        if (!source) continue;
        const share = time ? source[at] / 250 : source[at] / this.sizeOf(i);
        out[c] = share * busy;
        rest -= share;
      }
      out[IDLE] = Math.max(rest, 0) * busy;
    }

    source_of(i, r) {
      const at = r * this.blocks + i;
      if (!this.has_line[at]) return "";
      return `${this.files[this.source ? this.source[at] : 0]}:${this.line[at]}`;
    }

    clock(t) { return new Date(this.origin + t * 1e3).toISOString().slice(11, 23); }

    describeCell(i, r) {
      const at = r * this.blocks + i, role = this.role[at];
      const number = this.numberOf(i);
      const label = this.forward ? ` (engine's [${number + this.forward[i]}])` : "";
      let line = this.source_of(i, r);
      if (!line) {
        for (let q = 0; q < this.ranks && !line; q++) line = this.source_of(i, q);
        line = line ? `no line of this rank; iteration at ${line}` : "no line";
      }
      const what = ROLES[role] + (role === PREFILL || role === DECODE ? ` · ${count(this.tokens[at])} tokens` : "");
      const delayed = this.delays[i] ? `${count(this.delays[i])} delay passes before it` : "";
      return [
        `iteration ${count(number)}${label} · rank ${r}`,
        `${what} · ${role === UNKNOWN ? "nothing known" : this.observed[at] ? "observed" : "inferred"}`,
        `${seconds(this.t1[i] - this.t0[i])} from ${this.clock(this.t0[i])} (+${this.t0[i].toFixed(3)} s)`,
        `confidence ${(this.confidence[i] / 100).toFixed(2)}`, delayed, line,
      ].filter(Boolean);
    }

    numberOf(i) { return i * this.size + (this.number ? this.number[i] : 0); }

    describeColumn(a, b, r, share) {
      let tokens = 0, delays = 0, first = 0, last = 0, confidence = 100;
      for (let i = a; i < b; i++) {
        const at = r * this.blocks + i;
        tokens += this.tokens[at];
        delays += this.delays[i];
        confidence = Math.min(confidence, this.confidence[i]);
        if (this.has_line[at]) { first = first || this.source_of(i, r); last = this.source_of(i, r); }
      }
      const end = this.numberOf(b - 1) + this.sizeOf(b - 1) - 1;
      const words = ROLES.map((name, c) => share[c] > 0 ? `${name} ${percent(share[c])}` : "").filter(Boolean);
      const of = this.mode === "time" ? "of the time" : "of the passes";
      return [
        `iterations ${count(this.numberOf(a))}–${count(end)} · rank ${r}`,
        words.length ? `${words.join(" · ")} ${of}` : "no pass running",
        `${count(tokens)} tokens · ${seconds(this.t1[b - 1] - this.t0[a])} from ${this.clock(this.t0[a])} (+${this.t0[a].toFixed(2)} s)`,
        `confidence ≥ ${(confidence / 100).toFixed(2)}`,
        delays ? `${count(delays)} delay passes` : "",
        first ? (first === last ? first : `${first} … ${last.slice(last.lastIndexOf(":") + 1)}`) : "no line of this rank",
      ].filter(Boolean);
    }

    // Columns of the window: x edges, and per rank a list of sub-rows' roles with the words for it.
    build() {
      const [a, b] = this.visible();
      const limit = Math.max(120, Math.min(600, Math.floor(this.gd.clientWidth / 2)));
      this.exact = this.size === 1 && b - a <= limit;
      return this.exact ? this.buildCells(a, b) : this.buildColumns(a, b, limit);
    }

    buildCells(a, b) {
      const columns = [];
      for (let i = a; i < b; i++) {
        const [x0, x1] = [this.from(i), this.to(i)];
        const before = i > 0 ? this.to(i - 1) : x0;
        if (this.delays[i] && x0 > before) {
          const words = [`delayed · all ranks`, `${count(this.delays[i])} delay passes in ${seconds(x0 - before)} before iteration ${count(this.numberOf(i))}`,
            this.source_of(i, 0) ? `next line ${this.source_of(i, 0)}` : ""].filter(Boolean);
          columns.push({ x0: before, x1: x0, gap: true, cells: Array.from({ length: this.ranks }, () => ({ role: DELAYED, words })) });
        }
        if (x1 <= x0) continue;
        columns.push({ x0, x1, cells: Array.from({ length: this.ranks }, (_, r) => {
          const role = this.role[r * this.blocks + i];
          return { role, words: this.describeCell(i, r), tokens: this.tokens[r * this.blocks + i] };
        }) });
      }
      this.status = `${count(b - a)} iterations, each its own cell`;
      return columns;
    }

    buildColumns(a, b, limit) {
      const [lo, hi] = this.window;
      // In blocks a column narrower than a block would only repeat it.
      const n = Math.max(1, Math.min(limit, this.size > 1 || this.mode === "iteration" ? b - a : limit));
      const w = (hi - lo) / n, ranks = this.ranks;
      const sums = new Float64Array(n * ranks * 5), share = new Float64Array(5);
      const firsts = new Int32Array(n).fill(-1), lasts = new Int32Array(n);
      const spread = (x0, x1, add) => {
        const c0 = Math.max(0, Math.floor((x0 - lo) / w)), c1 = Math.min(n - 1, Math.floor((x1 - lo) / w));
        for (let c = c0; c <= c1; c++) {
          const part = Math.min(x1, lo + (c + 1) * w) - Math.max(x0, lo + c * w);
          if (part > 0) add(c, part / w);
        }
      };
      for (let i = a; i < b; i++) {
        const [x0, x1] = [this.from(i), this.to(i)];
        spread(x0, x1, (c) => { if (firsts[c] < 0) firsts[c] = i; lasts[c] = i + 1; });
        for (let r = 0; r < ranks; r++) {
          this.shares(i, r, share);
          spread(x0, x1, (c, part) => { for (let k = 0; k < 5; k++) sums[(c * ranks + r) * 5 + k] += part * share[k]; });
        }
        if (this.delays[i] && this.size === 1 && this.mode === "time" && i > 0) {
          spread(this.to(i - 1), x0, (c, part) => { for (let r = 0; r < ranks; r++) sums[(c * ranks + r) * 5 + DELAYED] += part; });
        }
      }
      const columns = [];
      for (let c = 0; c < n; c++) {
        if (firsts[c] < 0) continue;
        columns.push({ x0: lo + c * w, x1: lo + (c + 1) * w, cells: Array.from({ length: ranks }, (_, r) => {
          const mine = sums.subarray((c * ranks + r) * 5, (c * ranks + r) * 5 + 5);
          return { share: Array.from(mine), words: this.describeColumn(firsts[c], lasts[c], r, mine) };
        }) });
      }
      const each = this.size > 1 && n === b - a ? `${count(this.size)} iterations` : this.mode === "time" ? seconds(w) : `${count(w)} iterations`;
      this.status = `${count((b - a) * this.size)} iterations, one column = ${each}; zoom in for more`;
      return columns;
    }

    // The window as an image: a browser paints a picture faster than ten thousand marks.
    paint(columns) {
      const canvas = document.createElement("canvas"), ratio = Math.min(devicePixelRatio || 1, 2);
      const [lo, hi] = this.window, row = Math.round(this.rowHeight * ratio);
      canvas.width = Math.max(1, Math.round((this.gd.clientWidth - this.margin) * ratio));
      canvas.height = row * this.ranks;
      const pen = canvas.getContext("2d"), scale = canvas.width / (hi - lo);
      const pad = Math.max(1, Math.round(row * 0.08)), tall = row - 2 * pad;
      const names = ROLES.map(colour), ground = colour("cell");
      for (const column of columns) {
        const x0 = (column.x0 - lo) * scale, whole = (column.x1 - column.x0) * scale;
        // A hair between cells, once they are wide enough to spare it.
        const wide = this.exact ? Math.max(whole - (whole > 5 ? ratio : 0), 0.4) : whole + 0.5;
        column.cells.forEach((cell, r) => {
          const top = r * row + pad;
          if (!column.gap) { pen.fillStyle = ground; pen.fillRect(x0, top, wide, tall); }
          if (!cell.share) {
            pen.fillStyle = names[cell.role];
            for (const [a, b] of GLYPH[cell.role]) pen.fillRect(x0, top + a * tall, wide, (b - a) * tall);
            return;
          }
          let at = top + tall;
          for (const role of [PREFILL, DECODE, IDLE, DELAYED, UNKNOWN]) {
            // Whatever is there keeps a pixel: rare is not never.
            const high = cell.share[role] > 0 ? Math.max(cell.share[role] * tall, ratio) : 0;
            pen.fillStyle = names[role];
            pen.fillRect(x0, Math.max(at - high, top), wide, Math.min(high, at - top));
            at -= high;
          }
        });
      }
      return { source: canvas.toDataURL(), xref: "x", yref: "y", x: lo, sizex: hi - lo, y: 0, sizey: this.ranks, sizing: "stretch", layer: "below", yanchor: "top" };
    }

    traces() {
      const columns = this.columns = this.build();
      this.image = this.paint(columns);
      const x = [], slots = [];
      for (const column of columns) {
        const last = x.length ? x[x.length - 1] : null;
        if (last !== null && column.x0 - last > 1e-9) { slots.push(null); x.push(column.x0); }
        else if (last === null) x.push(column.x0);
        slots.push(column);
        x.push(Math.max(column.x1, x[x.length - 1] + 1e-9));
      }
      const z = [], text = [];
      for (let r = 0; r < this.ranks; r++) {
        z.push(slots.map((s) => s ? 0 : null));
        text.push(slots.map((s) => s ? s.cells[r].words.map(escape).join("<br>") : ""));
      }
      const y = Array.from({ length: this.ranks + 1 }, (_, r) => r);
      const raster = Object.assign({}, this.tile.spec.data[0], { x, y, z, text });
      const labels = Object.assign({}, recolour(this.tile.spec.data[1]), this.labels(columns));
      return [raster, labels];
    }

    labels(columns) {
      const out = { x: [], y: [], text: [], textfont: { size: 11, color: [] } };
      if (!this.exact) return out;
      const scale = (this.gd.clientWidth - this.margin) / (this.window[1] - this.window[0]);
      for (const column of columns) {
        const room = (Math.min(column.x1, this.window[1]) - Math.max(column.x0, this.window[0])) * scale;
        column.cells.forEach((cell, r) => {
          const word = cell.role === PREFILL || cell.role === DECODE ? short(cell.tokens) : ROLES[cell.role];
          if (room < 8 + 6.5 * word.length) return;
          out.x.push((Math.max(column.x0, this.window[0]) + Math.min(column.x1, this.window[1])) / 2);
          out.y.push(r + (cell.role === IDLE ? 0.4 : 0.5));
          out.text.push(word);
          out.textfont.color.push(cell.role === PREFILL ? colour("paper") : colour("ink"));
        });
      }
      return out;
    }

    layout() {
      const layout = recolour(this.tile.spec.layout);
      layout.xaxis.range = this.window.slice();
      layout.xaxis.title.text = this.mode === "time"
        ? `seconds since ${new Date(this.origin).toISOString().replace("T", " ").slice(0, 23)} UTC` : "iteration";
      layout.xaxis.tickformat = this.mode === "time" ? "" : ",d";
      layout.images = [this.image];
      layout.shapes = [];
      const at = this.cursor && this.columns && this.columns[this.cursor.column];
      if (at) {
        layout.shapes.push({ type: "rect", x0: at.x0, x1: at.x1, y0: this.cursor.rank + 0.03, y1: this.cursor.rank + 0.97, line: { color: colour("ink"), width: 2 } });
      }
      return layout;
    }

    async draw(first = false) {
      const began = performance.now();
      const traces = this.traces();
      const layout = this.layout();
      this.gd.dataset.buildMs = (performance.now() - began).toFixed(1);
      if (first) await Plotly.newPlot(this.gd, traces, layout, config);
      else await Plotly.react(this.gd, traces, layout, config);
      this.box.querySelector(".status").textContent = this.status;
      this.gd.dataset.exact = this.exact;
      this.gd.dataset.drawMs = (performance.now() - began).toFixed(1);
    }

    show(lo, hi) {
      const [min, max] = this.full();
      const span = Math.min(Math.max(hi - lo, (max - min) * 1e-9, this.mode === "time" ? 1e-4 : 1), max - min);
      lo = Math.min(Math.max(lo, min), max - span);
      this.window = [lo, lo + span];
      this.cursor = null;
      return this.draw();
    }

    zoom(factor) {
      const [lo, hi] = this.window, middle = (lo + hi) / 2, half = (hi - lo) / 2 * factor;
      return this.show(middle - half, middle + half);
    }

    pan(share) { const step = (this.window[1] - this.window[0]) * share; return this.show(this.window[0] + step, this.window[1] + step); }

    async toggle(mode) {
      if (mode === this.mode) return;
      const [a, b] = this.visible();
      this.mode = mode;
      if (b > a) this.window = [this.from(a), this.to(b - 1)];
      this.cursor = null;
      await this.draw();
    }

    tell(words) { this.readout.textContent = words.join(" · "); }

    move(columns, ranks) {
      if (!this.columns.length) return;
      const at = this.cursor || { column: columns < 0 ? this.columns.length : -1, rank: 0 };
      const step = this.cursor ? columns : columns || 1;
      this.cursor = {
        column: Math.min(Math.max(at.column + step, 0), this.columns.length - 1),
        rank: Math.min(Math.max(at.rank + ranks, 0), this.ranks - 1),
      };
      this.tell(this.columns[this.cursor.column].cells[this.cursor.rank].words);
      Plotly.relayout(this.gd, { shapes: this.layout().shapes });
    }
  }

  // ---- page ----------------------------------------------------------------------------------------
  const plain = page.tiles.filter((t) => !t.levels);
  const timelines = [];
  const drawPlain = (t) => Plotly.react(t.id, recolour(t.spec.data), recolour(t.spec.layout), config);
  const rest = () => new Promise((resolve) => setTimeout(resolve, 0));

  // Time axes follow each other: the timeline leads, or whichever was dragged.
  let leading = false;
  async function follow(range, except) {
    if (leading) return;
    leading = true;
    for (const t of plain) {
      if (!t.timeAxis || t.id === except || !t.spec.data.length) continue;
      await rest();
      await Plotly.relayout(t.id, { "xaxis.range": range ? range.slice() : t.spec.layout.xaxis.range.slice() });
    }
    leading = false;
  }
  const lead = async (timeline, done) => { await done; if (timeline.mode === "time") await follow(timeline.window, timeline.tile.id); };

  for (const tile of page.tiles.filter((t) => t.levels)) {
    const names = Object.keys(tile.levels).filter((k) => tile.levels[k] && tile.levels[k].b !== undefined);
    const arrays = {};
    await Promise.all(names.map(async (k) => { arrays[k] = await unpack(tile.levels[k]); }));
    const timeline = new Timeline(tile, tile.levels, arrays);
    await timeline.draw(true);
    timelines.push(timeline);
    const { gd, box } = timeline;
    gd.on("plotly_relayout", (e) => {
      const range = e["xaxis.range"] || [e["xaxis.range[0]"], e["xaxis.range[1]"]];
      if (Number.isFinite(range[0]) && Number.isFinite(range[1])) lead(timeline, timeline.show(range[0], range[1]));
    });
    const all = () => lead(timeline, timeline.show(...timeline.full()));
    gd.on("plotly_doubleclick", all);
    gd.on("plotly_hover", (e) => { const t = e.points[0] && e.points[0].text; if (t) timeline.tell(t.split("<br>").map((s) => s.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&"))); });
    const actions = {
      in: () => lead(timeline, timeline.zoom(0.5)), out: () => lead(timeline, timeline.zoom(2)), all,
      time: () => timeline.toggle("time"), iteration: () => timeline.toggle("iteration"),
    };
    const press = () => box.querySelectorAll("[aria-pressed]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.do === timeline.mode));
    press();
    box.querySelectorAll("[data-do]").forEach((b) => b.addEventListener("click", async () => { await actions[b.dataset.do](); press(); }));
    const keys = {
      ArrowLeft: () => timeline.move(-1, 0), ArrowRight: () => timeline.move(1, 0),
      ArrowUp: () => timeline.move(0, -1), ArrowDown: () => timeline.move(0, 1),
      "+": actions.in, "=": actions.in, "-": actions.out, 0: all, Home: all,
      PageUp: () => lead(timeline, timeline.pan(-0.5)), PageDown: () => lead(timeline, timeline.pan(0.5)),
      Enter: () => { const c = timeline.cursor && timeline.columns[timeline.cursor.column]; if (c) lead(timeline, timeline.show(c.x0, c.x1)); },
    };
    gd.addEventListener("keydown", (e) => {
      if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      keys[e.key]();
    });
  }
  for (const tile of plain) {
    await rest();
    await drawPlain(tile);
    const gd = document.getElementById(tile.id);
    if (!tile.timeAxis) continue;
    const show = async (range) => {
      for (const t of timelines) if (t.mode === "time") await t.show(...(range || t.full()));
      await follow(range, range ? tile.id : null);
    };
    gd.on("plotly_relayout", (e) => {
      if (!leading && Number.isFinite(e["xaxis.range[0]"])) show([e["xaxis.range[0]"], e["xaxis.range[1]"]]);
    });
    gd.on("plotly_doubleclick", () => show(null));
  }
  dark.addEventListener("change", async () => {
    for (const t of timelines) await t.draw();
    for (const t of plain) await drawPlain(t);
  });
  document.documentElement.dataset.ready = performance.now().toFixed(0);
})();
