"""The results of a comparison as a table: one set of cells for the terminal, Markdown and the report."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from potstill.evaluation.statistics import LEVEL, MINIMUM_PAIRS

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column: its key in the cells, its heading, and how early it goes when the terminal is narrow."""

    key: str
    heading: str
    goes: int | None = None  # 1 goes first; None stays


COLUMNS = (
    Column("method", "method"),
    Column("top1", "top-1 %"),
    Column("best", "best* %", goes=4),
    Column("n", "n", goes=5),
    Column("difference", "difference [95 %]"),
    Column("detectable", "detectable", goes=6),
    Column("verdict", "verdict"),
    Column("agreement", "agrees %", goes=3),
    Column("parameters", "parameters", goes=2),
    Column("seconds", "seconds", goes=1),
)
SHARED_ORDER = (
    "All students saw the same batches: seeds differ in initial weights and random draws, not in the order and "
    "augmentation of the data, and std leaves that out."
)
_STYLES = {"better": "green", "worse": "red", "undecided": "dim", "not powered": "dim"}


def cells(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The table's text, one dict from column key to text per line: the teacher, then the methods in order."""
    teacher = summary.get("teacher")
    lines = [_teacher(teacher)] if teacher else []
    return lines + [_method(row) for row in summary["rows"]]


def footnotes(summary: dict[str, Any], shown: Sequence[str] | None = None) -> list[str]:
    """What a reader must know to read the table; `shown` are the keys of its columns (default: all)."""
    shown = [column.key for column in COLUMNS] if shown is None else shown
    others = [row for row in summary["rows"] if row["method"] != summary["baseline"]]
    found = [row["difference"] for row in others if row["difference"]]
    notes = {"top1": "top-1: mean ± std over n seeds at the last epoch, which is the result."}
    notes["best"] = "* best: mean of each seed's best epoch on the test set. It peeks at the test set."
    if found:
        notes["difference"] = f"difference: points over {summary['baseline']}, paired by seed, and its 95 % "
        notes["difference"] += "Student-t interval."
        notes["detectable"] = "detectable: smallest true difference that these seeds find four times in five."
    elif others:
        notes["difference"] = f"No differences: no seed of {summary['baseline']} to compare with."
    if any(difference["verdict"] == "not powered" for difference in found):
        notes["verdict"] = f"not powered: a verdict needs at least {MINIMUM_PAIRS} seeds in common."
    elif len(found) > 1:
        notes["verdict"] = f"Each method is tested on its own at {100 * LEVEL:.0f} %: one in "
        notes["verdict"] += f"{round(1 / LEVEL)} without effect is called better or worse by chance."
    if any(row["agreement_mean"] is not None for row in summary["rows"]):
        notes["agreement"] = "agrees: share of test items where student and teacher give the same answer."
    if free := [row["method"] for row in others if row.get("teacher_free")]:
        notes["method"] = f"Trained without the teacher: {', '.join(free)}."
    if summary.get("order") == "shared":
        notes["order"] = f"{SHARED_ORDER} seconds: a student's share of the time of those that trained side by side."
    always = {"method", "top1", "difference", "order"}
    return [note for key, note in notes.items() if key in always or key in shown]


def comparison_table(summary: dict[str, Any], *, width: int | None = None) -> Table:
    """The table for a terminal `width` columns wide (default: this terminal's).

    Where it would not fit, seconds, parameters, agreement, best, n and detectable are left out in this
    order, and the footnotes say so.
    """
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    lines, shown, hidden = cells(summary), list(COLUMNS), []
    console = Console(width=10_000)
    while True:
        table = _table(summary, lines, shown, hidden)
        leaving = [column for column in shown if column.goes is not None]
        if table.__rich_measure__(console, console.options).maximum <= width or not leaving:
            return table
        gone = min(leaving, key=lambda column: column.goes or 0)
        shown.remove(gone)
        hidden.append(gone.heading)


def markdown_table(summary: dict[str, Any]) -> str:
    """The same table, all columns, as GitHub Markdown with its footnotes below; ends with a newline."""
    used = _used(summary, COLUMNS)
    rows = [[column.heading.replace("*", r"\*") for column in used]]
    rows.append([":--" if column.key in ("method", "verdict") else "--:" for column in used])
    rows += [[_escape(line[column.key]) for column in used] for line in cells(summary)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return text + "\n\n" + "  \n".join(note.replace("*", r"\*") for note in footnotes(summary)) + "\n"


def sentences(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What the numbers say, one plain sentence per method: `{"method", "verdict", "text"}`.

    `verdict` is that of the row, or `baseline`, or `alone` where there is nothing to compare with.
    """
    return [_sentence(row, summary["baseline"]) for row in summary["rows"]]


def _sentence(row: dict[str, Any], baseline: str) -> dict[str, str]:
    found = row["difference"]
    seeds = _seeds(row["n"] if found is None else found["n"])
    reached = _spread(row["top1_mean"], row["top1_std"], digits=1)
    over = "the lone student" if baseline == "student" else baseline
    if found is None:
        verdict = "baseline" if row["method"] == baseline else "alone"
        what = "what the others are compared with" if verdict == "baseline" else f"nothing to compare with {over}"
        return {"method": row["method"], "verdict": verdict, "text": f"{reached} % over {seeds}; {what}"}
    digits = 1 if found["detectable"] is None or found["detectable"] >= 0.2 else 2
    verdict, mean = found["verdict"], f"{found['mean']:+z.{digits}f}"
    interval = (
        "" if found["low"] is None else f"95 % interval {found['low']:z.{digits}f} to {found['high']:z.{digits}f}"
    )
    if verdict == "undecided":
        text = f"no difference that {seeds} can show ({mean}, {interval}; smallest detectable "
        text += f"{found['detectable']:.{digits}f})"
    elif verdict == "not powered":
        text = f"{mean} points against {over} ({', '.join(filter(None, [interval, seeds]))}), "
        text += f"not powered: a verdict needs {MINIMUM_PAIRS} seeds"
    else:
        side = "over" if verdict == "better" else "against"
        text = f"{mean} points {side} {over} ({interval}), {verdict}"
    return {"method": row["method"], "verdict": verdict, "text": text}


def _table(summary: dict[str, Any], lines: list[dict[str, str]], shown: list[Column], hidden: list[str]) -> Table:
    shown = _used(summary, shown)
    notes = footnotes(summary, [column.key for column in shown])
    if hidden:
        notes.append(f"Not shown at this width: {', '.join(hidden)}.")
    title = f"{summary['dataset']}: top-1 accuracy in percent, {summary['result']}"
    if name := (summary.get("teacher") or {}).get("model"):
        title += f"; teacher {name}"
    table = Table(
        title=Text(title),
        caption=Text("\n".join(notes)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in shown:
        words = column.key in ("method", "verdict")
        table.add_column(column.heading, justify="left" if words else "right", no_wrap=column.key != "method")
    for line in lines:
        texts = [Text(line[column.key], style=_style(line, column.key)) for column in shown]
        table.add_row(*texts, end_section=line is lines[0] and bool(summary.get("teacher")))
    return table


def _style(line: dict[str, str], key: str) -> str:
    return _STYLES.get(line["verdict"], "") if key in ("verdict", "difference") else ""


def _used(summary: dict[str, Any], columns: Any) -> list[Column]:
    """Without the columns that this summary has nothing for."""
    lines = cells(summary)
    return [column for column in columns if any(line[column.key] != NOTHING for line in lines)]


def _teacher(teacher: dict[str, Any]) -> dict[str, str]:
    return {
        "method": "teacher",
        "top1": _number(teacher.get("top1"), 2),
        "best": NOTHING,
        "n": NOTHING,
        "difference": NOTHING,
        "detectable": NOTHING,
        "verdict": NOTHING,
        "agreement": NOTHING,
        "parameters": _number(teacher.get("parameters"), 0),
        "seconds": _seconds(teacher.get("seconds")),
    }


def _method(row: dict[str, Any]) -> dict[str, str]:
    found = row["difference"] or {}
    difference = NOTHING
    if found:
        difference = f"{found['mean']:+z.2f}"
        if found["low"] is not None:
            difference += f" [{found['low']:z.2f}, {found['high']:z.2f}]"
    return {
        "method": row["method"],
        "top1": _spread(row["top1_mean"], row["top1_std"]),
        "best": _number(row["best_mean"], 2),
        "n": str(row["n"]),
        "difference": difference,
        "detectable": _number(found.get("detectable"), 2),
        "verdict": found.get("verdict", NOTHING),
        "agreement": _number(row["agreement_mean"], 1),
        "parameters": _number(row["parameters"], 0),
        "seconds": _seconds(row["seconds"]),
    }


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    return _number(value, 1 if value is not None and value < 100 else 0)


def _spread(mean: float, std: float | None, digits: int = 2) -> str:
    return f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")
