"""The results of one comparison: its table, for the terminal, Markdown and the report, and what it says in words."""

from typing import Any

from rich.console import Group

from potstill.evaluation.statistics import LEVEL, MINIMUM_PAIRS, mean_std
from potstill.report import formats
from potstill.report.sheet import (
    EMPTY,
    Cell,
    Column,
    Marks,
    Note,
    Row,
    Sheet,
    interval,
    number,
    seconds,
    seeds,
    spread,
)

SHARED_ORDER = (
    "All students saw the same batches: seeds differ in initial weights and random draws, not in the order and "
    "augmentation of the data, and std leaves that out."
)
COLUMNS = (
    Column("method", "method", words=True),
    Column("top1", "top-1 %"),
    Column("best", "best* %", goes=5),
    Column("tail", "tail %", goes=10),
    Column("n", "n", goes=8),
    Column("published", "published %", goes=6),
    Column("difference", "difference [95 %]"),
    Column("difference_kd", "over kd [95 %]", goes=7),
    Column("detectable", "detectable", goes=9),
    Column("verdict", "verdict", words=True),
    Column("agreement", "agrees %", goes=4),
    Column("parameters", "parameters", goes=3),
    Column("seconds", "seconds", goes=2),
    Column("peak", "peak MiB", goes=1),
)


def run_sheet(summary: dict[str, Any], *, key: str = "results", title: str = "") -> Sheet:
    """The table of a comparison: the teacher, then the methods in order; columns without any value are left out.

    `title` is by default the data set, what is measured and the teacher.
    """
    marks, teacher = Marks(), summary.get("teacher")
    rows = [_teacher(teacher, marks)] if teacher else []
    rows += [_method(row, marks) for row in summary["rows"]]
    notes = [*_footnotes(summary), *marks.notes()]
    return Sheet(key, title or _title(summary), COLUMNS, tuple(rows), tuple(notes)).used()


def comparison_table(summary: dict[str, Any], *, width: int | None = None) -> Group:
    """The table for a terminal `width` columns wide (default: this terminal's).

    Where it would not fit, memory, seconds, parameters, agreement, best, published, the difference to KD, n and
    detectable are left out in this order, and the footnotes say so.
    """
    return formats.rich_table(run_sheet(summary), width)


def markdown_table(summary: dict[str, Any]) -> str:
    """The same table, all columns, as GitHub Markdown with its footnotes below; ends with a newline."""
    return formats.markdown(run_sheet(summary))


