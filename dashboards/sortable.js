"use strict";
// Tables of class "sortable": a button in each heading sorts by it; a cell's data-v is its value.
(() => {
  const value = (row, column) => {
    const told = row.cells[column].dataset.v;
    const number = Number(told);
    return told === "" ? null : Number.isNaN(number) ? told : number;
  };
  const compare = (a, b) => typeof a === typeof b && typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place: Number(row.dataset.place ?? place), at: value(row, column) }));
    for (const r of rows) r.row.dataset.place = r.place;
    // What is not known stays last, whichever way; equals keep the order of the page.
    rows.sort((a, b) => (a.at === null) - (b.at === null) || (a.at === null ? 0 : direction * compare(a.at, b.at)) || a.place - b.place);
    body.append(...rows.map((r) => r.row));
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const status = table.closest(".tile").querySelector(".sorted");
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // Numbers begin with the largest, names with the first.
        const first = head.dataset.first === "ascending" ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const now = head.getAttribute("aria-sort") === first ? other : first;
        sort(table, column, now === "ascending" ? 1 : -1);
        if (status) status.textContent = `Sorted by ${button.textContent}, ${now}.`;
      });
    });
  }
})();
