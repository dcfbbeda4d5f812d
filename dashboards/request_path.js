"use strict";
// The way of a request, found by its id: its stages, marked on the timeline with the passes that
// prefilled it and the ranks that idled beside.

const MOST_MATCHES = 12;
const HOLD_ROLES = { delayer: "delayed", forward: "idle", loop: "unknown" };

// The box that finds a request and shows its way, in the tile of the timeline.
class RequestPath {
  constructor(timeline) {
    this.timeline = timeline;
    this.requests = timeline.requests;
    this.shown = null;
    timeline.marks.push((t) => this.shapes(t));
    this.build();
  }

  build() {
    const r = this.requests;
    this.input = element("input", {
      type: "search",
      "aria-label": "Request id",
      placeholder: "request id, or a part of it",
      autocomplete: "off",
      spellcheck: "false",
      disabled: !r,
    });
    this.form = element(
      "form",
      { class: "find", role: "search" },
      element("span", { text: "Request" }),
      this.input,
      element("button", { type: "submit", text: "Find", disabled: !r }),
    );
    this.matches = element("div", { class: "matches", role: "status", "aria-live": "polite" });
    this.panel = element("div", {
      class: "path",
      hidden: true,
      role: "region",
      "aria-label": "Way of the request",
      tabindex: "-1",
    });
    const which = !r
      ? "This input names no requests: spans or request time stats would."
      : r.carried === r.total
        ? `All ${count(r.total)} requests can be found; the slowest:`
        : `The page carries the slowest ${count(r.carried)} of ${count(r.total)} requests; the slowest:`;
    this.say(which, r ? r.slowest() : []);
    this.form.addEventListener("submit", (e) => {
      e.preventDefault();
      this.search(this.input.value.trim());
    });
    const pick = this.timeline.box.querySelector(".pick");
    pick.after(element("div", { class: "finder" }, this.form, this.matches), this.panel);
  }

  say(words, found) {
    const buttons = found.map((q) =>
      element("button", {
        type: "button",
        class: "rid",
        text: this.requests.rids[q],
        title: seconds(this.requests.totalOf(q)),
        onclick: () => this.show(q),
      }),
    );
    this.matches.replaceChildren(element("span", { text: words }), ...buttons);
  }

  search(text) {
    if (!text) return this.say("Type an id. The slowest:", this.requests.slowest());
    const [exact, part] = this.requests.find(text),
      all = [...exact, ...part];
    if (!all.length) {
      const r = this.requests,
        rest =
          r.carried < r.total
            ? ` among the ${count(r.carried)} slowest of ${count(r.total)} that the page carries`
            : "";
      return this.say(`No request id holds “${visible(text)}”${rest}.`, []);
    }
    if (exact.length === 1 || all.length === 1) {
      this.say(part.length && exact.length ? `${count(part.length)} other ids hold it.` : "", []);
      return this.show(all[0]);
    }
    const shown = all.slice(0, MOST_MATCHES),
      slow = all.length > shown.length ? `; the ${shown.length} slowest:` : ":";
    return this.say(`${count(all.length)} requests match${slow}`, shown);
  }

  async show(q) {
    this.shown = q;
    this.stages = this.requests.stagesOf(q);
    this.fill(q);
    const t = this.timeline,
      from = this.stages[0].from,
      to = this.stages[this.stages.length - 1].to,
      edge = 0.08 * (to - from);
    const units = this.stages.filter((s) => s.unit >= 0).map((s) => s.unit);
    if (t.mode === "time") await t.lead(t.show(from - edge, to + edge));
    else if (units.length)
      await t.lead(
        t.show(
          t.from(Math.max(units[0] - 2, 0)),
          t.to(Math.min(units[units.length - 1] + 2, t.cells.blocks - 1)),
        ),
      );
    this.panel.focus({ preventScroll: true });
  }

  async hide() {
    this.shown = null;
    this.panel.hidden = true;
    await this.timeline.mark();
    this.input.focus();
  }

  fill(q) {
    const r = this.requests,
      rank = r.rank[q] - 1,
      from = this.stages[0].from,
      whole = this.stages[this.stages.length - 1].to - from;
    const facts = [
      r.statuses[r.status[q]],
      rank < 0 ? "rank not known" : `rank ${rank}`,
      r.prompt[q] ? `${count(r.prompt[q] - 1)} prompt tokens` : "",
      `${seconds(whole)} from ${this.timeline.cells.clock(from)} UTC`,
    ]
      .filter(Boolean)
      .join(" · ");
    const head = element(
      "div",
      { class: "head" },
      element("h3", { text: `Request ${r.rids[q]}` }),
      element("span", { class: "note", text: facts }),
      element("button", { type: "button", text: "Close", onclick: () => this.hide() }),
    );
    const columns = ["stage", "held", "from (+s)", "took", "", "prefilled in", "beside it"];
    const rows = this.stages.map((s) => this.rowOf(s, rank, from, whole));
    this.panel.replaceChildren(
      head,
      element(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Stages of the request" },
        element(
          "table",
          {},
          element(
            "thead",
            {},
            element("tr", {}, ...columns.map((text) => element("th", { scope: "col", text }))),
          ),
          element("tbody", {}, ...rows),
        ),
      ),
    );
    this.panel.hidden = false;
  }

