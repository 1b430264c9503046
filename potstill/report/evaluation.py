"""The table of `potstill evaluate`: a row for each network that was not a student, then one for each method."""

from typing import Any

from potstill.report.sheet import EMPTY, Cell, Column, Note, Row, Sheet, number, spread


def sheet(table: dict[str, Any]) -> Sheet:
    """Of one run's `<suite>.json`: teacher and assistants on top, then each method, mean ± std over its seeds."""
    keys = table["columns"]
    # Columns on the right go first where the terminal is narrow.
    columns = [Column("method", "method", words=True), Column("n", "n", goes=len(keys) + 1)]
    columns += [
        Column(key, heading, goes=len(keys) - place or None) for place, (key, heading) in enumerate(keys.items())
    ]
    rows = []
    for other in filter(None, (table["teacher"], *table["assistants"])):
        cells = {key: number(other.get(key), 2) for key in keys}
        rows.append(Row({"method": Cell(other["name"]), **cells}, other["name"], pinned=True))
    for row in table["rows"]:
        cells = {key: EMPTY if row["mean"][key] is None else spread(row["mean"][key], row["std"][key]) for key in keys}
        rows.append(Row({"method": Cell(row["method"]), "n": number(row["n"], 0), **cells}, row["method"]))
    notes = [Note("mean ± std over n seeds."), *(Note(text) for text in table["notes"])]
    return Sheet(
        table["suite"], f"{table['dataset']}: {table['title']}", tuple(columns), tuple(rows), tuple(notes)
    ).used()
