"""Texts with a class or a score each: reading them, and the part of them that a student sees."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.hashing import hash_index
from potstill.language.tables import MISSING, Table, joined, one_file

SEPARATED = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".parquet", ".jsonl", *SEPARATED)
FIRST = ("sentence", "text", "sentence1", "question1", "premise")
"""Usual names of the column of texts; the first that is there is taken."""
SECOND = {"sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
"""The column of the other text of a pair, where the first has this name."""
LABEL = ("label", "score")


@dataclass(frozen=True)
class Labelled:
    """N texts, or pairs of texts. `labels` `[N]` are int64 with the `names` of the classes, or float32 scores."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: Tensor
    names: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.first)

    @property
    def outputs(self) -> int:
        """How many outputs a network for it has: transformers' `num_labels`."""
        return len(self.names) or 1

    def take(self, rows: Sequence[int] | Tensor, name: str | None = None) -> Labelled:
        """Some of the texts, in that order."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        places = rows.tolist()
        second = None if self.second is None else tuple(self.second[row] for row in places)
        return Labelled(
            tuple(self.first[row] for row in places), second, self.labels[rows], self.names, name or self.name
        )

    def part(self, share: float, seed: int = 0) -> Labelled:
        """That share of the texts, a fraction in (0, 1] or a number above 1 of them, the same for a `seed`.

        A smaller part is contained in a larger one. Classes have equally many texts while each has some left; scores
        are drawn evenly.

        Raises:
            ValueError: a share that is not positive, above what there is, or too small for one text of every class.
        """
        count = ceil(round(share * len(self), 6)) if share <= 1 else int(share)
        least = self.outputs
        if not least <= count <= len(self):
            raise ValueError(
                f"{self.name}: a share of {share:g} is {count} of {len(self)} texts; expected {least} (one of each "
                f"class) to {len(self)}"
            )
        return self.take(self._order(seed)[:count], f"{self.name}, {count} of them")

    def _order(self, seed: int) -> Tensor:
        """A random order in which the classes take turns."""
        order = hash_index(torch.arange(len(self)), seed, "share").argsort(stable=True)
        kind = self.labels[order] if self.names else torch.zeros(len(self), dtype=torch.int64)
        by_kind = kind.argsort(stable=True)
        begins = kind.bincount().cumsum(0) - kind.bincount()
        turn = torch.empty_like(order)
        turn[by_kind] = torch.arange(len(self)) - begins[kind[by_kind]]
        return order[turn.argsort(stable=True)]

    def with_rows(self, other: Labelled) -> Labelled:
        """These texts and behind them the others (augmented ones, say).

        Raises:
            ValueError: single texts beside pairs, or other classes.
        """
        if (self.second is None) != (other.second is None) or self.names != other.names:
            shown = [
                f"{one.name} ({'pairs' if one.second else 'texts'} of {one.names or 'scores'})" for one in (self, other)
            ]
            raise ValueError(f"texts do not go together: {shown[0]} and {shown[1]}")
        second = None if self.second is None or other.second is None else self.second + other.second
        return replace(
            self, first=self.first + other.first, second=second, labels=torch.cat([self.labels, other.labels])
        )


def read(
    path: str | Path,
    split: str = "train",
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    names: tuple[str, ...] | None = None,
) -> Labelled:
    """Read texts and labels from a Parquet, JSONL, CSV or TSV file, or the `split` of a folder of such files.

    Columns that are not named are found under their usual names (`FIRST`, `SECOND`, `LABEL`). Whole numbers and words
    are classes, other numbers scores. Validation data must be given the `names` of the training data's classes (`()`
    for scores).

    Raises:
        ValueError: a file or column that is not there, a line that cannot be read (with its number), an empty text, a
            missing label, a label that training did not have.
    """
    path = Path(path).expanduser()
    table = joined([table_of(file) for file in _files(path, split)])
    return labelled(table, path.name if path.is_dir() else path.stem, text=text, pair=pair, label=label, names=names)


def labelled(
    table: Table,
    name: str,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    names: tuple[str, ...] | None = None,
    classes: bool = False,
) -> Labelled:
    """Rows that are read already, see `read`. With `classes` the labels are classes, whatever they look like.

    Raises:
        ValueError: as `read` does.
    """
    if not len(table):
        raise ValueError(f"{table.files[0]}: it has no rows")
    text = text or _found(table, "text", FIRST)
    usual = SECOND.get(text)
    pair = pair or (usual if usual in table.names else None)
    labels, names = _labels(table, label or _found(table, "label", LABEL), names, classes)
    second = None if pair is None else _texts(table, pair)
    return Labelled(_texts(table, text), second, labels, names, name)


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such file or folder")
    here = [file for file in sorted(path.iterdir()) if file.suffix.lower() in ENDINGS]
    found = [file for file in here if file.stem == split or file.stem.startswith(f"{split}-")]
    if not found:
        raise ValueError(
            f"{path}: no {split}.csv, {split}.jsonl or {split}-*.parquet; there is "
            + (", ".join(file.name for file in here) or "nothing of that kind")
        )
    return found


def table_of(file: Path) -> Table:
    """A Parquet, JSONL, CSV or TSV file, with values of the last two as strings. Raises ValueError for what is none."""
    if file.suffix.lower() not in SEPARATED:
        return one_file(file)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=SEPARATED[file.suffix.lower()])
        rows, numbers = [], []
        for row in reader:
            rows.append(row)
            numbers.append(reader.line_num)
    names = tuple(reader.fieldnames or ())
    places = np.array(numbers, dtype=np.int64)
    return Table(names, lambda name: [r[name] for r in rows], (str(file),), np.zeros(1, np.int64), len(rows), places)


def _found(table: Table, what: str, usual: Sequence[str]) -> str:
    name = next((name for name in usual if name in table.names), None)
    if name is None:
        raise ValueError(
            f"{table.files[0]}: which column is the {what}? It has {', '.join(table.names)}; name one ({what}=…)"
        )
    return name


def _texts(table: Table, name: str) -> tuple[str, ...]:
    texts = tuple(table.column(name))
    for row, value in enumerate(texts):
        if not isinstance(value, str) or not value.strip():
            found = "empty" if value in (None, MISSING) or isinstance(value, str) else repr(value)
            raise ValueError(f"{table.where(row)}: {name!r} is {found}; every row needs a text")
    return texts


def _labels(table: Table, name: str, names: tuple[str, ...] | None, classes: bool) -> tuple[Tensor, tuple[str, ...]]:
    values = table.column(name)
    for row, value in enumerate(values):
        if value is None or value is MISSING or value == "" or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"{table.where(row)}: it has no {name!r}")
    words = [str(value) for value in values]
    numbers = sum(map(_number, words))
    broken = not all(map(_whole, words)) and not classes
    if names is None and broken and len(words) > numbers > len(words) / 2:
        odd = next(row for row, word in enumerate(words) if not _number(word))
        raise ValueError(
            f"{table.where(odd)}: the label {words[odd]!r} is no number, as those of most rows are; mend it, or say "
            "that labels are classes (data.kind)"
        )
    if names == () or (names is None and broken and numbers == len(words)):
        odd = next((row for row, word in enumerate(words) if not _number(word)), None)
        if odd is not None:
            raise ValueError(f"{table.where(odd)}: the label {words[odd]!r} is no number, as a score is")
        return torch.tensor([float(word) for word in words]), ()
    if names is None:
        names = tuple(sorted(set(words), key=int if all(map(_whole, words)) else str))
        if len(names) == 1:
            raise ValueError(f"{table.files[0]}: all labels are {names[0]!r}; there is nothing to tell apart")
    place = {word: number for number, word in enumerate(names)}
    for row, word in enumerate(words):
        if word not in place:
            raise ValueError(f"{table.where(row)}: training has no class {word!r}; {did_you_mean(word, names)}")
    return torch.tensor([place[word] for word in words]), names


def _whole(word: str) -> bool:
    return word.lstrip("-").isdigit()


def _number(word: str) -> bool:
    try:
        return isfinite(float(word))
    except ValueError:
        return False
