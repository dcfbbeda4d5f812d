"use strict";
// Draws the tiles from the data block, and lets them act together: zoom, stretch, requests, paper.

(async () => {
  await loadPlotly();
  const plain = page.tiles.filter((t) => !t.levels);
  const timelines = [];

  // Time axes follow each other: the timeline leads, or whichever was dragged. Tiles that tell of a
  // stretch keep its axis.
  let turn = 0;
  async function follow(range) {
    const mine = ++turn,
      [timeline] = timelines;
    if (!timeline || timeline.stretch.units) return;
    for (const tile of plain) {
      if (!tile.timeAxis) continue;
      await pause();
      if (mine !== turn) return; // another zoom came meanwhile
      tile.shown = tile.spec;
      if (range) refine(tile, timeline, range);
      await drawPlain(tile);
    }
  }

  // What is cut into intervals is cut anew for the window; the rest moves its axis.
  function refine(tile, timeline, [t0, t1]) {
    const { cells, requests } = timeline,
      a = cells.endsAfter(t0),
      b = cells.beginsFrom(t1);
    const intervals = tile.figure === "idle_share" || tile.figure === "queues";
    const told =
      intervals && b > a
        ? stretchFigures[tile.figure]({ tile, cells, requests, a, b, t0, t1 })
        : null;
    if (told && told.why === undefined) {
      tile.shown = told;
      return;
    }
    const layout = structuredClone(tile.spec.layout);
    layout.xaxis.range = [t0, t1];
    tile.shown = { data: tile.spec.data, layout };
  }

  const isAll = (timeline) => timeline.full().every((edge, k) => edge === timeline.window[k]);
  const press = (timeline) =>
    timeline.box
      .querySelectorAll('[data-do="time"], [data-do="iteration"]')
      .forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.do === timeline.mode)));

  async function openTimeline(tile) {
    const cells = await Cells.load(tile.levels);
    const requests = tile.levels.requests ? await Requests.load(tile.levels.requests, cells) : null;
    const timeline = new Timeline(tile, cells, requests);
    timeline.lead = async (done) => {
      await done;
      if (timeline.mode === "time") await follow(isAll(timeline) ? null : timeline.window);
    };
    await timeline.draw(true);
    const stretch = (timeline.stretch = new Stretch(
      timeline,
      plain.filter((t) => (t.run || 0) === (tile.run || 0)),
    ));
    const path = (timeline.path = new RequestPath(timeline));
    timelines.push(timeline);
    selectByDrag(stretch);
    listen(timeline, stretch, path);
  }

  function listen(timeline, stretch, path) {
    const { gd, box } = timeline;
    gd.on("plotly_relayout", (e) => {
      const range = e["xaxis.range"] || [e["xaxis.range[0]"], e["xaxis.range[1]"]];
      if (Number.isFinite(range[0]) && Number.isFinite(range[1]))
        timeline.lead(timeline.show(range[0], range[1]));
    });
    const all = () => timeline.lead(timeline.show(...timeline.full()));
    gd.on("plotly_doubleclick", all);
    gd.addEventListener("mousemove", (e) => timeline.hover(e));
    gd.addEventListener("mouseleave", () => timeline.hideTip());
    gd.addEventListener("click", (e) => timeline.pick(e));
    const actions = {
      in: () => timeline.lead(timeline.zoom(0.5)),
      out: () => timeline.lead(timeline.zoom(2)),
      all,
      time: () => timeline.toggle("time"),
      iteration: () => timeline.toggle("iteration"),
    };
    press(timeline);
    for (const [name, act] of Object.entries(actions)) {
      box.querySelector(`[data-do="${name}"]`).addEventListener("click", async () => {
        await act();
        press(timeline);
      });
    }
    const column = () => timeline.cursor && timeline.columns[timeline.cursor.column];
    const keys = {
      ArrowLeft: () => timeline.move(-1, 0),
      ArrowRight: () => timeline.move(1, 0),
      ArrowUp: () => timeline.move(0, -1),
      ArrowDown: () => timeline.move(0, 1),
      "+": actions.in,
      "=": actions.in,
      "-": actions.out,
      0: all,
      Home: all,
      PageUp: () => timeline.lead(timeline.pan(-0.5)),
      PageDown: () => timeline.lead(timeline.pan(0.5)),
      Enter: () => {
        const c = column();
        if (c) timeline.lead(timeline.show(c.x0, c.x1));
      },
      s: () => stretch.selectWindow(),
      r: () => {
        const c = column(),
          found = c && requestsOf(timeline, c);
        if (found && found.length) path.show(found[0]);
        else path.input.focus();
      },
    };
    const grow = { ArrowLeft: -1, ArrowRight: 1 };
    gd.addEventListener("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey) return;
      if (e.shiftKey && grow[e.key]) {
        e.preventDefault();
        selectByKey(stretch, grow[e.key]);
        return;
      }
      if (!keys[e.key]) return;
      e.preventDefault();
      keys[e.key]();
    });
  }

  const requestsOf = (timeline, column) =>
    timeline.requests && !column.gap && timeline.exact
      ? timeline.requests.of(column.units[0], timeline.cursor.rank)
      : [];

  // The head's button: shows and selects the stretch that lost most, on the first timeline.
  function leadThere() {
    const button = document.querySelector(".worst button"),
      [timeline] = timelines;
    if (!button || !timeline) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const { cells, stretch, gd, box } = timeline,
        [first, last] = ["first", "last"].map((k) => cells.withNumber(Number(button.dataset[k])));
      await timeline.show(timeline.from(first), timeline.to(last));
      await stretch.set(first, last + 1);
      box.scrollIntoView({ block: "center" });
      gd.focus({ preventScroll: true });
    });
  }

  async function openPlain(tile) {
    if (tile.tabular) return; // HTML, and whole
    await drawPlain(tile);
    walkByKey(tile);
    if (!tile.timeAxis) return;
    const gd = document.getElementById(tile.id);
    const show = async (range) => {
      for (const t of timelines) if (t.mode === "time") await t.show(...(range || t.full()));
      await follow(range);
    };
    gd.on("plotly_relayout", (e) => {
      if (Number.isFinite(e["xaxis.range[0]"])) show([e["xaxis.range[0]"], e["xaxis.range[1]"]]);
    });
    gd.on("plotly_doubleclick", () => show(null));
  }

  for (const tile of page.tiles.filter((t) => t.levels)) await openTimeline(tile);
  for (const tile of plain) {
    await pause();
    await openPlain(tile);
  }
  reachTables();
  leadThere();
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    for (const t of timelines) t.stretch.clear();
  });
  const drawAll = () => {
    for (const t of timelines) t.draw();
    for (const tile of plain) drawPlain(tile);
  };
  darkScheme.addEventListener("change", drawAll);
  drawForPaper(drawAll);
  window.timelines = timelines; // for whoever looks at a page from its console
  document.documentElement.dataset.ready = performance.now().toFixed(0);
})();
