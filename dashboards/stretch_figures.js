"use strict";
// The figures of a page told again for a stretch of its iterations. Each takes its own first
// drawing and returns `data` and `layout` as Plotly takes them and the `rows` of its table, or
// `why` it cannot be told of a stretch. The sums are those of pdtrace/figures/<the same name>.py.

const TOO_LONG = (c) =>
  `whole run: at this length the page keeps blocks of ${count(c.size)} iterations`;
const copyOf = (spec) => structuredClone(spec);
const share = (part, whole) => (whole > 0 ? part / whole : 0);
const round = (x, digits) => (x === null || !Number.isFinite(x) ? null : Number(x.toFixed(digits)));

const stretchFigures = {
  idle_share({ tile, cells: c, a, b, t0, t1 }) {
    const n = tile.options.intervals || 120,
      width = (t1 - t0) / n,
      spec = copyOf(tile.spec);
    const idle = new Float64Array(n),
      known = new Float64Array(n),
      pass = new Float64Array(n);
    const roles = new Float64Array(c.ranks * 5);
    for (let i = a; i < b; i++) {
      const from = c.start[i],
        to = c.end[i],
        long = to - from;
      if (!(long > 0)) continue;
      let ranksIdle = 0,
        ranksKnown = 0;
      if (c.size === 1) {
        ranksIdle = c.idle[i];
        ranksKnown = c.known[i];
      } else {
        roles.fill(0);
        c.addRoles(i, i + 1, () => 1, true, roles);
        for (let r = 0; r < c.ranks; r++) {
          ranksIdle += roles[r * 5 + IDLE] + roles[r * 5 + DELAYED];
          ranksKnown += 1 - roles[r * 5 + UNKNOWN];
        }
      }
      const dense = c.busyOf(i) / long;
      const first = Math.max(Math.floor((from - t0) / width), 0),
        last = Math.min(Math.floor((to - t0) / width), n - 1);
      for (let k = first; k <= last; k++) {
        const part = Math.min(to, t0 + (k + 1) * width) - Math.max(from, t0 + k * width);
        if (!(part > 0)) continue;
        idle[k] += part * ranksIdle * dense;
        known[k] += part * ranksKnown * dense;
        pass[k] += part * dense;
      }
    }
    const quiet = Array.from(pass, (p) => 100 * Math.min(Math.max(1 - p / width, 0), 1));
    const told = Array.from(idle, (s, k) =>
      known[k] > 0 && quiet[k] <= 99.5 ? (100 * s) / known[k] : null,
    );
    const at = (k) => t0 + k * width;
    [told, quiet].forEach((y, k) =>
      Object.assign(spec.data[k], {
        x: y.map((_, q) => at(q + 0.5)),
        y,
        width,
        text: y.map((_, q) => `${decimals(at(q), 3)}–${decimals(at(q + 1), 3)} s`),
      }),
    );
    spec.layout.xaxis.range = [t0, t1];
    const rows = told.map((v, k) => [
      round(at(k), 3),
      round(at(k + 1), 3),
      round(v, 1),
      round(quiet[k], 1),
      round(idle[k], 3),
    ]);
    const sum = (values) => values.reduce((x, y) => x + y, 0);
    return {
      ...spec,
      rows,
      alt: `Idle rank time by interval; ${percent(share(sum(idle), sum(known)))} over the stretch.`,
    };
  },

  queues({ tile, cells: c, a, b, t0, t1 }) {
    if (!c.queues) return { why: "whole run: the input prints no queues" };
    const n = tile.options.intervals || 120,
      width = Math.max(t1 - t0, 1e-9) / n,
      spec = copyOf(tile.spec);
    const { names, size, a: values } = c.queues,
      length = Math.ceil(c.iterations / size);
    const k0 = Math.floor((a * c.size) / size),
      k1 = Math.ceil(Math.min(b * c.size, c.iterations) / size);
    const most = names.map(() => new Array(n).fill(null)),
      met = new Uint8Array(n);
    for (let k = k0; k < k1; k++) {
      const unit = Math.min(Math.floor(((k + 1) * size - 1) / c.size), c.blocks - 1);
      const bin = Math.min(Math.max(Math.floor((c.end[unit] - t0) / width), 0), n - 1);
      names.forEach((name, q) => {
        const value = values[q * length + k];
        if (!value) return;
        met[bin] = 1;
        const shown = name === "token_usage" ? (value - 1) / 1e4 : value - 1;
        if (most[q][bin] === null || shown > most[q][bin]) most[q][bin] = shown;
      });
    }
    const bins = [];
    for (let k = 0; k < n; k++) if (met[k]) bins.push(k);
    spec.data.forEach((trace, q) => {
      const usage = names[q] === "token_usage";
      trace.x = bins.map((k) => t0 + (k + 0.5) * width);
      trace.y = bins.map((k) =>
        most[q][k] === null ? null : usage ? round(100 * most[q][k], 2) : most[q][k],
      );
    });
    spec.layout.xaxis.range = [t0, t1];
    const rows = bins.map((k) => [
      round(t0 + k * width, 3),
      round(t0 + (k + 1) * width, 3),
      ...most.map((m) => m[k]),
    ]);
    const peaks = names.map((name, q) => {
      const top = most[q].reduce((x, y) => Math.max(x, y ?? 0), 0);
      return `${spec.data[q].name.replace(" (requests)", "")} ${name === "token_usage" ? percent(top) : count(top)}`;
    });
    const note =
      size > 1
        ? `kept in blocks of ${size} iterations, so its edges may hold up to ${size - 1} more`
        : "";
    return {
      ...spec,
      rows,
      note,
      alt: `Longest queue of any rank by interval; peaks: ${peaks.join(", ")}.`,
    };
  },

  fusion_histogram({ tile, cells: c, a, b }) {
    const spec = copyOf(tile.spec),
      { counts, busy } = c.tallyWidths(a, b),
      trace = spec.data[0];
    const n = c.iterationsIn(a, b),
      time = busy.reduce((x, y) => x + y, 0),
      widths = trace.customdata.map((d) => d[0]);
    trace.y = widths.map((w) => counts[w]);
    trace.text = widths.map((w) => {
      const s = 100 * share(counts[w], n);
      return s >= 10 ? `${s.toFixed(0)} %` : `${s.toFixed(1)} %`;
    });
    trace.customdata = widths.map((w) => [
      w,
      round(100 * share(busy[w], time), 1),
      round(busy[w], 2),
    ]);
    const known = c.size === 1;
    if (!known)
      trace.hovertemplate =
        "%{customdata[0]} ranks prefilled<br>%{y:,} iterations (%{text})<extra></extra>";
    const rows = widths.map((w) => [
      w,
      counts[w],
      round(100 * share(counts[w], n), 1),
      known ? round(busy[w], 3) : null,
      known ? round(100 * share(busy[w], time), 1) : null,
    ]);
    return {
      ...spec,
      rows,
      alt: `Iterations by number of ranks that prefilled: ${widths.map((w) => `${w}: ${count(counts[w])}`).join(", ")}.`,
    };
  },

  durations({ tile, cells: c, a, b }) {
    if (c.size > 1) return { why: TOO_LONG(c) };
    const spec = copyOf(tile.spec),
      box = spec.data[0],
      sets = new Map();
    const sizes = new Uint32Array(c.ranks + 1);
    for (let i = a; i < b; i++) if (c.timed(i) && c.ticks(i) > 0) sizes[c.width[i]]++;
    sizes.forEach((n, w) => {
      if (n) sets.set(w, { ticks: new Uint32Array(n), n: 0 });
    });
    for (let i = a; i < b; i++) {
      if (!c.timed(i) || !(c.ticks(i) > 0)) continue;
      const set = sets.get(c.width[i]);
      set.ticks[set.n++] = c.ticks(i);
    }
    if (!sets.size) return { why: "no iteration of the stretch has a duration", empty: true };
    const told = [...sets].map(([w, { ticks }]) => [
      w,
      ticks.length,
      ...quantilesOf(ticks, [0.05, 0.25, 0.5, 0.75, 0.95]).map((t) => round(t * c.unit * 1e3, 1)),
    ]);
    const names = ["lowerfence", "q1", "median", "q3", "upperfence"];
    box.x = told.map((r) => String(r[0]));
    names.forEach((name, k) => {
      box[name] = told.map((r) => r[k + 2]);
    });
    const axis = spec.layout.xaxis;
    axis.tickvals = box.x;
    axis.ticktext = told.map((r) => `${r[0]}<br>${short(r[1])}`);
    if (spec.layout.yaxis.type === "log") Object.assign(spec.layout.yaxis, markLogAxis(told));
    const rows = told.map((r) => [...r, busiestOf(c, r[0], a, b)]);
    return {
      ...spec,
      rows,
      alt: `Median pass duration by ranks that prefilled: ${told.map((r) => `${r[0]}: ${count(r[4])} ms`).join(", ")}.`,
    };
  },

  idle_causes({ tile, cells: c, a, b }) {
    if (c.size > 1) return { why: TOO_LONG(c) };
    const { passes, took } = c.tallyStates(a, b),
      kinds = c.states.length,
      found = new Map();
    for (let r = 0; r < c.ranks; r++) {
      for (let s = 0; s < kinds; s++) {
        const { cause } = c.states[s],
          at = r * kinds + s;
        if (!cause || !passes[at]) continue;
        const sum = found.get(cause) || { passes: 0, seconds: 0 };
        sum.passes += passes[at];
        sum.seconds += took[at];
        found.set(cause, sum);
      }
    }
    if (!found.size)
      return { why: "no rank idled in the stretch, or it is not known", empty: true };
    const spec = copyOf(tile.spec),
      bar = spec.data[0],
      before = tile.spec.data[0];
    const amount = spec.layout.xaxis.title.text.includes("time") ? "seconds" : "passes";
    const causes = [...found].sort((x, y) => y[1][amount] - x[1][amount]),
      all = causes.reduce((n, [, s]) => n + s.passes, 0);
    const was = (name) => Math.max(before.y.indexOf(name), 0);
    bar.y = causes.map(([name]) => name);
    bar.x = causes.map(([, s]) => round(s[amount], 3));
    bar.text = causes.map(([, s]) => `${count(s.passes)} ${s.passes === 1 ? "pass" : "passes"}`);
    bar.customdata = causes.map(([, s]) => round((100 * s.passes) / all, 1));
    bar.marker.color = causes.map(([name]) => before.marker.color[was(name)]);
    bar.marker.pattern.shape = causes.map(([name]) => before.marker.pattern.shape[was(name)]);
    const rows = causes.map(([name, s]) => [
      name,
      "–",
      s.passes,
      round((100 * s.passes) / all, 1),
      round(s.seconds, 3),
    ]);
    return {
      ...spec,
      rows,
      alt: `Idle rank passes by cause: ${causes.map(([name, s]) => `${name} ${count(s.passes)}`).join(", ")}.`,
    };
  },

  rank_balance({ tile, cells: c, a, b }) {
    const spec = copyOf(tile.spec),
      roles = new Float64Array(c.ranks * 5),
      passes = new Float64Array(c.ranks * 5);
    c.addRoles(a, b, (i) => c.busyOf(i), true, roles);
    c.addRoles(a, b, (i) => c.sizeOf(i), false, passes);
    let whole = 0;
    for (let i = a; i < b; i++) whole += c.busyOf(i);
    const present = [];
    for (const trace of spec.data) {
      const k = ROLES.indexOf(trace.name);
      present.push(k);
      trace.x = trace.y.map((_, r) => round(roles[r * 5 + k], 3));
      trace.customdata = trace.y.map((_, r) => round(100 * share(roles[r * 5 + k], whole), 1));
    }
    const tokens = Array.from({ length: c.ranks }, (_, r) => c.tokensIn(r, a, b)),
      exact = tokens.every((t) => t.exact);
    spec.layout.yaxis.ticktext = tokens.map(
      (t, r) => `rank ${r} · ${exact ? "" : "≈ "}${short(Math.round(t.sum))} tokens`,
    );
    const rows = tokens.map((t, r) => [
      r,
      ...present.map((k) => round(roles[r * 5 + k], 3)),
      Math.round(passes[r * 5 + PREFILL]),
      Math.round(t.sum),
    ]);
    const note = exact
      ? ""
      : `tokens are kept in blocks of ${c.tokens.size} iterations: those of the two at the edges are taken in part`;
    return {
      ...spec,
      rows,
      note,
      alt: `Prompt tokens by rank: ${tokens.map((t, r) => `${r}: ${count(t.sum)}`).join(", ")}.`,
    };
  },

  delay_episodes({ tile, cells: c, a, t1, body }) {
    const spec = copyOf(tile.spec),
      from = a > 0 ? c.end[a - 1] : -Infinity,
      inside = (t) => t >= from && t < t1;
    for (const trace of spec.data) {
      const kept = trace.x.map((t, k) => (inside(t) ? k : -1)).filter((k) => k >= 0);
      for (const name of ["x", "y", "customdata"])
        if (Array.isArray(trace[name])) trace[name] = kept.map((k) => trace[name][k]);
    }
    const number = (cell) => Number(cell.textContent.replace(/,/g, ""));
    const rows = body
      ? [...body.rows]
          .filter((row) => inside(number(row.cells[1])))
          .map((row) => [...row.cells].map((cell) => cell.textContent))
      : null;
    spec.layout.xaxis.range = [Math.max(from, 0), t1];
    const n = spec.data.reduce((sum, trace) => sum + trace.x.length, 0);
    return {
      ...spec,
      rows,
      alt: `${count(n)} delay episodes of those drawn began in the stretch or just before it.`,
    };
  },

  ttft_breakdown({ tile, requests, a, b }) {
    if (!requests) return { why: "whole run: no source says when each request was where" };
    if (requests.carried < requests.total) {
      return {
        why: `whole run: the page carries the slowest ${count(requests.carried)} of ${count(requests.total)} requests, which are not like all`,
      };
    }
    const told = requests.breakDown(a, b);
    if (!told) return { why: "no finished request was prefilled in the stretch", empty: true };
    const spec = copyOf(tile.spec),
      whole = told.rows.reduce((n, r) => n + r.ms[0], 0);
    for (const trace of spec.data) {
      const mine = told.rows.filter((r) => r.part === trace.name);
      trace.x = [0, 1, 2].map((q) =>
        round(
          mine.reduce((n, r) => n + r.ms[q], 0),
          3,
        ),
      );
    }
    const rows = told.rows.map((r) => [
      r.stage,
      r.held || "–",
      ...r.ms.map((x) => round(x, 3)),
      round(100 * share(r.ms[0], whole), 1),
    ]);
    return {
      ...spec,
      rows,
      note: `of the ${count(told.n)} requests whose last forward lies in it`,
      alt: `Time to first token: mean ${count(whole)} ms over ${count(told.n)} requests.`,
    };
  },
};

