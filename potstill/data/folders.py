"""Images in files: folders of class folders, and CSV tables of paths and labels."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from potstill.data.raw import VALID_NAMES, Raw, interleave
from potstill.data.spec import Data
from potstill.data.stores import Files
from potstill.errors import did_you_mean

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
LABEL_COLUMNS = ("label", "class")


def contents(root: Path) -> str:
    """A short list of what lies in a folder, for messages."""
    folders, endings = [], Counter()
    for entry in sorted(root.iterdir()):
        if entry.is_dir():
            folders.append(entry.name)
        else:
            endings[entry.suffix.lower() or "no ending"] += 1
    shown = [f"{count} file(s) with {ending}" for ending, count in endings.most_common(4)]
    if folders:
        shown.append(f"folder(s) {', '.join(folders[:6])}{' …' if len(folders) > 6 else ''}")
    return "; ".join(shown) or "nothing: it is empty"


def subfolders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def images_below(folder: Path) -> tuple[list[Path], int]:
    """All images below a class folder in a fixed order, and the number of other files."""
    images, others = [], 0
    for place, inner, files in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                images.append(Path(place, name))
            elif not name.startswith("."):
                others += 1
    return images, others


def class_folders(root: Path) -> tuple[Raw, Raw | None, list[str]]:
    """`train/<class>/*.jpg` with `val`, `valid`, `validation` or `test`, or `<class>/*.jpg`. Also returns
    notes.

    Raises:
        ValueError: no class folders, only one, or a class that only the validation split has.
    """
    by_name = {folder.name.lower(): folder for folder in subfolders(root)}
    held = next((name for name in VALID_NAMES if name in by_name), None)
    train = next((by_name[name] for name in ("train", "training") if name in by_name), None)
    if train is None and held is not None and set(by_name) <= set(VALID_NAMES):
        raise ValueError(f"no folder train in {root}; there is {contents(root)}")
    notes: list[str] = []
    first, names = _class_split("train", train or root, None, notes)
    if train is None or held is None:
        return first, None, notes
    return first, _class_split(held, by_name[held], names, notes)[0], notes


def _class_split(
    split: str, folder: Path, names: tuple[str, ...] | None, notes: list[str]
) -> tuple[Raw, tuple[str, ...]]:
    found = {inner.name: images_below(inner) for inner in subfolders(folder)}
    classes = tuple(name for name, (images, _) in found.items() if images)
    if not classes:
        raise ValueError(
            f"nothing to read in {folder}: looked for train-*.parquet files, for class folders with images "
            f"({', '.join(ENDINGS[:4])} …) and for a CSV of paths and labels; there is {contents(folder)}"
            f"{_nested(folder)}"
        )
    if names is None and len(classes) == 1:
        inner = [below.name for below in subfolders(folder / classes[0])]
        raise ValueError(
            f"only one class folder ({classes[0]!r}) in {folder}; a folder per class is expected"
            + (f"; is {folder / classes[0]} meant, with {', '.join(inner[:6])}?" if len(inner) > 1 else "")
        )
    for name in classes:
        if names is not None and name not in names:
            raise ValueError(f"{folder / name}: class {name!r} has no training image; {did_you_mean(name, names)}")
    names = names or classes
    if empty := [name for name, (images, _) in found.items() if not images and name not in names]:
        notes.append(f"{split}: {len(empty)} folder(s) without an image left out: {', '.join(empty[:5])}")
    if others := sum(count for _, count in found.values()):
        notes.append(f"{split}: {others} file(s) that are not images left out")
    pairs = [(path, label) for label, name in enumerate(names) for path in found.get(name, ([], 0))[0]]
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    order = interleave(labels)
    paths = [pairs[row][0] for row in order.tolist()]
    return Raw(split, labels[order], names, Files.of(paths, folder), np.arange(len(paths))), names


def _nested(folder: Path) -> str:
    """A hint where the data lies one folder deeper."""
    inside = [inner for inner in subfolders(folder) if next(inner.glob("*.parquet"), None)]
    return f"; {inside[0]} holds Parquet files: is it meant?" if inside else ""


def csv_files(root: Path) -> dict[str, Path]:
    """CSV files by split: `root` itself, train.csv and its companions, or the only one with a path column."""
    if root.is_file():
        return {"train": root}
    files = {file.stem.lower(): file for file in sorted(root.glob("*.csv"))}
    if "train" in files:
        return {name: file for name, file in files.items() if name in ("train", *VALID_NAMES)}
    fitting = [file for file in files.values() if _lists_images(file)]
    return {"train": fitting[0]} if len(fitting) == 1 else {}


def csv_tables(files: dict[str, Path], data: Data) -> tuple[Raw, Raw | None]:
    """Splits from CSV files with a column of paths, one of labels, and optionally one of splits.

    Raises:
        ValueError: a column that is missing, a row without path or label, or an unknown split.
    """
    tables = {name: _read_csv(file, name, data) for name, file in files.items()}
    rows = [row for table in tables.values() for row in table]
    splits: dict[str, list[tuple[str, Path, str, str]]] = {}
    for row in rows:
        splits.setdefault(row[0], []).append(row)
    if "train" not in splits:
        raise ValueError(f"{files['train']}: no training rows; the splits are {', '.join(splits) or 'empty'}")
    whole = all(_is_int(row[2]) for row in rows)
    root = files["train"].parent
    held = next((name for name in VALID_NAMES if name in splits), None)
    watch = tuple(files.values())
    train = _csv_raw("train", splits["train"], whole, root, watch)
    return train, (_csv_raw(held, splits[held], whole, root, watch) if held else None)


def _csv_raw(
    split: str, rows: Sequence[tuple[str, Path, str, str]], whole: bool, root: Path, watch: tuple[Path, ...]
) -> Raw:
    labels = np.array([int(row[2]) if whole else row[2] for row in rows], dtype=np.int64 if whole else object)
    store = Files.of([row[1] for row in rows], root, [row[3] for row in rows])
    return Raw(split, labels, None, store, np.arange(len(rows)), watch)


def _header(file: Path) -> list[str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
        return next(csv.reader([first], delimiter=_delimiter(first)), [])
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as CSV in UTF-8: {error}") from error


def _lists_images(file: Path) -> bool:
    try:
        return _pick(_header(file), None, PATH_COLUMNS) is not None
    except ValueError:  # some other table that happens to lie there
        return False


def _delimiter(first: str) -> str:
    return max(",;\t", key=first.count)


def _pick(there: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    lower = {name.strip().lower(): name for name in there}
    if wanted is not None:
        return wanted if wanted in there else None
    return next((lower[name] for name in usual if name in lower), None)


def _read_csv(file: Path, split: str, data: Data) -> list[tuple[str, Path, str, str]]:
    """Rows of (split, path, label, place for messages)."""
    header = _header(file)
    path, label = _pick(header, data.image, PATH_COLUMNS), _pick(header, data.label, LABEL_COLUMNS)
    for what, found, wanted, usual in (
        ("path", path, data.image, PATH_COLUMNS),
        ("label", label, data.label, LABEL_COLUMNS),
    ):
        if found is None and wanted is not None:
            raise ValueError(f"{file} has no column {wanted!r}; {did_you_mean(wanted, header)}")
        if found is None:
            raise ValueError(f"{file}: no {what} column ({', '.join(usual)}); columns: {', '.join(header) or 'none'}")
    column = _pick(header, None, ("split",))
    rows = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=_delimiter(stream.readline()), fieldnames=header)
            for row in reader:
                place = f"{file}, line {reader.line_num + 1}"
                name, value = (row[path] or "").strip(), (row[label] or "").strip()
                if not name or not value:
                    raise ValueError(f"{place}: no {'path' if not name else 'label'}")
                rows.append((_split_of(row[column], place) if column else split, file.parent / name, value, place))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"{file} has no rows")
    return rows


def _split_of(value: str | None, place: str) -> str:
    name = (value or "").strip().lower()
    name = {"training": "train"}.get(name, name)
    if name not in ("train", *VALID_NAMES):
        raise ValueError(f"{place}: unknown split {value!r}; {did_you_mean(name, ('train', *VALID_NAMES))}")
    return name


def _is_int(value: str) -> bool:
    return value.removeprefix("-").isdecimal()
