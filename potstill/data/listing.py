"""What lies where in a large data set, found once: `<cache>/index/<key>/{about.json, <split>.<part>.npy}`.

An index holds labels and places, never pixels. It counts as long as the files and folders that it was made from keep
their times of change; an image that is replaced under its own name inside a folder is not noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from potstill.data import cache
from potstill.data.raw import Raw, fingerprint
from potstill.data.spec import Data
from potstill.data.stores import STORES, Strings

VERSION = 1
"""Raise it when the same files come to be listed differently."""

Listing = tuple[Raw, Raw | None, list[str]]
"""Training split, validation split where there is one, and notes."""


def find(data: Data) -> Listing | None:
    """The index of this data, or None where there is none, or it is out of date or broken."""
    place = cache.folder() / "index" / _key(data)
    try:
        about = json.loads((place / "about.json").read_text())
        if about["watched"] != _marks([Path(name) for name, *_ in about["watched"]]):
            return None
        splits = [_read(place, **split) for split in about["splits"]]
        return splits[0], (splits[1] if len(splits) > 1 else None), list(about["notes"])
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None


def store(data: Data, listing: Listing) -> str | None:
    """Keep an index. Returns a note instead of failing where the cache cannot be written."""
    train, valid, notes = listing
    splits = [train] if valid is None else [train, valid]
    if data.root is None or any(type(split.store).__name__ not in STORES for split in splits):
        return None  # a data set of the hub, which has an index of its own
    watched = sorted({path for split in splits for path in (*split.store.watched(), *split.watch)})

    def write(beside: Path) -> None:
        described = [_write(beside, split) for split in splits]
        about = {"watched": _marks(watched), "splits": described, "notes": notes}
        (beside / "about.json").write_text(json.dumps(about))

    error = cache.publish("index", _key(data), write, lambda: find(data) is not None)
    return error and f"the index of the images could not be cached ({error}); it is made again next time"


def _key(data: Data) -> str:
    root = data.root or Path()
    parts = [str(root), str(root.expanduser().resolve()), data.label, data.image, *(["unlabelled"] * data.unlabelled)]
    return fingerprint("index", VERSION, *parts)


def _marks(paths: list[Path]) -> list[list[Any]]:
    found = [(str(path), path.is_dir(), path.stat()) for path in paths]
    return [[name, 0 if folder else stat.st_size, stat.st_mtime_ns] for name, folder, stat in found]


def _write(folder: Path, raw: Raw) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name in raw.store.kept:
        value = getattr(raw.store, name)
        if isinstance(value, Strings):
            np.save(folder / f"{raw.split}.{name}.text.npy", value.text)
            np.save(folder / f"{raw.split}.{name}.ends.npy", value.ends)
        elif isinstance(value, np.ndarray):
            np.save(folder / f"{raw.split}.{name}.npy", value)
        else:
            plain[name] = value
    if raw.labels.dtype == object:
        strings = Strings.of(raw.labels.tolist())
        np.save(folder / f"{raw.split}.labels.text.npy", strings.text)
        np.save(folder / f"{raw.split}.labels.ends.npy", strings.ends)
    else:
        np.save(folder / f"{raw.split}.labels.npy", raw.labels)
    np.save(folder / f"{raw.split}.places.npy", raw.places)
    return {
        "split": raw.split,
        "names": raw.names,
        "kind": type(raw.store).__name__,
        "plain": plain,
        "watch": [str(path) for path in raw.watch],
    }


def _read(folder: Path, split: str, names: list[str] | None, kind: str, plain: dict[str, Any], watch: list[str]) -> Raw:
    def array(name: str) -> np.ndarray | Strings:
        if (folder / f"{split}.{name}.ends.npy").exists():
            return Strings(*(np.load(folder / f"{split}.{name}.{part}.npy") for part in ("text", "ends")))
        return np.load(folder / f"{split}.{name}.npy")

    made = STORES[kind]
    parts: dict[str, Any] = {name: plain[name] if name in plain else array(name) for name in made.kept}
    labels, places = array("labels"), array("places")
    if isinstance(labels, Strings):
        labels = np.array([labels[row] for row in range(len(labels))], dtype=object)
    assert isinstance(places, np.ndarray)
    found = None if names is None else tuple(names)
    return Raw(split, labels, found, made(**parts), places, tuple(map(Path, watch)))
