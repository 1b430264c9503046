"""From a `Data` to two splits: find the source, settle labels and rows; decode, take from cache, or stream."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.data import cache, listing
from potstill.data.decode import Plan, decode, plan, resize
from potstill.data.degrade import degraded
from potstill.data.folders import class_folders, csv_files, csv_tables
from potstill.data.raw import Raw, check_rows, fingerprint, interleave, limit, settle, stratified
from potstill.data.shards import tar_files, webdataset
from potstill.data.spec import RESIZED, Data, Images
from potstill.data.stream import Stream
from potstill.data.streaming import streamed, title
from potstill.data.tables import HUB_NAMES, hub, parquet, parquet_files, tables
from potstill.data.unreadable import described
from potstill.errors import did_you_mean

VERSION = 1
"""Part of every fingerprint: raise it when the same files decode to other pixels or another order."""

DIGITS_TRAIN = 200
"""Training images of the embedded data set: few, so that a teacher has something to add."""


def load(data: Data, *, quiet: bool = False) -> tuple[Images | Stream, Images | Stream]:
    """Training and validation images, in memory or, where `data.stream` says so, as streams.

    The validation split is the data's own (validation before test); where it has none, and with `held_out`, a
    stratified part of the training images is set aside and `notes` say so. Decoded images are cached, and of streamed
    ones the index; the data folder is never written. `quiet` hides progress bars.

    Raises:
        ValueError: the data cannot be found or understood, an image cannot be read, a label or a row limit is
            out
            of range. The message says what was looked for and what is there.

    >>> train, valid = load(Data())
    >>> train.images.shape, len(valid), train.classes[:3]
    (torch.Size([200, 1, 8, 8]), 1597, ('0', '1', '2'))
    """
    train, valid = _loaded(data, quiet)
    return degraded(data, train), valid


def _loaded(data: Data, quiet: bool) -> tuple[Images | Stream, Images | Stream]:
    if data.size is not None and data.size < 1:
        raise ValueError(f"size must be at least 1, got {data.size}")
    if data.root is None and data.name == "digits":
        train, valid = _digits(data)
        if data.held_out is None:
            return train, valid
        kept, held = (torch.from_numpy(rows) for rows in stratified(train.labels.numpy(), data.held_out))
        train = replace(train, notes=(*train.notes, _held(held, train)))
        return train.take(kept, "train, the rest"), train.take(held, "train, held out")
    listed = listing.find(data) if data.root is not None and data.stream != "never" else None
    found = listed or _find(data, quiet)
    chosen = _chosen(data, found)
    streams = streamed(data, *chosen, quiet=quiet)
    if streams is None:  # what is decoded once must notice every change of a file, so no index stands in
        return _decoded(data, *(_chosen(data, _find(data, quiet)) if listed else chosen), quiet)
    if listed is None and (trouble := listing.store(data, found)):
        streams = (replace(streams[0], notes=(*streams[0].notes, trouble)), streams[1])
    return streams


def from_datasets(train: Any, valid: Any | None = None, data: Data | None = None) -> tuple[Stream, Stream]:
    """Streams of `datasets.Dataset` objects. `data` names the columns and says how images are decoded and augmented.

    Raises:
        ValueError: columns that cannot be found, or labels that do not fit.
    """
    data = data or Data(name="datasets", augment=RESIZED)
    found = streamed(replace(data, stream="always"), *_chosen(data, (*tables(train, valid, data, "the data set"), [])))
    assert found is not None
    train = degraded(data, found[0])
    assert isinstance(train, Stream)
    return train, found[1]


def _chosen(data: Data, found: listing.Listing) -> tuple[Raw, Raw, tuple[str, ...], list[str]]:
    """Both splits with numbered labels and as many rows as asked for, the classes, and notes."""
    train, valid, notes = found
    train, valid, classes, more = settle(train, valid)
    notes = notes + more + _unused(data, valid is not None)
    if valid is None:
        kept, held = stratified(train.labels, data.valid_fraction)
        notes.append(
            f"no validation split: {len(held)} of {len(train)} training images were set aside "
            f"(stratified by class, valid_fraction={data.valid_fraction})"
        )
        train, valid = train.take(kept), train.take(held, "train, set aside")
    train = limit(train, data.train_rows, "train_rows")
    valid = limit(valid, data.valid_rows, "valid_rows")
    if data.held_out is not None:
        kept, held = stratified(train.labels, data.held_out)
        notes.append(_held(held, train))
        train, valid = train.take(kept, "train, the rest"), train.take(held, "train, held out")
    if missing := len(classes) - len(np.unique(train.labels)):
        notes.append(f"{missing} of {len(classes)} classes have no training image")
    return train, valid, classes, notes


def _held(held: Sized, train: Sized) -> str:
    return f"{len(held)} of {len(train)} training images are held out, and stand for the validation images"


def _digits(data: Data) -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = interleave(bunch.target, "digits")
    pixels = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target[order].astype(np.int64)
    if data.size is not None and pixels.shape[2:] != (data.size, data.size):
        pixels = resize(pixels, data.size)
    count = DIGITS_TRAIN if data.train_rows is None else data.train_rows
    check_rows(count, len(labels) - 1, "train_rows", "digits (one row is left for validation)")
    first = max(count, DIGITS_TRAIN)  # the same validation images for every smaller training set
    if data.valid_rows is not None:
        check_rows(data.valid_rows, len(labels) - first, "valid_rows", f"digits after {first} training rows")
    last = len(labels) if data.valid_rows is None else first + data.valid_rows
    ignored = [option for option in ("label", "image") if getattr(data, option) is not None]
    notes = tuple(f"data.{option} has no effect: digits has one label and one image" for option in ignored)

    def part(split: str, start: int, stop: int) -> Images:
        return Images(
            torch.from_numpy(pixels[start:stop].copy()),
            torch.from_numpy(labels[start:stop].copy()),
            tuple(str(digit) for digit in range(10)),
            "digits",
            split,
            fingerprint("digits", VERSION, data.size, start, stop),
            notes if split == "train" else (),
        )

    return part("train", 0, count), part("valid", first, last)


def _find(data: Data, quiet: bool) -> tuple[Raw, Raw | None, list[str]]:
    if data.root is None:
        if data.name not in HUB_NAMES and "/" not in data.name:
            known = ["digits", *HUB_NAMES]
            raise ValueError(
                f"unknown data set {data.name!r} (a hub name has the form user/set, a local folder is named with "
                f"--data.root); {did_you_mean(data.name, known)}"
            )
        return *hub(data, quiet), []
    root = Path(data.root).expanduser()
    if not root.exists():
        beside = [entry.name for entry in root.parent.iterdir()] if root.parent.is_dir() else []
        hint = did_you_mean(root.name, beside) if beside else f"{root.parent} does not exist either"
        raise ValueError(f"no such folder or file: {root}; {hint}")
    if root.is_file() and root.suffix.lower() not in (".parquet", ".csv", ".tsv", ".tar"):
        raise ValueError(f"{root} is a file; expected a folder, a .parquet, a .tar or a .csv")
    if root.is_dir() and not any(root.iterdir()):
        raise ValueError(f"{root} is empty; looked for Parquet files, tar shards, class folders or a CSV")
    if (root.is_dir() or root.suffix.lower() == ".tar") and (files := tar_files(root)):
        return *webdataset(root, files, data), []
    if (root.is_dir() or root.suffix.lower() == ".parquet") and (files := parquet_files(root)):
        return *parquet(root, files, data), []
    if tables := csv_files(root):
        return *csv_tables(tables, data), []
    train, valid, notes = class_folders(root)
    for option in ("label", "image"):
        if getattr(data, option) is not None:
            notes.append(f"data.{option} has no effect: class folders have no columns")
    return train, valid, notes


def _unused(data: Data, has_valid: bool) -> list[str]:
    if has_valid and data.valid_fraction != Data.valid_fraction:
        return [f"valid_fraction={data.valid_fraction} has no effect: the data has a validation split"]
    return []


@dataclass(frozen=True)
class _Ready:
    """A split with its pixels, from the cache or fresh; `trouble` says what could not be read."""

    key: str
    entry: cache.Entry
    fresh: bool
    trouble: str = ""


def _decoded(
    data: Data, train: Raw, valid: Raw, classes: tuple[str, ...], notes: list[str], quiet: bool
) -> tuple[Images, Images]:
    name = title(data)
    first = _split(data, train, None, f"{name} {train.split}", quiet)
    channels, height, width = first.entry.pixels.shape[1:]
    second = _split(data, valid, Plan(channels, height, width), f"{name} {valid.split}", quiet)
    if troubles := [ready.trouble for ready in (first, second) if ready.trouble]:
        raise ValueError("; ".join(troubles) + " (--data.skip-unreadable leaves unreadable images out)")
    # Both are whole now: nothing is cached of data that turned out bad.
    for ready in (first, second):
        if ready.fresh and (trouble := cache.store(ready.key, ready.entry)) and trouble not in notes:
            notes.append(trouble)

    def images(raw: Raw, ready: _Ready, notes: tuple[str, ...]) -> Images:
        pixels, labels = torch.from_numpy(ready.entry.pixels), torch.from_numpy(ready.entry.labels)
        mark = fingerprint(ready.key, classes)
        return Images(pixels, labels, classes, name, raw.split, mark, notes + ready.entry.notes)

    return images(train, first, tuple(notes)), images(valid, second, ())


def _split(data: Data, raw: Raw, given: Plan | None, title: str, quiet: bool) -> _Ready:
    shape = given and (given.channels, given.height, given.width)
    labels = fingerprint(raw.labels.tolist())
    key = fingerprint(VERSION, raw.split, raw.stamp(), labels, data.size, data.skip_unreadable, shape)
    if (entry := cache.find(key)) is not None:
        return _Ready(key, entry, False)
    items = raw.read(np.arange(len(raw)))
    target = given or plan(items, data.size, title, quiet)
    found = decode(items, target, title, quiet)
    notes = list(target.notes)
    if given and found.resized:
        notes.append(
            f"{title}: {found.resized} of {len(raw)} images were brought to the size of the training images, "
            f"{target.width}x{target.height}"
        )
    entry = cache.Entry(found.pixels, raw.labels, tuple(notes))
    if not found.failures:
        return _Ready(key, entry, True)
    trouble = described(title, raw, found.failures)
    if not data.skip_unreadable or len(found.failures) == len(raw):
        return _Ready(key, entry, True, trouble)
    kept = np.array([row not in found.failures for row in range(len(raw))])
    notes.append(trouble.replace("cannot be read", "cannot be read and were left out", 1))
    return _Ready(key, cache.Entry(found.pixels[kept], raw.labels[kept], tuple(notes)), True)
