"use strict";
// Paper: every figure is drawn again in the light palette at the width of the page.

function drawForPaper(drawAll) {
  const switchTo = (paper) => {
    if (paper === printing) return;
    printing = paper;
    document.documentElement.classList.toggle("printing", paper);
    drawAll();
  };
  addEventListener("beforeprint", () => switchTo(true));
  addEventListener("afterprint", () => switchTo(false));
}
