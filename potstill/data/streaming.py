"""Whether data is streamed, and as what: the decision, and the two streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from potstill.data.decode import Plan, plan
from potstill.data.raw import Raw
from potstill.data.spec import RESIZED, Data
from potstill.data.stream import Stream
from potstill.data.unreadable import readable
from potstill.data.views import Pictures

RESIDENT_BYTES = 4 * 2**30
"""Pixels of both splits that still lie in memory, where a batch is made in microseconds and not in seconds."""
LOOKED_AT = 256
"""Images whose headers decide on size and channels of streamed data; opening all would take as long as an epoch."""
SIZE = 224
"""Side of ImageNet's crops."""


def title(data: Data) -> str:
    """What to call the data."""
    return data.name if data.name not in ("", "digits") or data.root is None else Path(data.root).resolve().stem


def streamed(
    data: Data, train: Raw, valid: Raw, classes: tuple[str, ...], notes: list[str], *, quiet: bool = True
) -> tuple[Stream, Stream] | None:
    """Both splits as streams, or None where they should lie in memory instead."""
    if data.stream == "never":
        return None
    name, size = title(data), data.size or (SIZE if data.augment == RESIZED else None)
    found = plan(train.read(np.arange(min(LOOKED_AT, len(train)))), size, name, quiet)
    shape = found if data.augment != RESIZED else Plan(found.channels, size or SIZE, size or SIZE)
    amount = (len(train) + len(valid)) * shape.channels * shape.height * shape.width
    if data.stream == "auto" and data.augment != RESIZED and amount <= RESIDENT_BYTES:
        return None
    notes = [*notes, *shape.notes, f"{name}: decoded while training, at {shape.width}x{shape.height}"]
    if data.skip_unreadable:
        train, left = readable(train, shape.channels, f"{name} {train.split}", quiet)
        valid, more = readable(valid, shape.channels, f"{name} {valid.split}", quiet)
        notes += left + more

    def split(raw: Raw, notes: tuple[str, ...]) -> Stream:
        pictures = Pictures(raw, shape.channels, shape.height, shape.width, data.augment)
        return Stream(pictures, torch.from_numpy(raw.labels), classes, name, raw.split, notes, data.workers)

    return split(train, tuple(notes)), split(valid, ())
