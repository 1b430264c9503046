"""The summary of a comparison whose students are measured by scores: of texts, or of rankings.

One row a method, as `summary.py` writes them of accuracies; what differs is that there are several measures, and that
less may be better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from potstill.evaluation.statistics import mean_std, paired_difference
from potstill.evaluation.summary import Cell

KIND = "scores"


@dataclass(frozen=True)
class Measure:
    """One number by which students are compared."""

    name: str
    title: str
    higher: bool = True
    """More is better."""


def summarise_scores(
    *,
    dataset: str,
    teacher: dict[str, Any] | None,
    cells: Sequence[Cell],
    measures: Sequence[Measure],
    run: str,
    baseline: str = "student",
    notes: Sequence[str] = (),
    **extra: Any,
) -> dict[str, Any]:
    """The content of `summary.json`: one row per method, in order of first appearance.

    The first measure is the one by which methods are compared with `baseline`, over the seeds that both have. The
    difference is method less baseline; its verdict knows which way is better.

    Raises ValueError for no cells or measures, a cell without one of the measures, and what JSON cannot hold.

    >>> cells = [Cell(m, s, None, None, None, 10, 1.0, m, f"{m}/seed{s}", scores={"loss": 2.0 + s - (m == "kd")})
    ...          for m in ("student", "kd") for s in range(2)]
    >>> loss = Measure("loss", "loss", higher=False)
    >>> found = summarise_scores(dataset="x", teacher=None, cells=cells, measures=[loss], run="r")
    >>> found["rows"][1]["mean"], found["rows"][1]["difference"]["mean"]
    ({'loss': 1.5}, -1.0)
    """
    if not cells or not measures:
        raise ValueError("nothing to summarise: no cells, or no measure")
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        missing = [measure.name for measure in measures if measure.name not in (cell.scores or {})]
        if missing:
            raise ValueError(f"{cell.method!r} seed {cell.seed} has no {', '.join(missing)}")
        grouped.setdefault(cell.method, []).append(cell)
    control = grouped.get(baseline, [])
    summary: dict[str, Any] = {
        "kind": KIND,
        "dataset": dataset,
        "teacher": teacher,
        "measures": [asdict(measure) for measure in measures],
        "rows": [_row(group, [] if name == baseline else control, measures) for name, group in grouped.items()],
        "result": "last epoch",
        "baseline": baseline,
        "notes": [str(note) for note in notes],
        "run": run,
        **extra,
    }
    try:
        json.dumps(summary, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the summary cannot be written as JSON: {error}") from error
    return summary


def _row(group: Sequence[Cell], control: Sequence[Cell], measures: Sequence[Measure]) -> dict[str, Any]:
    group = sorted(group, key=lambda cell: cell.seed)
    values = {measure.name: [_score(cell, measure.name) for cell in group] for measure in measures}
    found = {name: mean_std(some) for name, some in values.items()}
    peaks = [cell.peak_mib for cell in group if cell.peak_mib is not None]
    return {
        "method": group[0].method,
        "expansion": group[0].expansion,
        "teacher_free": group[0].teacher_free,
        "n": len(group),
        "seeds": [cell.seed for cell in group],
        "scores": values,
        "mean": {name: mean for name, (mean, _) in found.items()},
        "std": {name: std for name, (_, std) in found.items()},
        "difference": _difference(group, control, measures[0]),
        "parameters": int(group[0].parameters),
        "seconds": mean_std([cell.seconds for cell in group])[0],
        "peak_mib": mean_std(peaks)[0] if peaks else None,
        "folders": [cell.folder for cell in group],
    }


def _score(cell: Cell, name: str) -> float:
    scores: Mapping[str, float] = cell.scores or {}
    return float(scores[name])


def _difference(group: Sequence[Cell], control: Sequence[Cell], measure: Measure) -> dict[str, Any] | None:
    theirs = {cell.seed: _score(cell, measure.name) for cell in control}
    pairs = [(_score(cell, measure.name), theirs[cell.seed]) for cell in group if cell.seed in theirs]
    if not pairs:
        return None
    found = paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    verdict = found.verdict
    if not measure.higher:
        verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    return {**asdict(found), "verdict": verdict, "paired": True}