  rowOf(s, rank, from, whole) {
    const c = this.timeline.cells,
      took = s.to - s.from;
    const bar = element("span", {
      class: `way ${s.held_by ? HOLD_ROLES[s.held_by] : s.stage === "forward" ? "prefill" : "other"}`,
    });
    bar.style.left = `${(100 * (s.from - from)) / (whole || 1)}%`;
    bar.style.width = `max(2px, ${(100 * took) / (whole || 1)}%)`;
    const cell = (text) => element("td", { text });
    const where = element("td"),
      name = (STAGE_WORDS[s.stage] || s.stage) + (s.is_estimated ? " (estimated)" : "");
    if (s.unit >= 0) {
      where.append(
        element("button", {
          type: "button",
          text: this.unitWords(s.unit),
          onclick: () => this.goTo(s.unit, rank),
        }),
      );
    }
    const stage = cell(name);
    if (s.note) stage.append(element("small", { text: s.note }));
    return element(
      "tr",
      {},
      stage,
      cell(s.held_by ? HOLD_WORDS[s.held_by] : "–"),
      cell(decimals(s.from, 3, 3)),
      cell(seconds(took)),
      element("td", { class: "lane" }, bar),
      where,
      cell(s.unit >= 0 ? this.besideWords(s.unit, rank) : ""),
    );
  }

  unitWords(unit) {
    const c = this.timeline.cells;
    return c.size === 1
      ? `iteration ${count(c.numberOf(unit))}`
      : `iterations ${count(c.numberOf(unit))}–${count(c.lastNumberOf(unit))}`;
  }

  // Ranks that ran nothing while it was prefilled.
  besideWords(unit, rank) {
    const c = this.timeline.cells;
    if (c.size > 1) return `the page keeps blocks of ${count(c.size)} iterations`;
    const found = new Map();
    let working = 0;
    for (let r = 0; r < c.ranks; r++) {
      const { role, cause } = c.state(unit, r);
      if (role === PREFILL || role === DECODE) {
        working += r !== rank;
        continue;
      }
      const words =
        ROLES[role] + (cause && cause !== "unknown" && role !== DELAYED ? `, ${cause}` : "");
      found.set(words, [...(found.get(words) || []), r]);
    }
    const idle = [...found].map(
      ([words, ranks]) => `${ranks.length === 1 ? "rank" : "ranks"} ${ranks.join(", ")} ${words}`,
    );
    if (working) idle.push(`${working} other ${working === 1 ? "rank" : "ranks"} working`);
    return idle.join("; ");
  }

  async goTo(unit, rank) {
    const t = this.timeline,
      lo = t.from(unit),
      hi = t.to(unit),
      edge = 1.5 * Math.max(hi - lo, 1e-4);
    await t.lead(t.show(lo - edge, hi + edge));
    const at = t.columns.findIndex(
      (column) => !column.gap && column.units[0] <= unit && unit < column.units[1],
    );
    if (at < 0) return;
    t.cursor = { column: at, rank: Math.max(rank, 0) };
    t.tell(t.wordsAt(at, t.cursor.rank));
    await t.mark();
    t.gd.focus();
  }

  shapes(t) {
    if (this.shown === null) return [];
    const rank = this.requests.rank[this.shown] - 1,
      c = t.cells,
      out = [],
      ink = page.palette.ink[0];
    if (rank < 0) return out;
    for (const s of this.stages) {
      if (s.unit >= 0) {
        out.push({
          type: "rect",
          x0: t.from(s.unit),
          x1: t.to(s.unit),
          y0: rank + 0.02,
          y1: rank + 0.98,
          line: { color: ink, width: 3 },
        });
        for (let r = 0; r < c.ranks && c.size === 1; r++) {
          const { role } = c.state(s.unit, r);
          if (role === IDLE || role === DELAYED)
            out.push({
              type: "rect",
              x0: t.from(s.unit),
              x1: t.to(s.unit),
              y0: r + 0.06,
              y1: r + 0.94,
              line: { color: ink, width: 1.5, dash: "dot" },
            });
        }
      } else if (t.mode === "time") {
        const held = s.held_by ? page.palette[HOLD_ROLES[s.held_by]][0] : page.palette.ink[0];
        out.push({
          type: "line",
          x0: s.from,
          x1: s.to,
          y0: rank + 0.06,
          y1: rank + 0.06,
          line: { color: held, width: 5 },
        });
      }
    }
    if (t.mode === "time") {
      for (const x of [this.stages[0].from, this.stages[this.stages.length - 1].to]) {
        out.push({
          type: "line",
          x0: x,
          x1: x,
          y0: 0,
          y1: c.ranks,
          line: { color: ink, width: 1, dash: "dot" },
        });
      }
    }
    return out;
  }
}
