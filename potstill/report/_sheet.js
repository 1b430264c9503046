  // Sorting: ascending, descending, as written. Pinned rows stay on top, empty cells at the bottom.
  function sortBy(heading) {
    const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
    const rows = [...body.rows];
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const words = heading.classList.contains("words");
    const turns = words ? ["ascending", "descending", null] : ["descending", "ascending", null];
    const next = turns[(turns.indexOf(heading.getAttribute("aria-sort")) + 1) % 3];
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    if (next) heading.setAttribute("aria-sort", next);
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
      return cell.textContent.trim() === "–" ? null : cell.textContent.trim();
    };
    const compare = (a, b) => {
      const pinned = ("pinned" in b.dataset) - ("pinned" in a.dataset);
      if (pinned || !next) return pinned || a.dataset.place - b.dataset.place;
      const [left, right] = [key(a), key(b)];
      if (left === null || right === null) return (left === null) - (right === null) || a.dataset.place - b.dataset.place;
      const order = typeof left === "number" && typeof right === "number"
        ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
      return (next === "ascending" ? order : -order) || a.dataset.place - b.dataset.place;
    };
    body.append(...rows.sort(compare));
  }
  for (const button of document.querySelectorAll("table.sortable button.sort"))
    button.addEventListener("click", () => sortBy(button.closest("th")));

  // Methods: what is let go of vanishes from tables, lists and, by the signal `hiddenMethods`, from charts.
  const hiddenMethods = new Set();
  let charts = [];
  function applyMethods() {
    for (const place of document.querySelectorAll("[data-method]")) place.hidden = hiddenMethods.has(place.dataset.method);
    for (const button of document.querySelectorAll("[data-toggle]"))
      button.setAttribute("aria-pressed", String(!hiddenMethods.has(button.dataset.toggle)));
    for (const { view, vgSpec } of charts)
      if (vgSpec.signals?.some((signal) => signal.name === "hiddenMethods"))
        view.signal("hiddenMethods", [...hiddenMethods]).runAsync();
  }
  for (const button of document.querySelectorAll("[data-toggle]"))
    button.addEventListener("click", () => {
      const method = button.dataset.toggle;
      if (!hiddenMethods.delete(method)) hiddenMethods.add(method);
      applyMethods();
    });
  for (const button of document.querySelectorAll(".toggles .every"))
    button.addEventListener("click", () => { hiddenMethods.clear(); applyMethods(); });
  document.addEventListener("drawn", (event) => { charts = event.detail; if (hiddenMethods.size) applyMethods(); });
