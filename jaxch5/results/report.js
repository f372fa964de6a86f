"use strict";

// Without this script the table is complete, in the order of the classes.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (up ? 1 : -1) * compare(a.cells[column], b.cells[column]));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(a, b) {
  if (a.dataset.value === undefined) {
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }
  // A share of no items is not a number, and is sorted as if it were 0.
  return (Number(a.dataset.value) || 0) - (Number(b.dataset.value) || 0);
}

// In a large matrix it is hard to see which row and column a cell is in.
for (const table of document.querySelectorAll("table.confusion")) {
  let lit = [];
  const light = (event) => {
    lit.forEach((heading) => heading.classList.remove("lit"));
    const cell = event.target.closest("td");
    lit = cell ? [table.rows[0].cells[cell.cellIndex], cell.parentNode.cells[0]] : [];
    lit.forEach((heading) => heading.classList.add("lit"));
  };
  table.addEventListener("pointerover", light);
  table.addEventListener("pointerleave", light);
}

// A cell of the matrix opens its pictures; without this script it links to them.
const dialog = document.createElement("dialog");
document.body.append(dialog);
for (const table of document.querySelectorAll("table.confusion")) {
  table.addEventListener("click", (event) => {
    const link = event.target.closest("td")?.querySelector("a");
    if (!link) return;
    event.preventDefault();
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    const group = document.getElementById(link.hash.slice(1)).cloneNode(true);
    dialog.replaceChildren(close, ...group.childNodes);
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
