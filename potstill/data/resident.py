"""Loaders for images that lie whole on the device as uint8. No history: any step can be the first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data.augment import augmented, check_in_memory
from potstill.data.order import Order
from potstill.data.spec import Images
from potstill.types import MAIN, Batch, View


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
        check_in_memory(augment)
        what = f"{images.name} {images.split}"
        self.plan = Order.of(
            len(images),
            batch_size,
            what,
            augment,
            seed=seed,
            views=views,
            view_seed=view_seed,
            rank=rank,
            world=world,
            drop_last=drop_last,
        )
        self.samples, self.batch_size, self.steps = self.plan.samples, self.plan.batch_size, self.plan.steps
        self.images = images.to(device)
        self.augment = augment

    def order(self, epoch: int) -> Int64[Tensor, " N"]:
        """The permutation of the images in that epoch."""
        return self.plan.permutation(epoch, self.images.images.device)

    def again(self, index: Int64[Tensor, " b"], number: int, augment: str, *salts: int | str) -> Tensor:
        """Another augmentation of these images than the one that view `number` shows; `salts` tell it from further
        ones.
        """
        return augmented(self.images.images, index, augment, self.plan.view_seed, number, *salts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batches `start`, `start + 1`, … of an epoch.

        Raises:
            ValueError: `start` lies outside the epoch.
        """
        self.plan.check_start(start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        order, number = self.order(epoch), self.plan.number(epoch)
        for step in range(start, self.steps):
            mine = self.plan.share(order, step)
            inputs = augmented(self.images.images, mine, self.augment, self.plan.view_seed, number)
            yield Batch({MAIN: View(inputs, mine, self.images.labels.index_select(0, mine), number=number)})
