"""Which samples make the batches of an epoch, so that little of a batch is padding. Functions of (seed, epoch).

Letters in shapes: N samples, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from potstill.data.order import Order
from potstill.hashing import hash_index

WINDOW = 64
"""Batches whose samples are sorted by length together, of those by count. A batch is then any of this many times its
samples, and some per cent of it are padding."""
BAND = 0.0625
"""Lengths are as good as equal within this part of them: a batch by tokens has this much padding at most, save at the
few places where two bands meet."""


@dataclass(frozen=True)
class ByCount:
    """`batch_size` samples a batch. In an epoch's random order, `window` batches at a time are sorted by length; then
    the batches are shuffled. With a window of 1 every batch is random.
    """

    lengths: np.ndarray
    order: Order
    window: int = WINDOW

    @property
    def steps(self) -> int:
        return self.order.steps

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The samples of each global batch of that epoch, in its order."""
        size, total = self.order.batch_size, min(self.order.samples, self.order.steps * self.order.batch_size)
        shuffled = self.order.permutation(epoch).numpy()[:total]
        window = np.arange(total) // (self.window * size)
        rows = shuffled[np.lexsort((self.lengths[shuffled], window))]
        batches = [rows[start : start + size] for start in range(0, total, size)]
        return [batches[turn] for turn in _turns(len(batches), self.order.seed, epoch)]


@dataclass(frozen=True)
class ByTokens:
    """As many samples a batch as fit into `tokens`, padding included.

    Samples are sorted by length, those in one band (see `BAND`) in random order, and cut where the next would not fit
    if each were as long as the longest in its band. So every epoch is cut at the same places and has the same number
    of steps, whichever samples come to lie there. All batches are as large as that number of steps needs them to be,
    so that none is a small rest. Then the batches are shuffled.
    """

    lengths: np.ndarray
    tokens: int
    seed: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        return len(self._edges) - 1

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The samples of each global batch of that epoch, in its order."""
        rows = np.lexsort((_hashes(len(self.lengths), self.seed, epoch, "order"), self._bands))
        batches = [rows[start:stop] for start, stop in zip(self._edges[:-1], self._edges[1:], strict=True)]
        return [batches[turn] for turn in _turns(len(batches), self.seed, epoch)]

    @cached_property
    def _bands(self) -> np.ndarray:
        return np.floor(np.log(self.lengths) / np.log1p(BAND)).astype(np.int64)

    @cached_property
    def _edges(self) -> list[int]:
        """Where the sorted samples are cut `[S + 1]`. What a number of ranks cannot share equally, of the longest, is
        left out.
        """
        order = np.lexsort((self.lengths, self._bands))
        last = np.searchsorted(self._bands[order], self._bands[order], "right") - 1
        longest = self.lengths[order][last]  # of the band, for each place
        edges = _cut(longest, self.tokens, self.world)
        low, high = int(longest[-1]) * self.world, self.tokens
        while high - low > max(1, self.tokens // 64):  # the smallest budget with as many batches
            middle = (low + high) // 2
            tried = _cut(longest, middle, self.world)
            edges, low, high = (tried, low, middle) if len(tried) == len(edges) else (edges, middle, high)
        return edges


def _cut(longest: np.ndarray, tokens: int, world: int) -> list[int]:
    """Edges of batches in samples sorted by length: as many as fit, a multiple of `world`."""
    total = len(longest) // world * world
    edges, place = [0], np.arange(1, total + 1)
    while edges[-1] < total:
        start = edges[-1]
        # A batch of more samples than this would not fit even if none were longer than the first.
        ahead = slice(start, min(total, start + tokens // int(longest[start])))
        fits = np.searchsorted((place[ahead] - start) * longest[ahead], tokens, "right")
        edges.append(start + int(fits) // world * world)
    return edges


def padding(lengths: np.ndarray, plan: list[np.ndarray]) -> float:
    """The part of all tokens of these batches that is padding."""
    real = sum(int(lengths[rows].sum()) for rows in plan)
    return 1 - real / sum(len(rows) * int(lengths[rows].max()) for rows in plan)


def _hashes(count: int, *salts: int | str) -> np.ndarray:
    return hash_index(torch.arange(count), *salts).numpy()


def _turns(steps: int, seed: int, epoch: int) -> np.ndarray:
    """Which batch comes when."""
    return np.argsort(_hashes(steps, seed, epoch, "batches"), kind="stable")
