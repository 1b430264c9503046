"""The tables of `potstill evaluate`: a row for each network that was not a student, then one for each method."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.checkpoint import write_beside
from potstill.report import formats
from potstill.report.sheet import EMPTY, NOTHING, Cell, Column, Note, Row, Sheet, interval, number, spread


def sheets(table: dict[str, Any]) -> list[Sheet]:
    """Of one run's `<suite>.json`: each part, mean ± std over seeds, then the differences to the lone student."""
    parts = [_part(table, title, keys) for title, keys in _parts(table).items()]
    # A part that no network has a value for (likeness, without a teacher) goes.
    found = [part for part in parts if any(column.key not in ("method", "n") for column in part.columns)]
    differences = _differences(table)
    found += [differences] if differences else []
    notes = tuple(Note(text) for text in table["notes"])
    last = found[-1] if found else parts[-1]
    return [*found[:-1], Sheet(last.key, last.title, last.columns, last.rows, (*last.footnotes, *notes))]


def write_markdown(table: dict[str, Any], path: Path) -> None:
    """The same as GitHub Markdown, each table below its title."""
    parts = [f"### {formats.escaped(sheet.title)}\n\n{formats.markdown(sheet)}" for sheet in sheets(table)]
    write_beside(path, lambda temporary: temporary.write_text("\n".join(parts)))


def read(run: Path, name: str) -> dict[str, Any] | None:
    """The table of a suite in a run's folder; None where there is none. Raises ValueError for a file that is none."""
    path = run / f"{name}.json"
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        missing = [key for key in ("suite", "title", "dataset", "columns", "rows", "notes") if key not in table]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    return table


def _parts(table: dict[str, Any]) -> dict[str, Sequence[str]]:
    return table.get("parts") or {table["title"]: list(table["columns"])}


def _part(table: dict[str, Any], title: str, keys: Sequence[str]) -> Sheet:
    columns = [Column("method", "method", words=True), Column("n", "n", goes=len(keys) + 1), *_columns(table, keys)]
    rows = []
    for other in filter(None, (table["teacher"], *table["assistants"])):
        cells = {key: number(other.get(key), _digits(key)) for key in keys}
        rows.append(Row({"method": Cell(other["name"]), **cells}, other["name"], pinned=True))
    for row in table["rows"]:
        cells = {
            key: EMPTY if row["mean"][key] is None else spread(row["mean"][key], row["std"][key], _digits(key))
            for key in keys
        }
        rows.append(Row({"method": Cell(row["method"]), "n": number(row["n"], 0), **cells}, row["method"]))
    known = any(row[key].text != NOTHING for row in rows for key in keys)
    sheet = Sheet(
        f"{table['suite']}-{list(_parts(table)).index(title)}",
        f"{table['dataset']}: {title}",
        tuple(columns) if known else tuple(columns[:2]),
        tuple(rows),
        (Note("mean ± std over n seeds."),),
    )
    return sheet.used()


def _differences(table: dict[str, Any]) -> Sheet | None:
    rows = [row for row in table["rows"] if row.get("difference")]
    if not rows:
        return None
    keys = list(table["better"])
    lines = []
    for row in rows:
        found = row["difference"]
        cells = {
            key: interval(*(found[key][w] for w in ("mean", "low", "high")), found[key]["verdict"], _digits(key))
            for key in keys
            if key in found
        }
        lines.append(Row({"method": Cell(row["method"]), **cells}, row["method"]))
    lower = [table["columns"][key] for key in keys if table["better"][key] == "lower"]
    notes = [
        "Mean over the seeds that both have, and 95 % Student-t interval; no correction for the number of columns."
    ]
    notes += [f"Less is better: {', '.join(lower)}."] if lower else []
    return Sheet(
        f"{table['suite']}-difference",
        f"{table['dataset']}: difference to the lone student, paired",
        (Column("method", "method", words=True), *_columns(table, keys)),
        tuple(lines),
        tuple(Note(text) for text in notes),
    ).used()


def _columns(table: dict[str, Any], keys: Sequence[str]) -> list[Column]:
    """Those on the right go first where the terminal is narrow."""
    return [Column(key, table["columns"][key], goes=len(keys) - place or None) for place, key in enumerate(keys)]


def _digits(key: str) -> int:
    return 3 if key.startswith(("nll", "brier", "kl", "cka")) else 2
