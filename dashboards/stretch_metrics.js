"use strict";
// The metrics of a page told again for a stretch, by the definitions of pdtrace/metrics.
// A metric that is not here, or gives null, rests on something that has no times.

function measureStretch({ cells: c, requests, a, b }) {
  const n = c.iterationsIn(a, b),
    { counts } = c.tallyWidths(a, b),
    roles = new Float64Array(c.ranks * 5);
  c.addRoles(a, b, (i) => c.sizeOf(i), false, roles);
  const passes = ROLES.map((_, k) => {
    let sum = 0;
    for (let r = 0; r < c.ranks; r++) sum += roles[r * 5 + k];
    return Math.round(sum);
  });
  const idle = passes[IDLE] + passes[DELAYED],
    known = n * c.ranks - passes[UNKNOWN];
  const prefilled = n - counts[0];
  let widths = 0;
  counts.forEach((value, w) => {
    widths += w * value;
  });
  let confidence = 0,
    delays = 0;
  for (let i = a; i < b; i++) {
    confidence += c.confidence[i] * c.sizeOf(i);
    delays += c.delays[i];
  }
  let tokens = 0,
    exact = true;
  for (let r = 0; r < c.ranks; r++) {
    const t = c.tokensIn(r, a, b);
    tokens += t.sum;
    exact = exact && t.exact;
  }
  const about = exact ? "" : "about: tokens are kept in blocks";
  const out = {
    num_iterations: [n],
    num_solo_iterations: [counts[1]],
    num_fully_fused_iterations: [counts[c.ranks]],
    solo_iteration_ratio: [prefilled ? counts[1] / prefilled : null],
    fully_fused_iteration_ratio: [prefilled ? counts[c.ranks] / prefilled : null],
    fusion_width_mean: [prefilled ? widths / prefilled : null],
    grouping_confidence_mean: [n ? confidence / n / 1000 : null],
    num_new_tokens: [Math.round(tokens), about],
    span_seconds: [c.end[b - 1] - c.start[a]],
  };
  if (known > 0 && !(passes[UNKNOWN] && !idle)) {
    out.idle_rank_passes = [idle];
    out.idle_rank_pass_ratio = [
      idle / known,
      passes[UNKNOWN]
        ? `${percent(idle / (n * c.ranks))} – ${percent((idle + passes[UNKNOWN]) / (n * c.ranks))}`
        : "",
    ];
  }
  out.unknown_rank_passes = [passes[UNKNOWN]];
  if (delays) out.num_delay_passes = [delays];
  if (c.held) {
    let held = 0;
    for (let i = a; i < b; i++) held += c.heldBefore(i);
    out.delay_seconds_total = [held, "estimated by the requests' stages"];
  }
  if (c.size === 1) timeMetrics(c, a, b, tokens, about, out);
  if (requests && requests.carried === requests.total) requests.measure(a, b, out);
  return out;
}

function timeMetrics(c, a, b, tokens, about, out) {
  let idleTicks = 0,
    knownTicks = 0,
    busy = 0,
    prefill = 0,
    n = 0;
  const ticks = new Uint32Array(b - a);
  for (let i = a; i < b; i++) {
    if (!c.timed(i)) continue;
    const t = c.ticks(i);
    ticks[n++] = t;
    busy += t;
    if (c.width[i]) prefill += t;
    idleTicks += t * c.idle[i];
    knownTicks += t * c.known[i];
  }
  if (!n) return;
  const timed = ticks.subarray(0, n),
    [p50, p90, p99] = quantilesOf(timed, [0.5, 0.9, 0.99]);
  Object.assign(out, {
    idle_rank_seconds: [idleTicks * c.unit],
    idle_rank_time_ratio: [knownTicks ? idleTicks / knownTicks : null],
    busy_seconds: [busy * c.unit],
    busy_ratio: [(busy * c.unit) / (c.end[b - 1] - c.start[a])],
    iteration_seconds_p50: [p50 * c.unit],
    iteration_seconds_p90: [p90 * c.unit],
    iteration_seconds_p99: [p99 * c.unit],
    iteration_seconds_mean: [(busy * c.unit) / n],
    iteration_seconds_max: [timed.reduce((x, y) => Math.max(x, y), 0) * c.unit],
  });
  // Tokens of passes without a duration are in no throughput.
  if (prefill && n === b - a) out.prefill_throughput_tok_s = [tokens / (prefill * c.unit), about];
}
