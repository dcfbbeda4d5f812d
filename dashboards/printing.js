"use strict";
// Paper: every figure is drawn again in the light palette at the width of the page. A figure that is
// a table gives way to the table behind it, which may go on over pages.

function drawForPaper(drawAll) {
  const switchTo = (paper) => {
    if (paper === printing) return;
    printing = paper;
    for (const details of document.querySelectorAll(".tabular details")) {
      if (paper) details.dataset.was = details.open;
      details.open = paper || details.dataset.was === "true";
    }
    document.documentElement.classList.toggle("printing", paper);
    drawAll();
  };
  addEventListener("beforeprint", () => switchTo(true));
  addEventListener("afterprint", () => switchTo(false));
}
