"""Texts with a class or a score each: reading them, and the part of them that a student sees."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.hashing import hash_index

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")
FIRST = ("sentence", "text", "sentence1", "question1", "premise")
"""Usual names of the column of texts; the first that is there is taken."""
SECOND = {"sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
"""The column of the other text of a pair, where the first has this name."""
LABEL = ("label", "score")
Row = Mapping[str, Any]


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
        count = math.ceil(round(share * len(self), 6)) if share <= 1 else int(share)
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
    path = Path(path)
    rows: list[Row] = []
    for file in _files(path, split):
        rows += _rows(file)
    where = f"{path} ({split})" if path.is_dir() else str(path)
    if not rows:
        raise ValueError(f"{where}: it holds no rows")
    columns = list(rows[0])
    text = _column(where, "text", text, FIRST, columns)
    pair = pair if pair is not None else SECOND.get(text) if SECOND.get(text) in columns else None
    label = _column(where, "label", label, LABEL, columns)
    if pair is not None:
        _column(where, "pair", pair, (), columns)
    first = _texts(where, text, rows)
    second = None if pair is None else _texts(where, pair, rows)
    labels, names = _labels(where, [row.get(label) for row in rows], names)
    return Labelled(first, second, labels, names, path.name if path.is_dir() else path.stem)


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{path}: cannot read {path.suffix or 'a file without ending'}; give {', '.join(ENDINGS)}")
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


def _rows(file: Path) -> list[Row]:
    kind = file.suffix.lower()
    if kind == ".parquet":
        return pq.read_table(file).to_pylist()
    with file.open(encoding="utf-8", newline="") as lines:
        if kind == ".jsonl":
            return list(_json_rows(file, lines))
        return list(csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ","))


def _json_rows(file: Path, lines: Iterable[str]) -> Iterable[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}); every line is one object, "
                'such as {"text": "…", "label": 1}'
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: expected an object, got a {type(row).__name__}")
        yield row


def _column(where: str, what: str, given: str | None, usual: Sequence[str], columns: list[str]) -> str:
    if given is not None:
        if given not in columns:
            raise ValueError(f"{where}: no column {given!r}; {did_you_mean(given, columns)}")
        return given
    found = next((name for name in usual if name in columns), None)
    if found is None:
        raise ValueError(f"{where}: which column is the {what}? It has {', '.join(columns)}; name one ({what}=…)")
    return found


def _texts(where: str, column: str, rows: list[Row]) -> tuple[str, ...]:
    texts = []
    for number, row in enumerate(rows, 1):
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{where}, row {number}: {column!r} is {'empty' if not value else repr(value)}; give a text"
            )
        texts.append(value)
    return tuple(texts)


def _labels(where: str, values: list[Any], names: tuple[str, ...] | None) -> tuple[Tensor, tuple[str, ...]]:
    for number, value in enumerate(values, 1):
        if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{where}, row {number}: it has no label")
    words = [str(value) for value in values]
    if names == () or (names is None and not all(map(_whole, words)) and all(map(_number, words))):
        odd = next((number for number, word in enumerate(words, 1) if not _number(word)), None)
        if odd is not None:
            raise ValueError(f"{where}, row {odd}: the label {words[odd - 1]!r} is no number, as a score is")
        return torch.tensor([float(word) for word in words]), ()
    if names is None:
        kinds = set(words)
        names = tuple(sorted(kinds, key=int)) if all(map(_whole, kinds)) else tuple(sorted(kinds))
        if len(names) == 1:
            raise ValueError(f"{where}: all labels are {names[0]!r}; there is nothing to tell apart")
    place = {name: number for number, name in enumerate(names)}
    for number, word in enumerate(words, 1):
        if word not in place:
            raise ValueError(f"{where}, row {number}: training has no class {word!r}; {did_you_mean(word, names)}")
    return torch.tensor([place[word] for word in words]), names


def _whole(word: str) -> bool:
    return word.lstrip("-").isdigit()


def _number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