// Figures whose tile cannot be told of a stretch, and why.
const wholeRunFigures = {
  agreement: "whole run: it compares counters and totals, which carry no times",
};

// Ticks at 1, 2, 5, 10 … with their unit, as figures/durations.py sets them.
function markLogAxis(told) {
  const low = Math.min(...told.map((r) => r[2])) / 1.2,
    high = Math.max(...told.map((r) => r[6])) * 1.2,
    marks = [];
  for (let e = -3; e < 8; e++)
    for (const m of [1, 2, 5])
      if (m * 10 ** e >= low && m * 10 ** e <= high) marks.push(m * 10 ** e);
  return {
    tickmode: "array",
    tickvals: marks,
    range: [Math.log10(low), Math.log10(high)],
    ticktext: marks.map((m) => (m < 1000 ? `${round(m, 3)} ms` : `${round(m / 1000, 3)} s`)),
  };
}

// Median tokens of the busiest rank, where the page keeps tokens by iteration.
function busiestOf(c, width, a, b) {
  if (c.tokens.size > 1) return null;
  const most = [];
  for (let i = a; i < b; i++) {
    if (c.width[i] !== width || !c.timed(i) || !(c.ticks(i) > 0)) continue;
    let top = 0;
    for (let r = 0; r < c.ranks; r++) top = Math.max(top, c.tokens.a[r * c.blocks + i]);
    most.push(top);
  }
  return quantilesOf(Uint32Array.from(most), [0.5])[0];
}
