"use strict";
// What a cell of the timeline tells in words: of one iteration, of many in a column, of a wait.

const MOST_REQUESTS_SHOWN = 4;

class CellWords {
  constructor(cells, requests) {
    this.cells = cells;
    this.requests = requests;
  }

  ofCell(i, r) {
    const c = this.cells,
      number = c.numberOf(i),
      state = c.state(i, r),
      role = state.role;
    const label = c.forward ? ` (engine's [${number + c.forward[i]}])` : "";
    const tokens = c.tokensIn(r, i, i + 1);
    let what = ROLES[role];
    if (role === PREFILL || role === DECODE) {
      what +=
        c.tokens.size === 1
          ? ` · ${count(tokens.sum)} tokens`
          : ` · about ${short(Math.round(this.tokensOfPasses(i, r)))} tokens`;
    }
    if (state.cause && state.cause !== "unknown") what += ` · ${state.cause}`;
    const took = c.timed(i) ? seconds(c.took(i)) : "duration unknown";
    return [
      `iteration ${count(number)}${label} · rank ${r}`,
      `${what} · ${role === UNKNOWN ? "nothing known" : state.observed ? "observed" : "inferred"}`,
      `${took} from ${c.clock(c.start[i])} (+${c.start[i].toFixed(3)} s)`,
      `confidence ${(Math.floor(c.confidence[i] / 10) / 100).toFixed(2)}`,
      c.delays[i] ? `${count(c.delays[i])} delay passes before it` : "",
      this.requestWords(i, r, role),
      c.lineWords(i, r),
    ].filter(Boolean);
  }

  // Tokens of a block go to the passes that prefilled: the nearest the page can tell.
  tokensOfPasses(i, r) {
    const c = this.cells,
      { size, a } = c.tokens,
      k = Math.floor(i / size);
    const from = k * size,
      to = Math.min(from + size, c.blocks);
    let passes = 0;
    for (let q = from; q < to; q++) passes += c.state(q, r).role === c.state(i, r).role;
    return a[r * Math.ceil(c.iterations / size) + k] / Math.max(passes, 1);
  }

  requestWords(i, r, role) {
    if (role !== PREFILL) return "";
    const seqs = this.cells.seqs ? this.cells.seqs[r * this.cells.blocks + i] : 0;
    const known = this.requests ? this.requests.of(i, r) : [];
    const number = Math.max(seqs, known.length);
    if (!number) return "";
    const named = known.slice(0, MOST_REQUESTS_SHOWN).map((q) => visible(this.requests.rids[q]));
    const rest = number - named.length;
    const words = `${count(number)} ${number === 1 ? "request" : "requests"}`;
    if (!named.length) return words;
    return `${words}: ${named.join(", ")}${rest > 0 ? ` and ${count(rest)} more` : ""}`;
  }

  ofColumn(column, r, mode) {
    const c = this.cells,
      [a, b] = column.units,
      share = column.shares.subarray(r * 5, r * 5 + 5);
    let delays = 0,
      confidence = 1000;
    for (let i = a; i < b; i++) {
      delays += c.delays[i];
      confidence = Math.min(confidence, c.confidence[i]);
    }
    const tokens = c.tokensIn(r, a, b);
    const words = ROLES.map((name, k) =>
      share[k] > 0 ? `${name} ${percent(share[k])}` : "",
    ).filter(Boolean);
    const of = mode === "time" ? "of the time" : "of the passes";
    return [
      `iterations ${count(c.numberOf(a))}–${count(c.lastNumberOf(b - 1))} · rank ${r}`,
      words.length ? `${words.join(" · ")} ${of}` : "no pass running",
      `${tokens.exact ? "" : "about "}${count(tokens.sum)} tokens · ${seconds(c.end[b - 1] - c.start[a])} from ${c.clock(c.start[a])} (+${c.start[a].toFixed(2)} s)`,
      `confidence ≥ ${(Math.floor(confidence / 10) / 100).toFixed(2)}`,
      delays ? `${count(delays)} delay passes` : "",
      c.lineWords(a, r),
    ].filter(Boolean);
  }

  ofGap(i, r) {
    const c = this.cells,
      line = c.lineWords(i, r),
      next = `before iteration ${count(c.numberOf(i))}`;
    if (!c.heldOn(i, r))
      return [`no pass · rank ${r}`, `nothing of this rank was withheld ${next}`];
    return [
      `delayed · rank ${r}`,
      `prefill withheld for ${seconds(c.heldBefore(i))} ${next}`,
      c.delays[i] ? `${count(c.delays[i])} delay passes` : "",
      line === "no line" ? "" : `next: ${line}`,
    ].filter(Boolean);
  }
}
