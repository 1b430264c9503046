"""Rows of text as they lie in files: Parquet, JSON lines, and data sets of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from potstill.data.raw import VALID_NAMES
from potstill.data.stores import reading
from potstill.errors import did_you_mean
from potstill.hashing import hash_int

if TYPE_CHECKING:
    from potstill.language.labelled_spec import LabelledText
    from potstill.language.spec import Text

ENDINGS = (".parquet", ".jsonl")
EXAMPLE = '{"prompt": "Name a colour.", "response": "Red."}'
MISSING = object()
"""What a line of JSON does not have, which is not null."""


@dataclass(frozen=True)
class Table:
    """Columns by name, read when they are asked for. `starts` are the rows at which the files begin; row r of a file is
    its line `lines[r]` where it has lines.
    """

    names: tuple[str, ...]
    read: Callable[[str], Sequence[Any]]
    files: tuple[str, ...]
    starts: np.ndarray
    rows: int
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return self.rows

    def where(self, row: int) -> str:
        """The place of a row in words."""
        file = int(np.searchsorted(self.starts, row, "right")) - 1
        if self.lines is not None:
            return f"{self.files[file]}, line {self.lines[row]}"
        return f"{self.files[file]}, row {row - self.starts[file]}"

    def column(self, name: str) -> Sequence[Any]:
        """One value a row.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"{self.files[0]} has no column {name!r}; {did_you_mean(name, self.names)}")
        return self.read(name)


def splits(
    spec: Text | LabelledText,
    quiet: bool = False,
    read: Callable[[Path], Table] | None = None,
    endings: Sequence[str] = ENDINGS,
) -> Mapping[str, Callable[[], Table]]:
    """The splits that there are, by name, each read when it is called; files with these endings by `read`.

    Raises:
        ValueError: nothing is there, or nothing that can be read.
    """
    if spec.root is None:
        return _hub(spec, quiet)
    reader = read or one_file
    root, file = spec.root.expanduser(), spec.known.file if spec.known else None
    if not root.exists():
        raise ValueError(f"data.root {root} does not exist")
    if file and (root / file).is_file():
        root = root / file
    if root.is_file():
        return {spec.train_split: lambda: reader(root)}
    files = [path for path in sorted(root.iterdir()) if path.suffix in endings]
    files = files or [path for path in sorted(root.glob("data/*")) if path.suffix in endings]
    wanted = (spec.train_split, *((spec.valid_split,) if spec.valid_split else VALID_NAMES))
    pattern = re.compile(rf"^({'|'.join(map(re.escape, wanted))})(?![a-z])", re.IGNORECASE)
    groups: dict[str, list[Path]] = {}
    for path in files:
        if match := pattern.match(path.name):
            groups.setdefault(match[1].lower(), []).append(path)
    if not groups and len(files) == 1:
        groups = {spec.train_split: files}
    if not groups:
        there = ", ".join(path.name for path in sorted(root.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"no files {spec.train_split}-*.parquet or {spec.train_split}.jsonl in {root}; there is {there}; data.root "
            "may name one file, and data.train_split another split"
        )
    return {name: lambda paths=paths: joined([reader(path) for path in paths]) for name, paths in groups.items()}


def one_split(there: Mapping[str, Callable[[], Table]], split: str, title: str) -> Table:
    """Read a split of the data that is called `title`. Raises ValueError where there is none, or none with rows."""
    found = next((name for name in there if name.lower() == split.lower()), None)
    if found is None:
        raise ValueError(f"{title} has no split {split!r}; {did_you_mean(split, there)}")
    table = there[found]()
    if not len(table):
        raise ValueError(f"{table.files[0]}: split {split!r} of {title} has no rows")
    return table


def validation(spec: Text | LabelledText, there: Mapping[str, Any]) -> str | None:
    """The split to validate on, the named one or a usual one. Raises ValueError where the named one is not there."""
    if spec.valid_split is None:
        return next((name for name in VALID_NAMES if name in there), None)
    if spec.valid_split.lower() not in map(str.lower, there):
        raise ValueError(
            f"{spec.title} has no split {spec.valid_split!r} (data.valid_split); "
            f"{did_you_mean(spec.valid_split, there)}"
        )
    return spec.valid_split


def held_out(keys: Sequence[str], name: str, part: float, seed: int) -> np.ndarray:
    """Which rows are set aside, bool: by a hash of their keys, so that two of one key are on one side.

    Raises ValueError where that leaves none on a side.
    """
    limit = int(part * 2**63)
    held = np.array(
        [hash_int(seed, int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())) < limit for key in keys]
    )
    if held.all() or not held.any():
        raise ValueError(
            f"data.held_out={part} of the {len(keys)} rows of {name} leaves none to "
            f"{'train on' if held.all() else 'validate on'}; choose another part, or give it a validation split"
        )
    return held


