"use strict";
// Requests: found by id, shown as the stages of their way, marked on the timeline with the passes
// that prefilled them and the ranks that idled beside (see pdtrace/figures/request_paths.py).

const REQUEST_TICK = 1e-5;
const MOST_MATCHES = 12;
const OUTSIDE = ["sending", "returning"]; // by the client's clock, not of the engine
const STAGE_WORDS = {
  sending: "on the way to the server", tokenize: "tokenized", dispatch: "handed to its rank", pickup: "waited to be picked up",
  bootstrap: "bootstrap", waiting: "in the waiting queue", forward: "forward", transfer: "KV transfer", answer: "answer sent",
  returning: "on the way to the client", unknown: "not known",
};
const HOLD_WORDS = { delayer: "held by the delayer", forward: "behind a running forward", loop: "scheduler loop" };
const HOLD_ROLES = { delayer: "delayed", forward: "idle", loop: "unknown" };

class Requests {
  static async load(levels, cells) {
    const arrays = {};
    for (const name of ["rank", "status", "begin", "prompt", "ttft", "num", "kind", "took", "at"]) {
      arrays[name] = await unpack(levels[name]);
      await pause();
    }
    const rids = JSON.parse(await inflateText(levels.rids.b));
    return new Requests({ ...levels, ...arrays, rids }, cells);
  }

  constructor(data, cells) {
    Object.assign(this, data);
    this.cells = cells;
    const n = this.carried;
    this.offset = new Uint32Array(n + 1);
    this.last = new Int32Array(n).fill(-1); // unit of the last forward
    this.passes = new Map(); // unit × rank → requests
    this.forwardUnit = new Int32Array(this.kind.length).fill(-1);
    for (let q = 0, row = 0, f = 0; q < n; q++) {
      for (let k = 0; k < this.num[q]; k++, row++) {
        if (this.kinds[this.kind[row]].stage !== "forward") continue;
        const at = this.at[f++] - 1;
        if (at < 0) continue;
        const unit = Math.floor(at / cells.size);
        this.forwardUnit[row] = this.last[q] = unit;
        const key = unit * cells.ranks + this.rank[q] - 1, there = this.passes.get(key);
        if (!there) this.passes.set(key, [q]);
        else if (there[there.length - 1] !== q) there.push(q);
      }
      this.offset[q + 1] = row;
    }
  }

  of(unit, rank) { return this.passes.get(unit * this.cells.ranks + rank) || []; }

  // Its stages: kind, begin and end in seconds, unit of a forward.
  stagesOf(q) {
    const out = [];
    let at = this.begin[q];
    for (let row = this.offset[q]; row < this.offset[q + 1]; row++) {
      const from = at;
      at += this.took[row];
      out.push({ ...this.kinds[this.kind[row]], from: from * REQUEST_TICK, to: at * REQUEST_TICK, unit: this.forwardUnit[row] });
    }
    return out;
  }

  // A few to begin with: those that were prefilled, or any.
  slowest() {
    const all = [...Array(this.carried).keys()], prefilled = all.filter((q) => this.last[q] >= 0);
    return (prefilled.length ? prefilled : all).slice(0, 3);
  }

  totalOf(q) { const s = this.stagesOf(q); return s.length ? s[s.length - 1].to - s[0].from : 0; }

  // Those whose id holds the text, whole ids first; slowest first among equals.
  find(text) {
    const exact = [], part = [];
    for (let q = 0; q < this.carried; q++) {
      if (this.rids[q] === text) exact.push(q);
      else if (this.rids[q].includes(text)) part.push(q);
    }
    return [exact, part];
  }

  placedIn(a, b) {
    const out = [];
    for (let q = 0; q < this.carried; q++) if (this.last[q] >= a && this.last[q] < b) out.push(q);
    return out;
  }

