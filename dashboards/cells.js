"use strict";
// What the page knows of a run, iteration by iteration (see pdtrace/figures/cells.py), and sums of
// it over any stretch. A unit is an iteration, or a block of `size` of them in very long runs.

class Cells {
  static async load(levels) {
    const arrays = {};
    const load = async (from, to) => {
      for (const [name, value] of Object.entries(from)) {
        if (value && value.b !== undefined && value.n !== undefined) to[name] = await unpack(value);
        await pause();
      }
    };
    await load(levels, arrays);
    for (const name of ["tokens", "line", "queues"]) {
      if (!levels[name]) continue;
      arrays[name] = { ...levels[name] };
      await load(levels[name], arrays[name]);
    }
    const loadGroups = async (packed) => {
      const groups = [];
      for (const g of packed || []) {
        const group = { first: g.first, num: g.num };
        await load(g, group);
        groups.push(group);
      }
      return groups;
    };
    const groups = await loadGroups(levels.groups);
    if (levels.held)
      arrays.held = {
        ...levels.held,
        a: await unpack(levels.held.a),
        groups: await loadGroups(levels.held.groups),
      };
    return new Cells(levels, { ...arrays, groups });
  }

  constructor(levels, arrays) {
    Object.assign(this, levels, arrays);
    const n = this.blocks,
      unit = this.unit;
    this.start = new Float64Array(n);
    this.end = new Float64Array(n);
    for (let i = 0, at = 0; i < n; i++) {
      at += this.gap[i];
      this.start[i] = at * unit;
      at += this.extent[i];
      this.end[i] = at * unit;
    }
    if (this.size > 1) return;
    this.readPatterns();
    this.readHeld();
  }

  // How many ranks prefilled, idled and are known, for each iteration, from its pattern.
  readPatterns() {
    const n = this.blocks,
      given = this.width;
    this.width = given || new Uint16Array(n);
    this.idle = new Uint16Array(n);
    this.known = new Uint16Array(n);
    for (const group of this.groups) {
      const { table, index, num } = group,
        kinds = table.length / num;
      const of = Array.from({ length: 3 }, () => new Uint8Array(kinds));
      for (let p = 0; p < kinds; p++) {
        for (let j = 0; j < num; j++) {
          const role = this.states[table[p * num + j]].role;
          of[0][p] += role === PREFILL;
          of[1][p] += role === IDLE || role === DELAYED;
          of[2][p] += role !== UNKNOWN;
        }
      }
      group.sums = new Float64Array(kinds);
      for (let i = 0; i < n; i++) {
        const p = index[i];
        if (!given) this.width[i] += of[0][p];
        this.idle[i] += of[1][p];
        this.known[i] += of[2][p];
      }
    }
  }

  sizeOf(i) {
    return Math.min(this.size, this.iterations - i * this.size);
  }
  iterationsIn(a, b) {
    return Math.min(b * this.size, this.iterations) - a * this.size;
  }
  numberOf(i) {
    return i * this.size + (this.number ? this.number[i] : 0);
  }
  lastNumberOf(i) {
    return this.numberOf(i) + this.sizeOf(i) - 1;
  }
  clock(t) {
    return new Date(this.origin + t * 1e3).toISOString().slice(11, 23);
  }
  timed(i) {
    return !(this.untimed && this.untimed[i]);
  }
  ticks(i) {
    return this.extent[i] + (this.beyond ? this.beyond[i] : 0);
  }
  took(i) {
    return this.ticks(i) * this.unit;
  }
  busyOf(i) {
    return this.size === 1 ? this.end[i] - this.start[i] : this.busy[i] * this.unit;
  }

  state(i, r) {
    const group = this.groups[r >> 3];
    return this.states[group.table[group.index[i] * group.num + r - group.first]];
  }

  // Seconds before iteration i in which nothing ran and prefill was withheld, by the requests'
  // stages or, where only counts of delay passes are known, all the time since the pass before.
  heldBefore(i) {
    return this.heldTime ? this.heldTime[i] : 0;
  }

