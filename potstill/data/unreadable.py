"""Images that cannot be read: what is said of them, and finding those of streamed data before they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from potstill.console import Talk
from potstill.data import cache
from potstill.data.decode import BAR_FROM, get_ready, opened, reason, shape, upright
from potstill.data.raw import Item, Raw, fingerprint
from potstill.data.stream import cores

VERSION = 1
"""Raise it when other images come to count as readable."""
AT_ONCE = 512
"""Images whose bytes are in memory at once."""
SHOWN = 3
"""Images that a message names."""


def described(title: str, raw: Raw, failures: Mapping[int, str]) -> str:
    """A sentence about rows that cannot be read, and why."""
    shown = "; ".join(f"{raw.where(row)}: {why}" for row, why in list(failures.items())[:SHOWN])
    more = " …" if len(failures) > SHOWN else ""
    return f"{title}: {len(failures)} of {len(raw)} images cannot be read: {shown}{more}"


def readable(raw: Raw, channels: int, title: str, quiet: bool) -> tuple[Raw, list[str]]:
    """A split without the images that cannot be read, and a note where there are some.

    All are decoded once for it, JPEGs at an eighth of their size, which reads every byte; what was found is kept in the
    cache folder for as long as the split's index counts (see `listing`).

    Raises:
        ValueError: none can be read.
    """
    key = fingerprint("unreadable", VERSION, raw.stamp(), channels)
    failures = _known(key)
    if failures is None:
        failures = _failures(raw, channels, f"{title}: looking for unreadable images", quiet)
        cache.publish("unreadable", key, lambda folder: _keep(folder, failures or {}), lambda: _known(key) is not None)
    if not failures:
        return raw, []
    trouble = described(title, raw, failures)
    if len(failures) == len(raw):
        raise ValueError(trouble)
    kept = np.array([row for row in range(len(raw)) if row not in failures])
    return raw.take(kept), [trouble.replace("cannot be read", "cannot be read and were left out", 1)]


def _failures(raw: Raw, channels: int, title: str, quiet: bool) -> dict[int, str]:
    def look(item: Item) -> str | None:
        try:
            with opened(item) as image:
                width, height, _ = shape(image)
                image.draft(None, (width // 8, height // 8))
                upright(image, channels).load()
        except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
            return reason(error)
        return None

    get_ready()
    found: dict[int, str] = {}
    order = np.argsort(raw.places, kind="stable")  # as they lie, which is fastest
    with ThreadPoolExecutor(cores()) as pool, Talk(quiet).counted(title, len(raw), len(raw) > BAR_FROM) as advance:
        for start in range(0, len(raw), AT_ONCE):
            rows = order[start : start + AT_ONCE]
            outcomes = zip(rows.tolist(), pool.map(look, raw.read(rows)), strict=True)
            found |= {row: why for row, why in outcomes if why is not None}
            advance(len(rows))
    return dict(sorted(found.items()))


def _keep(folder: Path, failures: Mapping[int, str]) -> None:
    (folder / "rows.json").write_text(json.dumps(list(failures.items())))


def _known(key: str) -> dict[int, str] | None:
    try:
        found = json.loads((cache.folder() / "unreadable" / key / "rows.json").read_text())
        return {int(row): str(why) for row, why in found}
    except (OSError, ValueError, TypeError):
        return None
