"use strict";
// The requests that a page carries (see pdtrace/figures/request_paths.py): found by id, placed on
// the passes that prefilled them, summed over a stretch.

const REQUEST_TICK = 1e-5;
const OUTSIDE = ["sending", "returning"]; // by the client's clock, not of the engine
const STAGE_WORDS = {
  sending: "on the way to the server",
  tokenize: "tokenized",
  dispatch: "handed to its rank",
  pickup: "waited to be picked up",
  bootstrap: "bootstrap",
  waiting: "in the waiting queue",
  forward: "forward",
  transfer: "KV transfer",
  answer: "answer sent",
  returning: "on the way to the client",
  unknown: "not known",
};
const HOLD_WORDS = {
  delayer: "held by the delayer",
  forward: "behind a running forward",
  loop: "scheduler loop",
};

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
        const key = unit * cells.ranks + this.rank[q] - 1,
          there = this.passes.get(key);
        if (!there) this.passes.set(key, [q]);
        else if (there[there.length - 1] !== q) there.push(q);
      }
      this.offset[q + 1] = row;
    }
  }

  of(unit, rank) {
    return this.passes.get(unit * this.cells.ranks + rank) || [];
  }

  // Its stages: kind, begin and end in seconds, unit of a forward.
  stagesOf(q) {
    const out = [];
    let at = this.begin[q];
    for (let row = this.offset[q]; row < this.offset[q + 1]; row++) {
      const from = at;
      at += this.took[row];
      out.push({
        ...this.kinds[this.kind[row]],
        from: from * REQUEST_TICK,
        to: at * REQUEST_TICK,
        unit: this.forwardUnit[row],
      });
    }
    return out;
  }

  // A few to begin with: those that were prefilled, or any.
  slowest() {
    const all = [...Array(this.carried).keys()],
      prefilled = all.filter((q) => this.last[q] >= 0);
    return (prefilled.length ? prefilled : all).slice(0, 3);
  }

  totalOf(q) {
    const s = this.stagesOf(q);
    return s.length ? s[s.length - 1].to - s[0].from : 0;
  }

  // Those whose id holds the text, whole ids first; slowest first among equals.
  find(text) {
    const exact = [],
      part = [];
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
    const placed = this.placedIn(a, b),
      mine = placed.filter((q) => this.ttft[q] > 0);
    out.num_requests = [placed.length, "prefilled in it"];
    if (!mine.length) return;
    const ticks = Float64Array.from(mine, (q) => this.ttft[q] - 1);
    const [p50, p90, p99] = quantilesOf(ticks, [0.5, 0.9, 0.99]);
    const mean = ticks.reduce((x, y) => x + y, 0) / ticks.length;
    for (const [name, value] of Object.entries({ p50, p90, p99, mean }))
      out[`ttft_${name}_s`] = [value * REQUEST_TICK];
  }

  // The sums of pdtrace/joined/breakdown.py over the finished requests prefilled in a stretch.
  breakDown(a, b) {
    const finished = this.statuses.indexOf("finished"),
      begins = new Map(),
      told = [];
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
    const whole = told
        .filter((t) => t.begin === usual)
        .sort((x, y) => x.total - y.total || x.q - y.q),
      n = whole.length;
    const middle = whole[Math.ceil(n * 0.5) - 1],
      late = whole[Math.ceil(n * 0.99) - 1],
      sums = new Map();
    for (const t of whole) {
      for (const s of t.stages) {
        const key = `${s.stage} ${s.held_by}`,
          ms = 1e3 * (s.to - s.from);
        const row = sums.get(key) || {
          stage: s.stage,
          held: s.held_by,
          part: partOf(s),
          ms: [0, 0, 0],
        };
        row.ms[0] += ms / n;
        if (t === middle) row.ms[1] += ms;
        if (t === late) row.ms[2] += ms;
        sums.set(key, row);
      }
    }
    const order = Object.keys(STAGE_WORDS);
    return {
      n,
      rows: [...sums.values()].sort((x, y) => order.indexOf(x.stage) - order.indexOf(y.stage)),
    };
  }
}

// The part of figures/ttft_breakdown.py that a stage belongs to.
function partOf({ stage, held_by: held }) {
  if ((stage === "pickup" || stage === "waiting") && held) return HOLD_WORDS[held];
  return { forward: "forward", transfer: "KV transfer" }[stage] || "all else";
}