def sentences(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What the numbers say, one plain sentence per method: `{"method", "verdict", "text"}`.

    `verdict` is that of the row, or `baseline`, or `alone` where there is nothing to compare with.
    """
    return [_sentence(row, summary["baseline"]) for row in summary["rows"]]


def _title(summary: dict[str, Any]) -> str:
    title = f"{summary['dataset']}: top-1 accuracy in percent, {summary['result']}"
    if name := (summary.get("teacher") or {}).get("model"):
        title += f"; teacher {name}"
    return title


def _footnotes(summary: dict[str, Any]) -> list[Note]:
    """What a reader must know to read the table."""
    others = [row for row in summary["rows"] if row["method"] != summary["baseline"]]
    found = [row["difference"] for row in others if row["difference"]]
    notes = [
        Note("top-1: mean ± std over n seeds at the last epoch, which is the result."),
        Note("* best: mean of each seed's best epoch on the test set. It peeks at the test set.", "best"),
    ]
    notes.append(Note("tail: the same on the rarest third of the classes.", "tail"))
    if found:
        text = f"difference: points over {summary['baseline']}, paired by seed, and its 95 % Student-t interval."
        notes.append(Note(text))
    elif others:
        notes.append(Note(f"No differences: no seed of {summary['baseline']} to compare with."))
    notes.append(Note("over kd: the same against kd.", "difference_kd"))
    if found:
        text = "detectable: smallest true difference that these seeds find four times in five."
        notes.append(Note(text, "detectable"))
    if any(difference["verdict"] == "not powered" for difference in found):
        notes.append(Note(f"not powered: a verdict needs at least {MINIMUM_PAIRS} seeds in common.", "verdict"))
    elif len(found) > 1:
        text = f"Each method is tested on its own at {100 * LEVEL:.0f} %: one in {round(1 / LEVEL)} without effect "
        notes.append(Note(text + "is called better or worse by chance.", "verdict"))
    text = "agrees: share of test items where student and teacher give the same answer."
    notes.append(Note(text, "agreement"))
    notes.append(Note("peak: most memory of the device in use at once while training, mean over seeds.", "peak"))
    if summary.get("order") == "shared":
        notes.append(Note(SHARED_ORDER))
        text = "seconds: a student's share of the time of those that trained side by side."
        notes.append(Note(text, "seconds"))
    if none := [row["method"] for row in summary["rows"] if not trained_classifier(row)]:
        text = f"No top-1, as features are learnt and no classifier: {', '.join(none)}. What they are worth says "
        notes.append(Note(text + "potstill evaluate RUN --suite retrieval."))
    if free := [row["method"] for row in others if row.get("teacher_free")]:
        notes.append(Note(f"Trained without the teacher: {', '.join(free)}."))
    return notes


def _teacher(teacher: dict[str, Any], marks: Marks) -> Row:
    cells = {
        "method": Cell("teacher"),
        "top1": number(teacher.get("top1"), 2),
        "tail": number(teacher.get("tail_top1"), 2),
        "published": marks.cell(teacher.get("published")),
        "parameters": number(teacher.get("parameters"), 0),
        "seconds": seconds(teacher.get("seconds")),
    }
    return Row(cells, "teacher", pinned=True)


def _method(row: dict[str, Any], marks: Marks) -> Row:
    found = row["difference"] or {}
    verdict = found.get("verdict", "")
    cells = {
        "method": Cell(row["method"]),
        "top1": accuracy(row),
        "best": spread(*mean_std(row["best_top1"])) if trained_classifier(row) else EMPTY,
        "tail": spread(*mean_std(tail)) if (tail := row.get("tail_top1")) else EMPTY,
        "n": number(row["n"], 0),
        "published": marks.cell(row.get("published")),
        "difference": difference(row["difference"]),
        "difference_kd": difference(row.get("difference_kd")),
        "detectable": number(found.get("detectable"), 2),
        "verdict": Cell(verdict, tone=verdict) if verdict else EMPTY,
        "agreement": number(row["agreement_mean"], 1),
        "parameters": number(row["parameters"], 0),
        "seconds": seconds(row["seconds"]),
        "peak": number(row.get("peak_mib"), 0),
    }
    return Row(cells, row["method"])


def trained_classifier(row: dict[str, Any]) -> bool:
    """Whether the accuracies of a method mean anything: its students' classifiers were trained."""
    return row.get("classifies", True)


def accuracy(row: dict[str, Any], **kw: Any) -> Cell:
    """A row's top-1; nothing where no classifier was trained."""
    return spread(row["top1_mean"], row["top1_std"], **kw) if trained_classifier(row) else EMPTY


def difference(found: dict[str, Any] | None) -> Cell:
    """A row's difference with its interval, in the tone of its verdict."""
    return EMPTY if found is None else interval(found["mean"], found["low"], found["high"], tone=found["verdict"])


def _sentence(row: dict[str, Any], baseline: str) -> dict[str, str]:
    found = row["difference"]
    if not trained_classifier(row):
        text = f"features of {seeds(row['n'])} without a trained classifier: no top-1 to compare with {baseline}"
        return {"method": row["method"], "verdict": "alone", "text": text}
    counted = seeds(row["n"] if found is None else found["n"])
    over = "the lone student" if baseline == "student" else baseline
    if found is None:
        verdict = "baseline" if row["method"] == baseline else "alone"
        what = "what the others are compared with" if verdict == "baseline" else f"nothing to compare with {over}"
        reached = spread(row["top1_mean"], row["top1_std"], digits=1).text
        return {"method": row["method"], "verdict": verdict, "text": f"{reached} % over {counted}; {what}"}
    digits = 1 if found["detectable"] is None or found["detectable"] >= 0.2 else 2
    verdict, mean = found["verdict"], f"{found['mean']:+z.{digits}f}"
    between = "" if found["low"] is None else f"95 % interval {found['low']:z.{digits}f} to {found['high']:z.{digits}f}"
    if verdict == "undecided":
        text = f"no difference that {counted} can show ({mean}, {between}; smallest detectable "
        text += f"{found['detectable']:.{digits}f})"
    elif verdict == "not powered":
        text = f"{mean} points against {over} ({', '.join(filter(None, [between, counted]))}), "
        text += f"not powered: a verdict needs {MINIMUM_PAIRS} seeds"
    else:
        side = "over" if verdict == "better" else "against"
        text = f"{mean} points {side} {over} ({between}), {verdict}"
    return {"method": row["method"], "verdict": verdict, "text": text}
