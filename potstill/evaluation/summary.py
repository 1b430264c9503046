"""The summary of a comparison: from trained students to one JSON-able table.

Conventions (design.md §4): accuracies in percent; the last epoch is the result, and the best epoch on the
test set stands beside it; a method is compared with the lone student over the seeds that both have.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from potstill.evaluation.statistics import mean_std, paired_difference


@dataclass(frozen=True)
class Cell:
    """One trained student: a method and a seed. Accuracies and agreement in percent."""

    method: str
    seed: int
    top1: float | None  # None of data without labels
    best_top1: float | None
    agreement: float | None
    parameters: int
    seconds: float
    expansion: str
    folder: str  # relative to the run's folder
    teacher_free: bool = False
    peak_mib: float | None = None  # see usage.Peak
    classifies: bool = True  # False: nothing trained its classifier, so its accuracy says nothing
    tail_top1: float | None = None  # where the training data has a tail: data.imbalance
    scores: Mapping[str, float] | None = None  # of data that is not classified: see scores.py

    @property
    def accuracy(self) -> float:
        """`top1`, where the data has labels."""
        if self.top1 is None:
            raise ValueError(f"{self.method!r} seed {self.seed} has no accuracy: its data has no labels")
        return self.top1


def summarise(
    *,
    dataset: str,
    teacher: dict[str, Any] | None,
    cells: Sequence[Cell],
    run: str,
    baseline: str = "student",
    notes: Sequence[str] = (),
    **extra: Any,
) -> dict[str, Any]:
    """The content of `summary.json`: one row per method, in order of first appearance.

    A row gives mean, sample standard deviation (null for one seed) and every seed's value, in order of the
    seeds; `difference` is null for the baseline, for a method without a seed in common with it, and where no
    baseline ran; `difference_kd` is the same against plain KD. Of a method whose students learn no classifier
    (`classifies`) accuracies, agreement and differences are null; of data without labels accuracies and differences
    are, and agreement is the result. Keywords beyond the named ones are copied to the top
    level.

    Raises ValueError for no cells, a method and seed given twice, a percentage outside 0 to 100, a method
    whose cells disagree on expansion, parameters or use of the teacher, a folder that leaves the run, and
    anything that JSON cannot hold.

    >>> cells = [Cell(m, s, 70.0 + s + (m == "kd"), 72.0, None, 10, 1.0, m, f"{m}/seed{s}")
    ...          for m in ("student", "kd") for s in range(2)]
    >>> rows = summarise(dataset="digits", teacher=None, cells=cells, run="demo")["rows"]
    >>> rows[1]["method"], rows[1]["difference"]["mean"], rows[1]["difference"]["verdict"]
    ('kd', 1.0, 'not powered')
    """
    if not cells:
        raise ValueError("nothing to summarise: no cells")
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        _check(cell)
        grouped.setdefault(cell.method, []).append(cell)
    for method, group in grouped.items():
        group.sort(key=lambda cell: cell.seed)
        _check_group(method, group)
    summary: dict[str, Any] = {
        "dataset": dataset,
        "teacher": teacher,
        "rows": [
            _row(group, *([] if method == name else grouped.get(name, []) for name in (baseline, "kd")))
            for method, group in grouped.items()
        ],
        "result": "last epoch",
        "baseline": baseline,
        "notes": [str(note) for note in notes],
        "run": run,
    }
    taken = sorted(summary.keys() & extra.keys())
    if taken:
        raise ValueError(f"{', '.join(taken)}: summarise() writes this itself")
    summary.update(extra)
    try:
        json.dumps(summary, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the summary cannot be written as JSON: {error}") from error
    return summary


def _row(group: Sequence[Cell], control: Sequence[Cell], kd: Sequence[Cell]) -> dict[str, Any]:
    classifies = group[0].classifies
    top1, best, agreement = (
        [float(value) if classifies and value is not None else None for value in values]
        for values in zip(*((cell.top1, cell.best_top1, cell.agreement) for cell in group), strict=True)
    )
    known = [value for value in agreement if value is not None]
    peaks = [cell.peak_mib for cell in group if cell.peak_mib is not None]
    (mean, std), (best_mean, _) = _mean_std(top1), _mean_std(best)
    tail = [cell.tail_top1 for cell in group]
    rare = {"tail_top1": tail} if any(value is not None for value in tail) else {}
    return {
        "method": group[0].method,
        "expansion": group[0].expansion,
        "teacher_free": group[0].teacher_free,
        "classifies": classifies,
        "top1_mean": mean,
        "top1_std": std,
        "n": len(group),
        "top1": top1,
        "seeds": [cell.seed for cell in group],
        "best_mean": best_mean,
        "best_top1": best,
        **rare,
        "agreement_mean": mean_std(known)[0] if known else None,
        "agreement": agreement,
        "difference": _difference(group, control),
        "difference_kd": _difference(group, kd),
        "parameters": int(group[0].parameters),
        "seconds": mean_std([cell.seconds for cell in group])[0],
        "peak_mib": mean_std(peaks)[0] if peaks else None,
        "folders": [cell.folder for cell in group],
    }


def _mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return mean_std(known) if known else (None, None)


def _difference(group: Sequence[Cell], control: Sequence[Cell]) -> dict[str, Any] | None:
    theirs = {cell.seed: cell.top1 for cell in control if cell.classifies and cell.top1 is not None}
    pairs = [
        (cell.top1, theirs[cell.seed])
        for cell in group
        if cell.seed in theirs and cell.classifies and cell.top1 is not None
    ]
    if not pairs:
        return None
    found = paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return {**asdict(found), "verdict": found.verdict, "paired": True}


def _check(cell: Cell) -> None:
    where = f"{cell.method!r} seed {cell.seed}"
    for name in ("top1", "best_top1", "agreement", "tail_top1"):
        value = getattr(cell, name)
        unknown = ("agreement", "tail_top1") if cell.top1 is not None or cell.best_top1 is not None else (name,)
        if value is None and name in unknown:
            continue
        if value is None or not 0 <= value <= 100:  # NaN fails the comparison
            raise ValueError(f"{where}: {name} is {value}; expected a percentage from 0 to 100")
    if not 0 <= cell.seconds < math.inf:
        raise ValueError(f"{where}: seconds is {cell.seconds}; expected a finite number, not negative")
    folder = PurePosixPath(cell.folder)
    if folder.is_absolute() or ".." in folder.parts:
        raise ValueError(f"{where}: folder {cell.folder!r} must be relative to the run and stay inside it")


def _check_group(method: str, group: Sequence[Cell]) -> None:
    seeds = [cell.seed for cell in group]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"{method!r}: seed {twice[0]} is given more than once")
    for name in ("expansion", "parameters", "teacher_free", "classifies"):
        values = {getattr(cell, name) for cell in group}
        if len(values) > 1:
            shown = ", ".join(sorted(str(value) for value in values))
            raise ValueError(f"{method!r}: its seeds disagree on {name} ({shown}); these are different methods")
