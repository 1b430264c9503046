"""Decoded splits on disk, whole or not there: `<cache>/images/<key>/{images.npy, labels.npy, about.json}`.

What else is cached in a folder of its own is written here too.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Entry:
    """`pixels` is uint8 `[N, C, H, W]`, `labels` int64 `[N]`."""

    pixels: np.ndarray
    labels: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _About:
    key: str
    shape: list[int]
    notes: list[str]


def folder() -> Path:
    """`$POTSTILL_CACHE`, else `$XDG_CACHE_HOME/potstill`, else `~/.cache/potstill`."""
    if chosen := os.environ.get("POTSTILL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "potstill"


def find(key: str) -> Entry | None:
    """The entry of that key, or None where there is none or it is broken."""
    place = folder() / "images" / key
    try:
        about = _About(**json.loads((place / "about.json").read_text()))
        pixels, labels = np.load(place / "images.npy"), np.load(place / "labels.npy")
        notes = tuple(about.notes)
    except (OSError, ValueError, EOFError, TypeError):
        return None
    whole = (
        about.key == key
        and list(pixels.shape) == about.shape
        and pixels.ndim == 4
        and pixels.dtype == np.uint8
        and labels.dtype == np.int64
        and labels.shape == pixels.shape[:1]
    )
    return Entry(pixels, labels, notes) if whole else None


def store(key: str, entry: Entry) -> str | None:
    """Write beside, then rename. Returns a note instead of failing where the cache cannot be written."""

    def write(beside: Path) -> None:
        np.save(beside / "images.npy", entry.pixels)
        np.save(beside / "labels.npy", entry.labels)
        about = _About(key, list(entry.pixels.shape), list(entry.notes))
        (beside / "about.json").write_text(json.dumps(asdict(about)))

    error = publish("images", key, write, lambda: find(key) is not None)
    return error and f"decoded images could not be cached ({error}); they are decoded again next time"


def publish(kind: str, key: str, write: Callable[[Path], None], there: Callable[[], bool]) -> str | None:
    """`write(folder)` beside, then rename to `<cache>/<kind>/<key>`, unless a good entry is `there` by then.

    Returns what went wrong instead of failing where the cache cannot be written.
    """
    beside: Path | None = None
    try:
        parent = folder() / kind
        parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=parent))
        write(beside)
        _replace(beside, parent / key, there)
    except OSError as error:
        return str(error)
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return None


def _replace(beside: Path, place: Path, there: Callable[[], bool]) -> None:
    if there():  # written by another process in the meantime, and as good
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        beside.rename(place)
    except OSError:
        if not there():
            raise
