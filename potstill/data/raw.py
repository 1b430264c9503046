"""A split before it is decoded: labels are known, images are still bytes or paths. Rows are chosen here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from potstill.errors import did_you_mean
from potstill.hashing import hash_index

Item = bytes | Path | None
"""One encoded image; None where the source has nothing."""

VALID_NAMES = ("validation", "valid", "val", "dev", "test")
"""Names of splits to validate on, best first."""


class Store(Protocol):
    """Where encoded images lie, by place. It holds no pixels, and is small enough for every worker to have a copy.

    `kept` are the attributes that an index on disk keeps: arrays and plain values.
    """

    kept: ClassVar[tuple[str, ...]]

    def read(self, places: np.ndarray) -> list[Item]: ...

    def where(self, place: int) -> str:
        """A name for messages."""
        ...

    def blocks(self, places: np.ndarray) -> tuple[np.ndarray, int] | None:
        """For each place a number, equal where places are read at once, and how many blocks a process may keep.

        None where any order is as good as another.
        """
        ...

    def stamp(self, changed: bool = True) -> Any:
        """What identifies the contents: names, sizes and, unless not `changed`, times of change."""
        ...

    def watched(self) -> list[Path]:
        """Files and folders of which one changes when images come or go."""
        ...


@dataclass(frozen=True, eq=False)
class Raw:
    """One split as a reader found it.

    `labels` is an array `[N]` of int64, or of strings that are not numbered yet; `names` are the class names
    where the source gives them, `()` where it has no labels. `places` `[N]` says where each row lies in `store`.
    `watch` are further files that it was made from.
    """

    split: str
    labels: np.ndarray
    names: tuple[str, ...] | None
    store: Store
    places: np.ndarray
    watch: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: np.ndarray) -> list[Item]:
        """Encoded images."""
        return self.store.read(self.places[rows])

    def where(self, row: int) -> str:
        """A row for a message."""
        return self.store.where(int(self.places[row]))

    def stamp(self, changed: bool = True) -> Any:
        """What identifies the files and the choice of rows (`changed`: with times of change, which a copy loses)."""
        return [self.store.stamp(changed), hashlib.sha256(self.places.astype(np.int64).tobytes()).hexdigest()]

    def take(self, rows: np.ndarray, split: str | None = None) -> Raw:
        return replace(self, split=split or self.split, labels=self.labels[rows], places=self.places[rows])


def fingerprint(*parts: Any) -> str:
    """Hash of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def stamp(path: Path, root: Path) -> tuple[str, int, int]:
    """Name, size and time of change of a file; zeros where it is missing (decoding will say so)."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    try:
        found = path.stat()
    except OSError:
        return name, 0, 0
    return name, found.st_size, found.st_mtime_ns


def settle(train: Raw, valid: Raw | None) -> tuple[Raw, Raw | None, tuple[str, ...], list[str]]:
    """Number the labels of both splits alike, and check them.

    Returns the splits, the class names and notes.

    Raises:
        ValueError: a label outside the class range, a class that only the validation split has, or splits
            that
            disagree on the class names.
    """
    if train.names == ():
        return train, valid, (), []
    splits = [train] if valid is None else [train, valid]
    if any(split.labels.dtype.kind != train.labels.dtype.kind for split in splits):
        raise ValueError(f"labels are numbers in one of the splits {[s.split for s in splits]} and names in the other")
    if train.labels.dtype.kind == "i":
        names = train.names
        if valid is not None and valid.names != names:
            raise ValueError(f"the splits {train.split!r} and {valid.split!r} do not have the same class names")
        if names is None:
            highest = max(0, *(int(split.labels.max()) for split in splits))
            names = tuple(str(label) for label in range(highest + 1))
        for split in splits:
            _check_range(split, len(names))
    else:
        names = tuple(sorted(set(train.labels.tolist())))
        number = {name: label for label, name in enumerate(names)}
        for place, split in enumerate(splits):
            for row, name in enumerate(split.labels.tolist()):
                if name not in number:
                    raise ValueError(
                        f"{split.where(row)}: class {name!r} of split {split.split!r} has no training image; "
                        f"{did_you_mean(name, names)}"
                    )
            numbers = np.array([number[name] for name in split.labels.tolist()], dtype=np.int64)
            splits[place] = replace(split, labels=numbers)
    if len(names) < 2:
        raise ValueError(f"only one class ({names[0]!r}); classification needs at least two")
    return splits[0], (splits[1] if valid is not None else None), names, case_notes(names)


def _check_range(split: Raw, classes: int) -> None:
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{split.where(row)} (row {row} of split {split.split!r}) has label {split.labels[row]}, "
            f"expected 0 to {classes - 1} for {classes} classes; {len(wrong)} of {len(split)} labels are outside"
        )


def case_notes(names: Sequence[str]) -> list[str]:
    """Notes on class names that differ only by case: usually one class, written in two ways."""
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(map(repr, group)) for group in seen.values() if len(group) > 1]
    return [f"class names that differ only by case count as different classes: {'; '.join(alike)}"] if alike else []


def interleave(labels: np.ndarray, salt: str | None = None) -> np.ndarray:
    """An order of the rows that goes round the classes, so that a prefix is balanced as long as the classes
    last.

    Inside a class rows stay in order, or are shuffled by a hash of `salt`.

    >>> interleave(np.array([0, 0, 0, 1, 2])).tolist()
    [0, 3, 4, 1, 2]
    """
    order = np.arange(len(labels)) if salt is None else _shuffled(len(labels), salt)
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    turn = np.concatenate([np.arange(count) for count in counts])  # how many of its class came before
    return by_class[np.lexsort((labels[by_class], turn))]


def stratified(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, each in order. The choice depends on the labels and nothing else.

    Raises:
        ValueError: `fraction` is not in (0, 1), or no class has two images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"valid_fraction must lie between 0 and 1, got {fraction}")
    order = _shuffled(len(labels), "validation split")
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held[rows[:count]] = True
    if not held.any():
        raise ValueError("no validation split, and no class has two images of which one could be set aside")
    return np.flatnonzero(~held), np.flatnonzero(held)


def limit(split: Raw, rows: int | None, option: str) -> Raw:
    """The first `rows` rows.

    Raises:
        ValueError: `rows` is below 1 or larger than the split.
    """
    if rows is None:
        return split
    check_rows(rows, len(split), option, f"split {split.split!r}")
    return split.take(np.arange(rows)) if rows < len(split) else split


def check_rows(rows: int, there: int, option: str, what: str) -> None:
    if not 1 <= rows <= there:
        raise ValueError(f"{option}={rows}, but {what} has {there} rows; give 1 to {there}, or leave it out")


def _shuffled(count: int, salt: str) -> np.ndarray:
    return np.argsort(hash_index(torch.arange(count), salt).numpy(), kind="stable")
