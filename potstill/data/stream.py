"""One split that is decoded while it is used: `Images` for data that does not fit in memory."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from potstill.data.decode import get_ready
from potstill.data.raw import fingerprint
from potstill.data.spec import RESIZED
from potstill.data.views import MIDDLE, Pictures, Unreadable

MEASURED = 512
"""Images that mean and standard deviation are measured on, evenly spread over the split."""


@dataclass(frozen=True)
class Request:
    """A batch to decode: rows, and the view of the augmentation (None: as they are evaluated)."""

    rows: np.ndarray
    number: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Stream:
    """One split whose images stay encoded where they lie. What `Images` promises of labels and names holds here too.

    `labels` is int64 `[N]` with values in [0, len(classes)). `workers` processes decode; None: one for each core.
    """

    pictures: Pictures = field(repr=False)
    labels: Int64[Tensor, " N"] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    name: str
    split: str
    notes: tuple[str, ...] = ()
    workers: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.pictures.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pictures.height, self.pictures.width

    @property
    def part(self) -> float | None:
        """Part of an image's shorter side that evaluation sees; None: all of it."""
        return MIDDLE if self.pictures.augment == RESIZED else None

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over `MEASURED` images, in [0, 1]."""
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the same images, in [0, 1]."""
        return self._statistics[1]

    @property
    def fingerprint(self) -> str:
        """A hash of the source, with its files' times of change, and of every decoding choice."""
        return fingerprint(self.pictures.raw.stamp(), self._decoding)

    @property
    def digest(self) -> str:
        """A hash of labels, names and sizes of the files, and of decoding: what a copy of the files keeps."""
        digest = hashlib.blake2b(fingerprint(self.pictures.raw.stamp(False), self._decoding).encode(), digest_size=8)
        digest.update(self.labels.cpu().numpy())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Stream:
        """The same with its labels on another device; pictures go there batch by batch."""
        labels = self.labels.to(device)
        return self if labels is self.labels else replace(self, labels=labels)

    def take(self, rows: Int64[Tensor, " M"], split: str) -> Stream:
        """Only these images, in this order."""
        pictures = replace(self.pictures, raw=self.pictures.raw.take(rows.cpu().numpy(), split))
        return replace(self, pictures=pictures, labels=self.labels[rows], split=split)

    def picture(self, index: int) -> UInt8[Tensor, "C H W"]:
        """One image as it is evaluated."""
        return self.pictures(np.array([index]))[0]

    def decoded(self, rows: Int64[Tensor, " B"], number: int | None = None, seed: int = 0) -> UInt8[Tensor, "B C H W"]:
        """A batch decoded here and now, by threads."""
        with ThreadPoolExecutor(cores()) as pool:
            return self.pictures(rows.cpu().numpy(), number, seed, pool).to(rows.device)

    def batches(self, requests: Iterable[Request], device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """The pictures of each request, in order, on the device, decoded ahead by worker processes that end with it.

        Raises:
            ValueError: an image cannot be read. It says which one, and why.
        """
        asked = list(requests)
        workers = min(cores() if self.workers is None else self.workers, len(asked))
        loader = DataLoader(
            _Decoding(self.pictures),
            batch_size=None,
            sampler=asked,
            num_workers=workers,
            worker_init_fn=_begin,
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one, on which dropout may depend
        )
        return ahead(loader, device)

    @property
    def _decoding(self) -> list[Any]:
        pictures = self.pictures
        shown = [pictures.channels, pictures.height, pictures.width, pictures.augment == RESIZED]
        return ["stream", 1, self.split, list(self.classes), shown]

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        rows = torch.arange(min(MEASURED, len(self))) * len(self) // min(MEASURED, len(self))
        shares = self.decoded(rows).transpose(0, 1).flatten(1).double() / 255
        return tuple(shares.mean(1).tolist()), tuple(shares.std(1, correction=0).tolist())


def cores() -> int:
    """Cores of this process, shared with the other ranks of the machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def ahead(batches: Iterable[Tensor | str], device: torch.device | str) -> Iterator[Tensor]:
    """Batches on the device. On a GPU the next one is copied, on a stream of its own, while the last one is used.

    Raises:
        ValueError: a sentence instead of a batch.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from (_good(batch).to(device) for batch in batches)
        return
    copying = torch.cuda.Stream(device)
    waiting: Tensor | None = None
    for batch in map(_good, batches):
        with torch.cuda.stream(copying):
            moved = batch.to(device, non_blocking=True)
        if waiting is not None:
            yield _arrived(waiting, copying)
        waiting = moved
    if waiting is not None:
        yield _arrived(waiting, copying)


def _good(found: Tensor | str) -> Tensor:
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _arrived(batch: Tensor, copying: torch.cuda.Stream) -> Tensor:
    current = torch.cuda.current_stream(batch.device)
    current.wait_stream(copying)
    batch.record_stream(current)  # its memory is not used again before what runs now is done
    return batch


class _Decoding(Dataset):
    """Batches as items: what cannot be read comes back as a sentence, not as a traceback of another process."""

    def __init__(self, pictures: Pictures):
        self.pictures = pictures

    def __getitem__(self, index: Request) -> Tensor | str:
        try:
            return self.pictures(index.rows, index.number, index.seed)
        except Unreadable as error:
            return str(error)


def _begin(worker: int) -> None:
    """Ctrl-C is for the training process, which finishes its step and saves; it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    get_ready()
