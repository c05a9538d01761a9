// The metrics table sorts by the heading that is pressed; what is undefined stays at the end.

function makeSortable(table) {
  const headings = [...table.querySelectorAll("thead th[scope=col]")];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      // Numbers begin with the highest, names with the first.
      const next = now ? now !== "ascending" : column === 0;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", next ? "ascending" : "descending");
      sortRows(table.tBodies[0], column, next);
    });
  });
}

function sortRows(body, column, ascending) {
  const valueOfRow = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [left, right] = [valueOfRow(a), valueOfRow(b)];
    if (left === "" || right === "") return (left === "") - (right === "");
    const order = column ? Number(left) - Number(right) : left.localeCompare(right);
    return ascending ? order : -order;
  });
  body.append(...rows);
}

/** A bar behind each number, so that low ones are seen at a glance. */
function addBars(table) {
  for (const cell of table.tBodies[0].querySelectorAll("td.number")) {
    if (cell.dataset.value) cell.style.setProperty("--share", cell.dataset.value);
  }
}