  readHeld() {
    const n = this.blocks;
    let any = false;
    const time = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const told = this.held ? this.held.a[i] * this.held.coarse * this.unit : 0;
      const since = this.delays[i] && i > 0 ? Math.max(this.start[i] - this.end[i - 1], 0) : 0;
      time[i] = told || since;
      any = any || time[i] > 0;
    }
    if (any) this.heldTime = time;
  }

  // Whether a request of the rank was withheld then; without stages nobody knows whose.
  heldOn(i, r) {
    if (!this.held || !this.held.a[i]) return true;
    const group = this.held.groups[r >> 3];
    return group.table[group.index[i] * group.num + r - group.first] > 0;
  }

  // First unit that ends after a time, and first that begins at or after it.
  endsAfter(t) {
    return search(this.blocks, (i) => this.end[i] > t);
  }
  beginsFrom(t) {
    return search(this.blocks, (i) => this.start[i] >= t);
  }
  withNumber(number) {
    return search(this.blocks, (i) => this.lastNumberOf(i) >= number);
  }

  // Share of unit i that rank r spent in each role: of its passes, or of its time in passes.
  blockShares(i, r, ofTime, out) {
    const at = r * this.blocks + i;
    let rest = 1;
    out.fill(0);
    for (const role of [PREFILL, DECODE, DELAYED, UNKNOWN]) {
      const source = this[(ofTime ? "time" : "count") + role];
      if (!source) continue;
      out[role] = ofTime ? source[at] / 250 : source[at] / this.sizeOf(i);
      rest -= out[role];
    }
    out[IDLE] = Math.max(rest, 0);
  }

  // Adds weight(i) × role to out[rank × 5 + role] for the units from a to b.
  addRoles(a, b, weight, ofTime, out) {
    if (this.size > 1) {
      const shares = new Float64Array(5);
      for (let i = a; i < b; i++) {
        const w = weight(i);
        if (!(w > 0)) continue;
        for (let r = 0; r < this.ranks; r++) {
          this.blockShares(i, r, ofTime, shares);
          for (let k = 0; k < 5; k++) out[r * 5 + k] += w * shares[k];
        }
      }
      return;
    }
    for (const { first, num, table, index, sums } of this.groups) {
      const met = [];
      for (let i = a; i < b; i++) {
        const w = weight(i),
          p = index[i];
        if (!(w > 0)) continue;
        if (!sums[p]) met.push(p);
        sums[p] += w;
      }
      for (const p of met) {
        for (let j = 0; j < num; j++)
          out[(first + j) * 5 + this.states[table[p * num + j]].role] += sums[p];
        sums[p] = 0;
      }
    }
  }

  // Passes and time of each state of each rank: out[rank][state] of {passes, busy, took}.
  tallyStates(a, b) {
    const kinds = this.states.length;
    const out = {
      passes: new Float64Array(this.ranks * kinds),
      busy: new Float64Array(this.ranks * kinds),
      took: new Float64Array(this.ranks * kinds),
    };
    const weights = {
      passes: () => 1,
      busy: (i) => this.end[i] - this.start[i],
      took: (i) => (this.timed(i) ? this.ticks(i) * this.unit : 0),
    };
    for (const [name, weight] of Object.entries(weights)) {
      for (const { first, num, table, index, sums } of this.groups) {
        const top = table.length / num;
        for (let i = a; i < b; i++) sums[index[i]] += weight(i);
        for (let p = 0; p < top; p++) {
          if (!sums[p]) continue;
          for (let j = 0; j < num; j++)
            out[name][(first + j) * kinds + table[p * num + j]] += sums[p];
          sums[p] = 0;
        }
      }
    }
    return out;
  }

  // Iterations and time by number of ranks that prefilled.
  tallyWidths(a, b) {
    const counts = new Float64Array(this.ranks + 1),
      busy = new Float64Array(this.ranks + 1);
    for (let i = a; i < b; i++) {
      if (this.size === 1) {
        counts[this.width[i]]++;
        busy[this.width[i]] += this.end[i] - this.start[i];
      } else {
        for (let w = 0; w <= this.ranks; w++) counts[w] += this.widths[w * this.blocks + i];
      }
    }
    return { counts, busy };
  }

  // Tokens of a rank; at the edges of blocks a part of them, and then only nearly so.
  tokensIn(r, a, b) {
    const { a: tokens, size } = this.tokens,
      length = Math.ceil(this.iterations / size),
      at = r * length;
    const low = a * this.size,
      high = Math.min(b * this.size, this.iterations);
    const k0 = Math.floor(low / size),
      k1 = Math.ceil(high / size);
    let sum = 0;
    for (let k = k0; k < k1; k++) {
      const begin = k * size,
        end = Math.min(begin + size, this.iterations);
      sum += (tokens[at + k] * (Math.min(high, end) - Math.max(low, begin))) / (end - begin);
    }
    const exact = low % size === 0 && (high % size === 0 || high === this.iterations);
    return { sum, exact };
  }

  // The log line of a rank's pass, or the nearest that the page knows.
  lineOf(i, r) {
    const { a, size, each, source } = this.line;
    if (each) {
      if (!this.state(i, r).line) return null;
      const at = r * this.blocks + i;
      return `${visible(this.files[source ? source[at] : 0])}:${a[at]}`;
    }
    const k = Math.floor((i * this.size) / size);
    return a[k] ? `${visible(this.files[source ? source[k] : 0])}:${a[k]}` : null;
  }

  // The line in words: whose it is depends on what the page carries.
  lineWords(i, r) {
    const line = this.lineOf(i, r),
      { each, size } = this.line;
    if (each && line) return line;
    if (each) {
      for (let q = 0; q < this.ranks; q++) {
        const other = this.lineOf(i, q);
        if (other) return `no line of this rank; iteration at ${other}`;
      }
      return "no line";
    }
    if (!line) return "no line";
    return size === 1
      ? `lines of the iteration from ${line}`
      : `lines of ${size} iterations from ${line}`;
  }
}

// The first of 0 … n − 1 that fits, n if none; those that fit stand at the end.
function search(n, fits) {
  let a = 0,
    b = n;
  while (a < b) {
    const middle = (a + b) >> 1;
    if (fits(middle)) b = middle;
    else a = middle + 1;
  }
  return a;
}

// Quantiles of whole numbers, between neighbours as numpy has them.
function quantilesOf(values, shares) {
  const n = values.length;
  if (!n) return shares.map(() => null);
  let low = Infinity,
    high = -Infinity;
  for (let i = 0; i < n; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  let pick;
  if (high - low < 4 * n + 1e5) {
    const counts = new Uint32Array(high - low + 1);
    for (let i = 0; i < n; i++) counts[values[i] - low]++;
    for (let k = 1; k < counts.length; k++) counts[k] += counts[k - 1];
    pick = (rank) => low + search(counts.length, (k) => counts[k] > rank);
  } else {
    const sorted = Float64Array.from(values).sort();
    pick = (rank) => sorted[rank];
  }
  return shares.map((share) => {
    const at = share * (n - 1),
      under = Math.floor(at),
      part = at - under;
    const value = pick(under);
    return part ? value + part * (pick(under + 1) - value) : value;
  });
}
