"""The order of training batches, and which rank sees what: functions of (seed, epoch, step), without history."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data.spec import Augment
from potstill.errors import did_you_mean
from potstill.hashing import hash_index


@dataclass(frozen=True)
class Order:
    """Which samples make the batches of an epoch.

    The order of epoch e is a function of (`seed`, e). Global batch s is rows [s B, (s + 1) B) of it, and rank r of
    `world` gets the r-th of its equal parts. The augmentation of a sample is a function of (`view_seed`, the number of
    the view, its index): epoch e shows view e mod `views`, or e where that is None.
    """

    samples: int
    batch_size: int
    steps: int
    seed: int
    view_seed: int
    views: int | None = None
    rank: int = 0
    world: int = 1

    @classmethod
    def of(
        cls,
        samples: int,
        batch_size: int,
        what: str,
        augment: str,
        *,
        seed: int = 0,
        views: int | None = None,
        view_seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        kind: str = "images",
    ) -> Order:
        """For `samples` of `what`, which are of that `kind`. Where there are fewer than `batch_size`, an epoch is one
        batch, with a warning.

        Raises:
            ValueError: sizes and ranks that do not fit each other, or an unknown augmentation.
        """
        if augment not in get_args(Augment):
            raise ValueError(f"unknown augmentation {augment!r}; {did_you_mean(augment, get_args(Augment))}")
        if batch_size < 1 or not samples:
            raise ValueError(f"batch_size is {batch_size} and there are {samples} {kind}; both must be positive")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in [0, world), got rank {rank} of {world}")
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} cannot be shared equally by {world} ranks")
        if batch_size > samples:
            warnings.warn(
                f"batch_size {batch_size} is larger than the {samples} {kind} of {what}: every epoch is one batch of "
                "all of them",
                stacklevel=3,
            )
            batch_size, drop_last = samples, False
        left = samples % batch_size
        last = batch_size if drop_last or not left else left
        if last % world:
            raise ValueError(
                f"the last batch of {last} {kind} cannot be shared equally by {world} ranks; choose another "
                + ("batch size" if left == 0 else "batch size or drop_last=True")
            )
        steps = samples // batch_size if drop_last else -(-samples // batch_size)
        return cls(samples, batch_size, steps, seed, seed if view_seed is None else view_seed, views, rank, world)

    def check_start(self, start: int) -> None:
        if not 0 <= start <= self.steps:
            raise ValueError(f"an epoch has {self.steps} steps; it cannot start at step {start}")

    def permutation(self, epoch: int, device: torch.device | str = "cpu") -> Int64[Tensor, " N"]:
        """The order of the samples in that epoch."""
        rows = torch.arange(self.samples, device=device)
        return torch.sort(hash_index(rows, self.seed, epoch, "order"), stable=True).indices

    def in_windows(self, epoch: int, block: Int64[Tensor, " N"], together: int) -> Int64[Tensor, " N"]:
        """The same, but samples of at most `together` blocks at a time are mixed: blocks in random order, their
        samples in random order. `block` numbers the samples' blocks from 0.
        """
        turn = torch.sort(
            hash_index(torch.arange(int(block.max()) + 1), self.seed, epoch, "blocks"), stable=True
        ).indices
        window = torch.empty_like(turn)
        window[turn] = torch.arange(len(turn)) // together
        order = self.permutation(epoch)
        return order[torch.sort(window[block[order]], stable=True).indices]

    def number(self, epoch: int) -> int:
        """The view that this epoch shows."""
        return epoch if self.views is None else epoch % self.views

    def share(self, order: Int64[Tensor, " N"], step: int) -> Int64[Tensor, " b"]:
        """This rank's part of a global batch."""
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        part = len(rows) // self.world
        return rows[self.rank * part : (self.rank + 1) * part]
