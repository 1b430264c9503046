"""Published CIFAR-100 numbers, to stand beside ours with their source, never in their place.

`published.csv` has a line per method and snapshot and a column per pair of networks; accuracies are top-1 in percent.
All were read on 20 November 2026 in the README of the repository that the line names, not in the papers. Where a
README was changed, each snapshot is a line with its date, and `published` gives the latest. Baselines in the README
of giakoumoglou/distillers equal RepDistiller's digit for digit: they were copied there, not run again.

They belong to RepDistiller's protocol: all of CIFAR-100 with its 100 classes, 32 x 32, crops and flips, SGD, 240
epochs, the tables' own teachers. Methods of later repositories (`dkd`, `dist`, `itrd`, `ls_kd`) keep that protocol
but set weights and temperatures pair by pair. Whether authors report the last epoch or the best is not always known.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.recipe import Recipe

DATA = "cifar100"
EPOCHS = 240
SIZE = 32


@dataclass(frozen=True)
class Published:
    """A published accuracy in percent and where it was read; `std` where the source gives one."""

    value: float
    source: str
    std: float | None = None


def published(data: str, teacher: str, student: str, method: str) -> Published | None:
    """The latest published top-1 of a method on a pair of the zoo's networks, or None where none is known.

    `method` is a method string, `student` the lone student, `teacher` the teacher itself. Written weights and
    options (`icd:2`, `kd(temperature=2)`) are other methods than the published ones. Whether a run is like the
    published one is the caller's to say: see `comparable`.

    >>> published("cifar100", "wrn_40_2", "wrn_16_2", "icd+kd").value
    76.06
    >>> published("cifar100", "vgg13", "MobileNetV2", "icd+kd").source
    'README of giakoumoglou/distillers, 14 November 2024 (there DCD+KD)'
    >>> published("digits", "wrn_40_2", "wrn_16_2", "kd") is None
    True
    """
    found = snapshots(data, teacher, student, method)
    return found[-1] if found else None


def snapshots(data: str, teacher: str, student: str, method: str) -> list[Published]:
    """Every published number of a cell, oldest first.

    >>> [found.value for found in snapshots("cifar100", "vgg13", "MobileNetV2", "icd+kd")]
    [69.37, 69.55, 69.77]
    """
    return _table().get((teacher, student, method.replace(" ", "")), []) if data == DATA else []


def comparable(recipe: Recipe) -> bool:
    """Whether a recipe's data and length are those of the published numbers.

    True for all of CIFAR-100 with its fine labels at 32 x 32, crops and flips, and 240 epochs. Not looked at: optimiser
    and learning rate, which differ between students, and which teacher it was.

    >>> from potstill.data import Data
    >>> from potstill.recipe import Recipe
    >>> comparable(Recipe(data=Data("cifar100"))), comparable(Recipe(data=Data("cifar100", train_rows=10_000)))
    (True, False)
    """
    data = recipe.data
    whole = data.train_rows is None and data.valid_rows is None and not data.skip_unreadable
    whole = whole and data.label_noise == 0 and data.imbalance == 1
    classes = data.label in (None, "fine_label")
    sizes = {data.size, recipe.teacher.size, recipe.student.size} <= {None, SIZE}
    seen = data.augment == "crop-flip" and data.views is None and data.held_out is None
    return data.name == DATA and whole and classes and sizes and seen and recipe.fit.epochs == EPOCHS


@lru_cache
def _table() -> dict[tuple[str, str, str], list[Published]]:
    text = files("potstill").joinpath("published.csv").read_text(encoding="utf-8")
    lines = sorted(csv.DictReader(text.splitlines()), key=lambda line: line["date"])
    found: dict[tuple[str, str, str], list[Published]] = {}
    for line in lines:
        for pair, number in line.items():
            if ">" in pair and number:
                teacher, student = pair.split(">")
                value, _, std = number.partition("±")
                published = Published(float(value), line["source"], float(std) if std else None)
                found.setdefault((teacher, student, line["method"]), []).append(published)
    return found


def add_published(summary: dict[str, Any], recipe: Recipe) -> None:
    """Published numbers beside a run's own, where it is of the protocol that they belong to."""
    if not comparable(recipe):
        return
    names = DATA, recipe.teacher.name, recipe.student.name
    for row in (*summary["rows"], summary["teacher"]):
        found = published(*names, row.get("method", "teacher"))
        row["published"] = found and {"value": found.value, "source": found.source}