  measure(a, b, out) {
    const placed = this.placedIn(a, b), mine = placed.filter((q) => this.ttft[q] > 0);
    out.num_requests = [placed.length, "prefilled in it"];
    if (!mine.length) return;
    const ticks = Float64Array.from(mine, (q) => this.ttft[q] - 1);
    const [p50, p90, p99] = quantilesOf(ticks, [0.5, 0.9, 0.99]);
    const mean = ticks.reduce((x, y) => x + y, 0) / ticks.length;
    for (const [name, value] of Object.entries({ p50, p90, p99, mean })) out[`ttft_${name}_s`] = [value * REQUEST_TICK];
  }

  // The sums of pdtrace/joined/breakdown.py over the finished requests prefilled in a stretch.
  breakDown(a, b) {
    const finished = this.statuses.indexOf("finished"), begins = new Map(), told = [];
    for (const q of this.placedIn(a, b)) {
      if (this.status[q] !== finished) continue;
      const stages = this.stagesOf(q).filter((s) => !OUTSIDE.includes(s.stage));
      if (!stages.length || stages.some((s) => s.stage === "unknown")) continue;
      const begin = stages[0].stage;
      begins.set(begin, (begins.get(begin) || 0) + 1);
      told.push({ q, begin, stages, total: stages[stages.length - 1].to - stages[0].from });
    }
    if (!told.length) return null;
    const usual = [...begins].sort((x, y) => y[1] - x[1])[0][0];
    const whole = told.filter((t) => t.begin === usual).sort((x, y) => x.total - y.total || x.q - y.q), n = whole.length;
    const middle = whole[Math.ceil(n * 0.5) - 1], late = whole[Math.ceil(n * 0.99) - 1], sums = new Map();
    for (const t of whole) {
      for (const s of t.stages) {
        const key = `${s.stage} ${s.held_by}`, ms = 1e3 * (s.to - s.from);
        const row = sums.get(key) || { stage: s.stage, held: s.held_by, part: partOf(s), ms: [0, 0, 0] };
        row.ms[0] += ms / n;
        if (t === middle) row.ms[1] += ms;
        if (t === late) row.ms[2] += ms;
        sums.set(key, row);
      }
    }
    const order = Object.keys(STAGE_WORDS);
    return { n, rows: [...sums.values()].sort((x, y) => order.indexOf(x.stage) - order.indexOf(y.stage)) };
  }
}

// The part of figures/ttft_breakdown.py that a stage belongs to.
function partOf({ stage, held_by: held }) {
  if ((stage === "pickup" || stage === "waiting") && held) return HOLD_WORDS[held];
  return { forward: "forward", transfer: "KV transfer" }[stage] || "tokenize, dispatch, bootstrap, answer";
}

// The box that finds a request and shows its way, in the tile of the timeline.
class RequestPath {
  constructor(timeline, stretch) {
    this.timeline = timeline;
    this.stretch = stretch;
    this.requests = timeline.requests;
    this.shown = null;
    timeline.marks.push((t) => this.shapes(t));
    this.build();
  }

  build() {
    const r = this.requests;
    this.input = element("input", { type: "search", "aria-label": "Request id", placeholder: "request id, or a part of it", autocomplete: "off", spellcheck: "false", disabled: !r });
    this.form = element("form", { class: "find", role: "search" }, element("span", { text: "Request" }), this.input,
      element("button", { type: "submit", text: "Find", disabled: !r }));
    this.matches = element("div", { class: "matches", role: "status", "aria-live": "polite" });
    this.panel = element("div", { class: "path", hidden: true, role: "region", "aria-label": "Way of the request", tabindex: "-1" });
    const which = !r ? "This input names no requests: spans or request time stats would."
      : r.carried === r.total ? `All ${count(r.total)} requests can be found; the slowest:`
        : `The page carries the slowest ${count(r.carried)} of ${count(r.total)} requests; the slowest:`;
    this.say(which, r ? r.slowest() : []);
    this.form.addEventListener("submit", (e) => { e.preventDefault(); this.search(this.input.value.trim()); });
    const pick = this.timeline.box.querySelector(".pick");
    pick.after(element("div", { class: "finder" }, this.form, this.matches), this.panel);
  }

