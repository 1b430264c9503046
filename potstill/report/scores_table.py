"""The table of a comparison by scores: the teacher, then the methods in order, one column a measure."""

from __future__ import annotations

from typing import Any

from potstill.evaluation.statistics import MINIMUM_PAIRS
from potstill.report.sheet import Cell, Column, Note, Row, Sheet, interval, number, seconds, spread

DIGITS = 2


def scores_sheet(summary: dict[str, Any]) -> Sheet:
    """The table of `summary.json` of kind "scores"; columns without any value are left out."""
    measures = summary["measures"]
    columns = (
        Column("method", "method", words=True),
        *(
            Column(f"score {one['name']}", one["title"], goes=None if not place else 6)
            for place, one in enumerate(measures)
        ),
        Column("n", "n", goes=5),
        Column("difference", f"{measures[0]['title']}: difference [95 %]"),
        Column("detectable", "detectable", goes=4),
        Column("verdict", "verdict", words=True),
        Column("parameters", "parameters", goes=3),
        Column("seconds", "seconds", goes=2),
        Column("peak", "peak MiB", goes=1),
    )
    teacher = summary.get("teacher")
    rows = [_teacher(teacher, measures)] if teacher else []
    rows += [_method(row, measures) for row in summary["rows"]]
    return Sheet("results", _title(summary), columns, tuple(rows), tuple(_notes(summary))).used()


def _title(summary: dict[str, Any]) -> str:
    name = (summary.get("teacher") or {}).get("model")
    return f"{summary['dataset']}, {summary['result']}" + (f"; teacher {name}" if name else "")


def _teacher(teacher: dict[str, Any], measures: list[dict[str, Any]]) -> Row:
    scores = teacher.get("scores") or {}
    cells = {f"score {one['name']}": number(scores.get(one["name"]), DIGITS) for one in measures}
    more = {"parameters": number(teacher.get("parameters"), 0), "seconds": seconds(teacher.get("seconds"))}
    return Row({"method": Cell("(teacher)"), **cells, **more}, pinned=True)


def _method(row: dict[str, Any], measures: list[dict[str, Any]]) -> Row:
    cells = {
        f"score {one['name']}": spread(row["mean"][one["name"]], row["std"][one["name"]], DIGITS, strong=not place)
        for place, one in enumerate(measures)
    }
    cells |= {
        "method": Cell(row["method"]),
        "n": number(row["n"], 0),
        "parameters": number(row["parameters"], 0),
        "seconds": seconds(row["seconds"]),
        "peak": number(row.get("peak_mib"), 0),
    }
    if found := row["difference"]:
        cells |= {
            "difference": interval(found["mean"], found["low"], found["high"], found["verdict"]),
            "detectable": number(found["detectable"], DIGITS),
            "verdict": Cell(found["verdict"], tone=found["verdict"]),
        }
    return Row(cells, method=row["method"])


def _notes(summary: dict[str, Any]) -> list[Note]:
    found = [row["difference"] for row in summary["rows"] if row["difference"]]
    lower = [one["title"] for one in summary["measures"] if not one["higher"]]
    notes = [Note("mean ± std over n seeds at the last epoch, which is the result.")]
    notes += [Note(f"Less is better: {', '.join(lower)}.")] if lower else []
    if found:
        notes.append(Note(f"difference: to {summary['baseline']}, paired by seed, and its 95 % Student-t interval."))
        notes.append(
            Note("detectable: smallest true difference that these seeds find four times in five.", "detectable")
        )
    if any(one["verdict"] == "not powered" for one in found):
        notes.append(Note(f"not powered: a verdict needs at least {MINIMUM_PAIRS} seeds in common.", "verdict"))
    others = [row for row in summary["rows"] if row["method"] != summary["baseline"] and row["teacher_free"]]
    if others:
        notes.append(Note(f"Trained without the teacher: {', '.join(row['method'] for row in others)}."))
    return notes