def one_file(path: Path) -> Table:
    """A Parquet file, or one of JSON lines.

    Raises:
        ValueError: it cannot be read; of JSON lines, the line and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    if path.suffix == ".jsonl":
        return _lines(path)
    if path.suffix != ".parquet":
        raise ValueError(f"{path} is neither a .parquet nor a .jsonl file")
    with reading(path, lambda: pq.ParquetFile(path)) as file:
        names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    return Table(
        names,
        lambda name: reading(path, lambda: pq.ParquetFile(path).read([name]).column(0).to_pylist()),
        (str(path),),
        np.zeros(1, np.int64),
        rows,
    )


def joined(tables: Sequence[Table]) -> Table:
    """Files of one split, one behind the other.

    Raises:
        ValueError: files of two formats.
    """
    if len(tables) == 1:
        return tables[0]
    sizes = np.array([len(table) for table in tables])
    for table in tables:
        if (table.lines is None) != (tables[0].lines is None):
            raise ValueError(
                f"{tables[0].files[0]} and {table.files[0]} are one split in two formats; keep one of them"
            )
    return Table(
        tuple(dict.fromkeys(name for table in tables for name in table.names)),
        lambda name: [value for table in tables for value in table.column(name)],
        tuple(table.files[0] for table in tables),
        np.cumsum(sizes) - sizes,
        int(sizes.sum()),
        None
        if tables[0].lines is None
        else np.concatenate([table.lines for table in tables if table.lines is not None]),
    )


def _lines(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            rows.append(_object(line, f"{path}, line {number}"))
            numbers.append(number)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(
        names,
        lambda name: [row.get(name, MISSING) for row in rows],
        (str(path),),
        np.zeros(1, np.int64),
        len(rows),
        np.array(numbers, dtype=np.int64),
    )


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text := line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        shown = text.strip()
        shown = shown if len(shown) <= 80 else shown[:77] + "…"
        raise ValueError(
            f"{where}: not JSON ({error.msg}, column {error.colno}): {shown}\n{_mend(text.strip(), error)}"
        ) from error
    if isinstance(found, dict):
        return found
    raise ValueError(f"{where}: {kind_of(found)} where an object was expected, such as {EXAMPLE}")


def _mend(text: str, error: json.JSONDecodeError) -> str:
    if text in ("[", "{", "]", "}") or text.startswith("["):
        return "the file looks like one JSON document over many lines; write one object a line (jq -c '.[]' does it)"
    if re.search(r",\s*[}\]]", text):
        return "a comma before the closing bracket is one too many: take it out"
    if re.match(r"\{\s*'", text):
        return "JSON strings stand in double quotes: \"prompt\", not 'prompt' (Python's json.dumps writes them so)"
    if error.msg.startswith(("Unterminated string", "Expecting")) and not text.endswith("}"):
        return "the line ends inside the object: it was cut short, or a newline in a text was not written as \\n"
    if error.msg.startswith(("Invalid \\escape", "Invalid control character")):
        return 'inside a string write \\\\ for a backslash, \\" for a quote, \\n for a newline and \\t for a tab'
    if error.msg.startswith("Extra data"):
        return "one object a line: begin a new line for the next"
    return f"each line is one object, such as {EXAMPLE}"


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _hub(spec: Text | LabelledText, quiet: bool) -> Mapping[str, Callable[[], Table]]:
    local = "or name a local copy with --data.root"
    name, *config = spec.known.hub if spec.known else (spec.title,)
    config = [spec.config] if spec.config else config
    if not name:
        raise ValueError(f"{spec.title} is not on the Hugging Face hub; name its files with --data.root")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f'{spec.title!r} comes from the Hugging Face hub, which needs: pip install "potstill[language]"; {local}'
        ) from error
    try:
        if quiet:
            datasets.disable_progress_bars()
        found = datasets.load_dataset(name, *config)
    except Exception as error:  # network, server, cache and format errors of three libraries
        raise ValueError(
            f"could not load {name!r} from the Hugging Face hub ({type(error).__name__}: {error}); {local}"
        ) from error
    finally:
        if quiet:
            datasets.enable_progress_bars()

    def table(split: str) -> Table:
        part = found[split]
        place = (f"{name}, split {split}",)
        return Table(tuple(part.column_names), lambda column: part[column][:], place, np.zeros(1, np.int64), len(part))

    return {split: lambda split=split: table(split) for split in found}
