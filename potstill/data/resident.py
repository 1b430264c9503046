"""Loaders for images that lie whole on the device as uint8. No history: any step can be the first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data.augment import augmented
from potstill.data.spec import Augment, Images
from potstill.errors import did_you_mean
from potstill.hashing import hash_index
from potstill.types import MAIN, PLAIN, Batch, View


class Resident:
    """Training batches: shuffled, augmented, shared over ranks.

    The order of epoch e is a function of (seed, e). Global batch s of an epoch is rows [s B, (s + 1) B) of
    that order, and rank r of `world` gets the r-th of its equal parts. The augmentation of a sample is a
    function of (`view_seed`, the number of the view, its index): epoch e shows view e mod `views`, or e where
    that is left out. The view's `input` is uint8 `[b, C, H, W]`, `index` and `label` int64 `[b]`.

    `view_seed` is `seed` where it is left out. Runs that share a cache of their teacher share `view_seed` and
    `views`, and may differ in `seed`, the order.

    Where there are fewer images than `batch_size`, an epoch is one batch of all of them, with a warning.
    `batch_size` is global; `samples` counts the images, `steps` the batches of an epoch.

    Raises:
        ValueError: sizes and ranks that do not fit each other, or an unknown augmentation.
    """

    exact = True
    """Any step of any epoch can be first: a run may resume inside an epoch."""

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        augment: str = "crop-flip",
        seed: int = 0,
        views: int | None = None,
        view_seed: int | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        if augment not in get_args(Augment):
            raise ValueError(f"unknown augmentation {augment!r}; {did_you_mean(augment, get_args(Augment))}")
        if batch_size < 1 or not len(images):
            raise ValueError(f"batch_size is {batch_size} and there are {len(images)} images; both must be positive")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in [0, world), got rank {rank} of {world}")
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} cannot be shared equally by {world} ranks")
        if batch_size > len(images):
            warnings.warn(
                f"batch_size {batch_size} is larger than the {len(images)} images of {images.name} "
                f"{images.split}: every epoch is one batch of all of them",
                stacklevel=2,
            )
            batch_size, drop_last = len(images), False
        left = len(images) % batch_size
        last = batch_size if drop_last or not left else left
        if last % world:
            raise ValueError(
                f"the last batch of {last} images cannot be shared equally by {world} ranks; choose another "
                + ("batch size" if left == 0 else "batch size or drop_last=True")
            )
        self.images = images.to(device)
        self.samples = len(images)
        self.batch_size = batch_size
        self.steps = self.samples // batch_size if drop_last else -(-self.samples // batch_size)
        self.augment = augment
        self.seed = seed
        self.views = views
        self.view_seed = seed if view_seed is None else view_seed
        self.rank = rank
        self.world = world

    def order(self, epoch: int) -> Int64[Tensor, " N"]:
        """The permutation of the images in that epoch."""
        rows = torch.arange(self.samples, device=self.images.images.device)
        return torch.sort(hash_index(rows, self.seed, epoch, "order"), stable=True).indices

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batches `start`, `start + 1`, … of an epoch.

        Raises:
            ValueError: `start` lies outside the epoch.
        """
        if not 0 <= start <= self.steps:
            raise ValueError(f"an epoch has {self.steps} steps; it cannot start at step {start}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        order = self.order(epoch)
        number = epoch if self.views is None else epoch % self.views
        for step in range(start, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = len(rows) // self.world
            mine = rows[self.rank * share : (self.rank + 1) * share]
            inputs = augmented(self.images.images, mine, self.augment, self.view_seed, number)
            yield Batch({MAIN: View(inputs, mine, self.images.labels.index_select(0, mine), number=number)})


def batches(images: Images, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Batches for evaluation: in order, as they are, the last one smaller.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return _in_order(images, batch_size, device)


def first(images: Images, rows: int, device: torch.device | str = "cpu") -> Batch:
    """The first training images as they are, for a probe."""
    batch = next(iter(batches(images, min(rows, len(images)), device)))
    return batch.with_view(MAIN, replace(batch.main, number=PLAIN))


def _in_order(images: Images, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        view = View(images.images[start:stop], torch.arange(start, stop), images.labels[start:stop])
        yield Batch({MAIN: view.to(device)})
