"""Where encoded images lie: files, members of tar shards, rows of Parquet files or of a `datasets` table.

A store knows places, not pixels. It is made of arrays and short lists, so that worker processes share it without a copy
and an index on disk can keep it; nothing in it is open when it is sent to another process.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.data.raw import Item, stamp

KEPT_BYTES = 256 * 2**20
"""Encoded bytes of a Parquet source that one process keeps at hand. Sources that are larger are shuffled in windows."""


class Strings:
    """Very many short strings, in one array of bytes.

    >>> Strings.of(["a.jpg", "b.jpg"])[1]
    'b.jpg'
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, values: Iterable[str]) -> Strings:
        parts = [os.fsencode(value) for value in values]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> str:
        start = 0 if place == 0 else int(self.ends[place - 1])
        return os.fsdecode(self.text[start : int(self.ends[place])].tobytes())


class Files:
    """Image files below a folder (or anywhere: a name may be absolute). `notes` say where each one is listed."""

    kept: ClassVar[tuple[str, ...]] = ("root", "names", "sizes", "times", "notes")

    def __init__(self, root: str, names: Strings, sizes: np.ndarray, times: np.ndarray, notes: Strings | None = None):
        self.root, self.names, self.sizes, self.times, self.notes = root, names, sizes, times, notes

    @classmethod
    def of(cls, paths: Sequence[Path], root: Path, notes: Sequence[str] | None = None) -> Files:
        marks = [stamp(path, root) for path in paths]
        sizes, times = (np.array([mark[part] for mark in marks], dtype=np.int64) for part in (1, 2))
        listed = None if notes is None else Strings.of(notes)
        return cls(str(root), Strings.of(mark[0] for mark in marks), sizes, times, listed)

    def read(self, places: np.ndarray) -> list[Item]:
        return [Path(self.root, self.names[place]) for place in places.tolist()]

    def where(self, place: int) -> str:
        path = str(Path(self.root, self.names[place]))
        return path if self.notes is None else f"{path} ({self.notes[place]})"

    def blocks(self, places: np.ndarray) -> None:
        return None

    def stamp(self, changed: bool = True) -> Any:
        parts = [self.names.text, self.names.ends, self.sizes, *([self.times] if changed else [])]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return ["files", digest.hexdigest()]

    def watched(self) -> list[Path]:
        root = Path(self.root)
        leaves = {os.path.dirname(self.names[place]) for place in range(len(self.names))}
        inner = {parent for leaf in leaves for parent in Path(root, leaf).parents if parent.is_relative_to(root)}
        # A class that had no image yet is no leaf, but a folder beside one.
        beside = {Path(entry.path) for folder in inner for entry in os.scandir(folder) if entry.is_dir()}
        return sorted({root, *inner, *beside, *(Path(root, leaf) for leaf in leaves)})


class _Shards:
    """Several files of one folder that hold images, with their sizes and times of change."""

    def __init__(self, base: str, files: Sequence[Sequence[Any]]):
        self.base, self.files = base, [list(file) for file in files]

    def path(self, number: int) -> Path:
        return Path(self.base, self.files[number][0])

    def stamp(self, changed: bool = True) -> Any:
        return [type(self).__name__.lower(), [file if changed else file[:2] for file in self.files]]

    def watched(self) -> list[Path]:
        paths = [self.path(number) for number in range(len(self.files))]
        return sorted({*paths, *(path.parent for path in paths)})


class Members(_Shards):
    """Members of tar files: `shard`, `start` and `size` `[N]` give the bytes of each image."""

    kept: ClassVar[tuple[str, ...]] = ("base", "files", "names", "shard", "start", "size")

    def __init__(
        self,
        base: str,
        files: Sequence[Sequence[Any]],
        names: Strings,
        shard: np.ndarray,
        start: np.ndarray,
        size: np.ndarray,
    ):
        super().__init__(base, files)
        self.names, self.shard, self.start, self.size = names, shard, start, size

    def read(self, places: np.ndarray) -> list[Item]:
        items: list[Item] = [None] * len(places)
        shards = self.shard[places]
        for number in np.unique(shards).tolist():
            with self.path(number).open("rb") as file:
                for row in np.flatnonzero(shards == number).tolist():
                    file.seek(int(self.start[places[row]]))
                    items[row] = file.read(int(self.size[places[row]]))
        return items

    def where(self, place: int) -> str:
        return f"{self.path(int(self.shard[place]))}, member {self.names[place]}"

    def blocks(self, places: np.ndarray) -> None:
        return None