  say(words, found) {
    const buttons = found.map((q) => element("button", { type: "button", class: "rid", text: this.requests.rids[q],
      title: seconds(this.requests.totalOf(q)), onclick: () => this.show(q) }));
    this.matches.replaceChildren(element("span", { text: words }), ...buttons);
  }

  search(text) {
    if (!text) return this.say("Type an id. The slowest:", this.requests.slowest());
    const [exact, part] = this.requests.find(text), all = [...exact, ...part];
    if (!all.length) {
      const r = this.requests, rest = r.carried < r.total ? ` among the ${count(r.carried)} slowest of ${count(r.total)} that the page carries` : "";
      return this.say(`No request id holds “${visible(text)}”${rest}.`, []);
    }
    if (exact.length === 1 || all.length === 1) {
      this.say(part.length && exact.length ? `${count(part.length)} other ids hold it.` : "", []);
      return this.show(all[0]);
    }
    const shown = all.slice(0, MOST_MATCHES), slow = all.length > shown.length ? `; the ${shown.length} slowest:` : ":";
    return this.say(`${count(all.length)} requests match${slow}`, shown);
  }

  async show(q) {
    this.shown = q;
    this.stages = this.requests.stagesOf(q);
    this.fill(q);
    const t = this.timeline, from = this.stages[0].from, to = this.stages[this.stages.length - 1].to, edge = 0.08 * (to - from);
    const units = this.stages.filter((s) => s.unit >= 0).map((s) => s.unit);
    if (t.mode === "time") await t.lead(t.show(from - edge, to + edge));
    else if (units.length) await t.lead(t.show(t.from(Math.max(units[0] - 2, 0)), t.to(Math.min(units[units.length - 1] + 2, t.cells.blocks - 1))));
    this.panel.focus({ preventScroll: true });
  }

  async hide() {
    this.shown = null;
    this.panel.hidden = true;
    await this.timeline.mark();
    this.input.focus();
  }

