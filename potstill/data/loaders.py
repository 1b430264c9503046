"""Batches of a split, wherever its images are: in memory (`Images`) or in files (`Stream`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data.augment import augmented
from potstill.data.foreign import Pair
from potstill.data.order import Order
from potstill.data.resident import Resident
from potstill.data.spec import Images
from potstill.data.stream import Request, Stream
from potstill.types import MAIN, PLAIN, Batch, View

Split = Images | Stream


class Streamed:
    """`Resident` for a `Stream`: the same arguments, and with the same augmentation the same batches, bit for bit.

    Order, ranks and augmentation are as `Order` says, so any step of any epoch can be the first, and no sample before
    it is decoded. Worker processes decode whole batches of this rank's share; how many there are changes nothing.

    A Parquet source that is too large to keep (see `KEPT_BYTES`) is shuffled in windows: row groups in random order,
    and samples in random order within as many of them as fit. Which file lies where is part of its order then.

    Raises:
        ValueError: sizes and ranks that do not fit each other, or an augmentation other than the stream's.
    """

    exact = True
    """Any step of any epoch can be first: a run may resume inside an epoch."""

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        *,
        seed: int = 0,
        views: int | None = None,
        view_seed: int | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        self.plan = Order.of(
            len(stream),
            batch_size,
            f"{stream.name} {stream.split}",
            stream.pictures.augment,
            seed=seed,
            views=views,
            view_seed=view_seed,
            rank=rank,
            world=world,
            drop_last=drop_last,
        )
        self.samples, self.batch_size, self.steps = self.plan.samples, self.plan.batch_size, self.plan.steps
        self.stream, self.device = stream, torch.device(device)
        raw = stream.pictures.raw
        self._blocks = raw.store.blocks(raw.places)
        self._labels = stream.labels.cpu()

    def order(self, epoch: int) -> Int64[Tensor, " N"]:
        """The permutation of the images in that epoch."""
        if self._blocks is None:
            return self.plan.permutation(epoch)
        block, together = self._blocks
        return self.plan.in_windows(epoch, torch.from_numpy(block), together)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batches `start`, `start + 1`, … of an epoch.

        Raises:
            ValueError: `start` lies outside the epoch, or (while it goes on) an image cannot be read.
        """
        self.plan.check_start(start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        order, number = self.order(epoch), self.plan.number(epoch)
        shares = [self.plan.share(order, step) for step in range(start, self.steps)]
        requests = [Request(share.numpy(), number, self.plan.view_seed) for share in shares]
        pictures = self.stream.batches(requests, self.device)
        for mine, inputs in zip(shares, pictures, strict=True):
            rest = View(None, mine, self._labels[mine], number=number).to(self.device)
            yield Batch({MAIN: replace(rest, input=inputs)})


def training(images: Split, batch_size: int, *, augment: str, **kw) -> Resident | Streamed:
    """The training loader of a split; `kw` as for `Resident`."""
    if isinstance(images, Stream):
        return Streamed(images, batch_size, **kw)
    return Resident(images, batch_size, augment=augment, **kw)


def shown(images: Split | Pair, index: Int64[Tensor, " B"], augment: str, seed: int, number: int | None) -> Tensor:
    """Some images as view `number` of the augmentation shows them, or as they are (None), at once."""
    if isinstance(images, Stream):
        return images.decoded(index, number, seed)
    if number is None or augment == "none":
        return images.images.index_select(0, index)
    return augmented(images.images, index, augment, seed, number)


def batches(images: Split, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Batches for evaluation: in order, as they are, the last one smaller.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return _in_order(images, len(images), batch_size, device)


def first(images: Split, rows: int, device: torch.device | str = "cpu") -> Batch:
    """The first training images as they are, for a probe."""
    rows = min(rows, len(images))
    batch = next(_in_order(images, rows, rows, device))
    return batch.with_view(MAIN, replace(batch.main, number=PLAIN))


def _in_order(images: Split, rows: int, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    parts = [slice(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    index = torch.arange(rows)
    if isinstance(images, Images):
        pictures = (images.images[part].to(device, non_blocking=True) for part in parts)
    elif len(parts) == 1:
        pictures = iter([images.decoded(index).to(device)])
    else:
        pictures = images.batches([Request(index[part].numpy()) for part in parts], device)
    for part, inputs in zip(parts, pictures, strict=True):
        rest = View(None, index[part], images.labels[part]).to(device)
        yield Batch({MAIN: replace(rest, input=inputs)})