class Parquet(_Shards):
    """Rows of Parquet files, read by row group: row group g is group `group[g]` of file `shard[g]` and ends before row
    `ends[g]`. The last ones read, `KEPT_BYTES` of them, stay at hand.
    """

    kept: ClassVar[tuple[str, ...]] = ("base", "files", "column", "shard", "group", "ends", "weight")

    def __init__(
        self,
        base: str,
        files: Sequence[Sequence[Any]],
        column: str,
        shard: np.ndarray,
        group: np.ndarray,
        ends: np.ndarray,
        weight: np.ndarray,
    ):
        super().__init__(base, files)
        self.column, self.shard, self.group, self.ends, self.weight = column, shard, group, ends, weight
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def read(self, places: np.ndarray) -> list[Item]:
        items: list[Item] = [None] * len(places)
        part = np.searchsorted(self.ends, places, side="right")
        for number in np.unique(part).tolist():
            rows = np.flatnonzero(part == number)
            inside = places[rows] - self._start(number)
            found = self._column(number).take(pa.array(inside)).to_pylist()
            for row, value in zip(rows.tolist(), found, strict=True):
                items[row] = item_of(value, Path(self.base))
        return items

    def values(self, column: str) -> pa.ChunkedArray:
        """A whole column, of labels say."""
        parts = [self._load(number, column) for number in range(len(self.ends))]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    def where(self, place: int) -> str:
        number = int(np.searchsorted(self.ends, place, side="right"))
        file = int(self.shard[number])
        first = int(np.flatnonzero(self.shard == file)[0])
        return f"{self.path(file).name}, row {place - self._start(first)}"

    def blocks(self, places: np.ndarray) -> tuple[np.ndarray, int] | None:
        part = np.searchsorted(self.ends, places, side="right")
        weight = self.weight[np.unique(part)]
        if int(weight.sum()) <= KEPT_BYTES:
            return None
        # Half of them: while one window ends the next one begins, and no row group is read twice.
        return part, max(1, KEPT_BYTES // 2 // int(weight.mean()))

    def stamp(self, changed: bool = True) -> Any:
        return [*super().stamp(changed), self.column]

    def _start(self, number: int) -> int:
        return 0 if number == 0 else int(self.ends[number - 1])

    def _column(self, number: int) -> pa.ChunkedArray:
        if number not in self._kept:
            self._kept[number] = self._load(number, self.column)
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _load(self, number: int, column: str) -> pa.ChunkedArray:
        path = self.path(int(self.shard[number]))

        def load() -> pa.ChunkedArray:
            with pq.ParquetFile(path) as file:
                return file.read_row_group(int(self.group[number]), columns=[column], use_threads=False).column(0)

        return reading(path, load)


class Rows:
    """Rows of a `datasets.Dataset`, which maps its files into memory itself."""

    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self, table: Any, column: str, split: str):
        self.table, self.column, self.split = table.select_columns([column]).with_format("arrow"), column, split

    def read(self, places: np.ndarray) -> list[Item]:
        return [item_of(value, Path()) for value in self.table[places.tolist()].column(0).to_pylist()]

    def where(self, place: int) -> str:
        return f"{self.split}, row {place}"

    def blocks(self, places: np.ndarray) -> None:
        return None

    def stamp(self, changed: bool = True) -> Any:
        return ["rows", self.column, len(self.table), getattr(self.table, "_fingerprint", None)]

    def watched(self) -> list[Path]:
        return []


STORES = {kind.__name__: kind for kind in (Files, Members, Parquet)}
"""Stores that an index on disk can hold."""


def reading(path: Path, work: Callable[[], Any]) -> Any:
    """What `work` gives; ValueError where the file is no Parquet."""
    try:
        return work()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet (truncated or damaged?): {error}") from error


def item_of(value: Any, base: Path) -> Item:
    """The image in a cell: bytes, or a mapping of bytes and path as `datasets` writes it."""
    if not isinstance(value, dict):
        return value
    if value["bytes"] is not None:
        return value["bytes"]
    return base / value["path"] if value.get("path") else None
