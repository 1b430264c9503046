"""Lists of what there is, in a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from potstill.pairs import SAMPLES, Tried

GAP = 2
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column: its key in the rows, how early it goes when the terminal is narrow, and how narrow it may be folded."""

    key: str
    goes: int | None = None  # 1 goes first; None stays
    least: int | None = None  # None: never folded

    @property
    def heading(self) -> str:
        return self.key.replace("_", " ")

    def width(self, lines: Sequence[dict[str, str]]) -> int:
        natural = max(len(self.heading), *(len(line[self.key]) for line in lines))
        return natural if self.least is None else min(natural, self.least)


METHODS = (
    Column("method"),
    Column("year"),
    Column("matches"),
    Column("weight", goes=2),
    Column("weight_from", goes=1),
    Column("parameters", goes=5),
    Column("stages", goes=3),
    Column("stands_for"),
    Column("title", goes=4, least=26),
)
FITTING = (
    Column("method"),
    Column("applies"),
    Column("parameters"),
    Column("MiB"),
    Column("matches", goes=2),
    Column("stages", goes=1),
    Column("stands_for", goes=3),
)


def listing(what: str, rows: Sequence[dict[str, Any]], width: int) -> Group:
    """Any rows with the same keys; the last column is folded where it must."""
    *names, last = rows[0]
    return _table(f"potstill {what}", rows, (*map(Column, names), Column(last, least=30)), width, ())


def methods(rows: Sequence[dict[str, Any]], counted: Tried, width: int) -> Group:
    """`methods_index.look`'s rows. Where they say what applies to a pair, the reasons stand below, each once."""
    pair = counted.pair
    trained = "parameters: trained beside the student's"
    if "applies" not in rows[0]:
        note = f"{trained}, here for {pair.teacher} and {pair.student}. For two others, and what applies to them: "
        notes = [f"{note}potstill list methods --for TEACHER STUDENT", *_texts(rows)]
        return _table("potstill methods", rows, METHODS, width, notes)
    sizes = [f"{name} ({size:,})" for name, size in zip((pair.teacher, pair.student), counted.sizes, strict=True)]
    title = f"methods for {sizes[0]} and {sizes[1]}"
    shape = f"{pair.channels} x {pair.size} x {pair.size} pixels and {pair.classes} classes"
    notes = [f"{trained}. MiB: memory banks, queues and other buffers, for {SAMPLES:,} samples. Inputs: {shape}."]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(row["reason"], []).append(row["method"])
    notes += [f"Not {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return _table(title, rows, FITTING, width, notes)


def _texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Which methods are for data of another kind than images."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        if row["wants"]:
            kinds.setdefault(row["wants"], []).append(row["method"])
    return [f"{', '.join(names)}: for {wants}." for wants, names in kinds.items()]


def _table(
    title: str, rows: Sequence[dict[str, Any]], columns: Sequence[Column], width: int, notes: Sequence[str]
) -> Group:
    lines = [{key: _text(value, grouped=key != "year") for key, value in row.items()} for row in rows]
    shown, hidden = list(columns), []
    while sum(column.width(lines) + GAP for column in shown) > width + GAP:
        leaving = [column for column in shown if column.goes is not None]
        if not leaving:
            break
        gone = min(leaving, key=lambda column: column.goes or 0)
        shown.remove(gone)
        hidden.append(gone.heading)
    notes = [*notes, *([f"Not shown at this width: {', '.join(hidden)}; --json has all."] if hidden else [])]
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        padding=(0, GAP, 0, 0),
        pad_edge=False,
    )
    room = width - sum(column.width(lines) + GAP for column in shown) + GAP
    for column in shown:
        values = [row[column.key] for row in rows if row[column.key] is not None]
        number = values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        table.add_column(
            column.heading,
            justify="right" if number and column.key != "year" else "left",
            overflow="fold",
            min_width=column.width(lines) if room >= 0 else None,
        )
    for row, line in zip(rows, lines, strict=True):
        style = "dim" if row.get("applies") is False else ""
        table.add_row(*(Text(line[column.key]) for column in shown), style=style)
    return Group(table, *(Text(f"\n{note}") for note in notes))


def _text(value: Any, grouped: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}" if grouped else str(value)
    if isinstance(value, float):
        return f"{value:,.10g}"
    return ", ".join(value) if isinstance(value, list) else str(value)
