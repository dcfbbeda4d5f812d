"use strict";
// Every figure is reached by Tab and walked with the arrow keys; a line under it reads points out.

// A value as the number format of a Plotly template asks: ",.1f", ".2f", "," …
function formatted(value, form) {
  if (typeof value !== "number" || !form) return visible(value ?? "–");
  const digits = form.match(/\.(\d+)f/),
    most = digits ? Number(digits[1]) : /d$/.test(form) ? 0 : 3;
  return form.includes(",") ? decimals(value, most, digits ? most : 0) : value.toFixed(most);
}

// The template of a trace, which Plotly shows to the pointer, as a line of text.
function fillTemplate(template, trace, k, point) {
  const plain = template.replace(/<extra>[^]*?<\/extra>/g, "").replace(/<br>/g, " · ");
  return plain
    .replace(/%\{([^}:]+)(?::([^}]*))?\}/g, (_, path, form) => {
      const value =
        path === "fullData.name"
          ? trace.name
          : path
              .replace(/\]/g, "")
              .split(/[[.]/)
              .reduce(
                (from, key) => (from === undefined || from === null ? from : from[key]),
                point,
              );
      return formatted(value, form);
    })
    .replace(/<[^>]+>/g, "");
}

// The points of a figure: of each trace its marks, in words.
function pointsOf(spec) {
  const points = [];
  (spec.data || []).forEach((trace, t) => {
    const pick = (name, k) => (Array.isArray(trace[name]) ? trace[name][k] : trace[name]);
    if (trace.visible === "legendonly" || trace.visible === false) return;
    const along = trace.type === "box" ? trace.x : trace.orientation === "h" ? trace.y : trace.x;
    (along || []).forEach((_, k) => {
      const point = {
        x: pick("x", k),
        y: pick("y", k),
        z: pick("z", k),
        text: pick("text", k),
        customdata: pick("customdata", k),
        label: pick("labels", k),
      };
      if (trace.type === "box") {
        const unit = " ms",
          of = (name) => (trace[name] ? formatted(trace[name][k], ",.1f") + unit : "–");
        points.push({
          trace: t,
          k,
          words: `${visible(point.x)}: 5 % ${of("lowerfence")} · 25 % ${of("q1")} · median ${of("median")} · 75 % ${of("q3")} · 95 % ${of("upperfence")}`,
        });
        return;
      }
      if (point.y === null || point.x === null) return;
      const label = String(point.x ?? "").replace(/<br>/g, " ");
      const words = trace.hovertemplate
        ? fillTemplate(pick("hovertemplate", k), trace, k, point)
        : `${trace.name ? `${visible(trace.name)}: ` : ""}${visible(label)} · ${formatted(point.y, ",.3f")}`;
      points.push({ trace: t, k, words });
    });
  });
  return points;
}

function walkByKey(tile) {
  const gd = document.getElementById(tile.id),
    box = gd.closest(".tile");
  const readout = element("div", { class: "readout", role: "status", "aria-live": "polite" });
  gd.after(readout);
  gd.setAttribute("tabindex", "0");
  gd.setAttribute("role", "application");
  gd.setAttribute("aria-roledescription", "figure; arrow keys walk its points");
  let at = -1,
    of = null,
    points = [];
  const tell = (step, trace) => {
    const spec = tile.shown || tile.spec;
    if (of !== spec) {
      of = spec;
      points = pointsOf(spec);
      at = -1;
    }
    if (!points.length) return;
    if (trace && at >= 0) {
      const here = points[at],
        other = points.findIndex((p) => p.trace === here.trace + trace && p.k >= here.k);
      if (other >= 0) at = other;
    } else {
      at =
        at < 0
          ? step < 0
            ? points.length - 1
            : 0
          : Math.min(Math.max(at + step, 0), points.length - 1);
    }
    readout.textContent = `${points[at].words} (${at + 1} of ${points.length})`;
    const drawn = spec.data[points[at].trace];
    // Plotly looks in the first panel only, unless it is told the trace's own.
    Plotly.Fx.hover(
      gd,
      [{ curveNumber: points[at].trace, pointNumber: points[at].k }],
      (drawn.xaxis || "x") + (drawn.yaxis || "y"),
    );
  };
  const leave = () => {
    readout.textContent = "";
    at = -1;
    Plotly.Fx.unhover(gd);
  };
  const keys = {
    ArrowRight: () => tell(1),
    ArrowLeft: () => tell(-1),
    ArrowDown: () => tell(0, 1),
    ArrowUp: () => tell(0, -1),
    Home: () => {
      at = -1;
      tell(1);
    },
    End: () => {
      at = -1;
      tell(-1);
    },
    PageDown: () => tell(10),
    PageUp: () => tell(-10),
    Escape: leave,
  };
  gd.addEventListener("keydown", (e) => {
    if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey || e.shiftKey) return;
    e.preventDefault();
    keys[e.key]();
  });
  gd.addEventListener("blur", leave);
}

// Wide or long tables scroll; the keyboard reaches them, and says what they are.
function reachTables() {
  for (const region of document.querySelectorAll(".scroll:not([tabindex]), .wide"))
    if (region.className === "scroll" || region.scrollWidth > region.clientWidth)
      region.setAttribute("tabindex", "0");
}