  fill(q) {
    const r = this.requests, rank = r.rank[q] - 1, from = this.stages[0].from, whole = this.stages[this.stages.length - 1].to - from;
    const facts = [r.statuses[r.status[q]], rank < 0 ? "rank not known" : `rank ${rank}`, r.prompt[q] ? `${count(r.prompt[q] - 1)} prompt tokens` : "",
      `${seconds(whole)} from ${this.timeline.cells.clock(from)} UTC`].filter(Boolean).join(" · ");
    const head = element("div", { class: "head" }, element("h3", { text: `Request ${r.rids[q]}` }), element("span", { class: "note", text: facts }),
      element("button", { type: "button", text: "Close", onclick: () => this.hide() }));
    const columns = ["stage", "held", "from (+s)", "took", "", "prefilled in", "beside it"];
    const rows = this.stages.map((s) => this.rowOf(s, rank, from, whole));
    this.panel.replaceChildren(head, element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Stages of the request" },
      element("table", {}, element("thead", {}, element("tr", {}, ...columns.map((text) => element("th", { scope: "col", text })))), element("tbody", {}, ...rows))));
    this.panel.hidden = false;
  }

  rowOf(s, rank, from, whole) {
    const c = this.timeline.cells, took = s.to - s.from;
    const bar = element("span", { class: `way ${s.held_by ? HOLD_ROLES[s.held_by] : s.stage === "forward" ? "prefill" : "other"}` });
    bar.style.left = `${100 * (s.from - from) / (whole || 1)}%`;
    bar.style.width = `max(2px, ${100 * took / (whole || 1)}%)`;
    const cell = (text) => element("td", { text });
    const where = element("td"), name = (STAGE_WORDS[s.stage] || s.stage) + (s.is_estimated ? " (estimated)" : "");
    if (s.unit >= 0) {
      where.append(element("button", { type: "button", text: this.unitWords(s.unit), onclick: () => this.goTo(s.unit, rank) }));
    }
    const stage = cell(name);
    if (s.note) stage.append(element("small", { text: s.note }));
    return element("tr", {}, stage, cell(s.held_by ? HOLD_WORDS[s.held_by] : "–"), cell(decimals(s.from, 3, 3)), cell(seconds(took)),
      element("td", { class: "lane" }, bar), where, cell(s.unit >= 0 ? this.besideWords(s.unit, rank) : ""));
  }

  unitWords(unit) {
    const c = this.timeline.cells;
    return c.size === 1 ? `iteration ${count(c.numberOf(unit))}` : `iterations ${count(c.numberOf(unit))}–${count(c.lastNumberOf(unit))}`;
  }

  // Ranks that ran nothing while it was prefilled.
  besideWords(unit, rank) {
    const c = this.timeline.cells;
    if (c.size > 1) return `the page keeps blocks of ${count(c.size)} iterations`;
    const found = new Map();
    let working = 0;
    for (let r = 0; r < c.ranks; r++) {
      const { role, cause } = c.state(unit, r);
      if (role === PREFILL || role === DECODE) { working += r !== rank; continue; }
      const words = ROLES[role] + (cause && cause !== "unknown" && role !== DELAYED ? `, ${cause}` : "");
      found.set(words, [...(found.get(words) || []), r]);
    }
    const idle = [...found].map(([words, ranks]) => `${ranks.length === 1 ? "rank" : "ranks"} ${ranks.join(", ")} ${words}`);
    if (working) idle.push(`${working} other ${working === 1 ? "rank" : "ranks"} working`);
    return idle.join("; ");
  }

  async goTo(unit, rank) {
    const t = this.timeline, lo = t.from(unit), hi = t.to(unit), edge = 1.5 * Math.max(hi - lo, 1e-4);
    await t.lead(t.show(lo - edge, hi + edge));
    const at = t.columns.findIndex((column) => !column.gap && column.units[0] <= unit && unit < column.units[1]);
    if (at < 0) return;
    t.cursor = { column: at, rank: Math.max(rank, 0) };
    t.tell(t.wordsAt(at, t.cursor.rank));
    await t.mark();
    t.gd.focus();
  }

  shapes(t) {
    if (this.shown === null) return [];
    const rank = this.requests.rank[this.shown] - 1, c = t.cells, out = [], ink = page.palette.ink[0];
    if (rank < 0) return out;
    for (const s of this.stages) {
      if (s.unit >= 0) {
        out.push({ type: "rect", x0: t.from(s.unit), x1: t.to(s.unit), y0: rank + 0.02, y1: rank + 0.98, line: { color: ink, width: 3 } });
        for (let r = 0; r < c.ranks && c.size === 1; r++) {
          const { role } = c.state(s.unit, r);
          if (role === IDLE || role === DELAYED) out.push({ type: "rect", x0: t.from(s.unit), x1: t.to(s.unit), y0: r + 0.06, y1: r + 0.94, line: { color: ink, width: 1.5, dash: "dot" } });
        }
      } else if (t.mode === "time") {
        const held = s.held_by ? page.palette[HOLD_ROLES[s.held_by]][0] : page.palette.ink[0];
        out.push({ type: "line", x0: s.from, x1: s.to, y0: rank + 0.06, y1: rank + 0.06, line: { color: held, width: 5 } });
      }
    }
    if (t.mode === "time") {
      for (const x of [this.stages[0].from, this.stages[this.stages.length - 1].to]) {
        out.push({ type: "line", x0: x, x1: x, y0: 0, y1: c.ranks, line: { color: ink, width: 1, dash: "dot" } });
      }
    }
    return out;
  }
}
