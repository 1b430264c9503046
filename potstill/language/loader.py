"""Loaders of encoded texts. No history: any step can be the first. Letters in shapes as in `views.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from potstill.data.order import Order
from potstill.language.batching import WINDOW, ByCount, ByTokens, padding
from potstill.language.encode import Encoded
from potstill.language.views import teaching
from potstill.types import MAIN, PLAIN, Batch, View


class TextLoader:
    """Training batches of texts, of nearly equal length and in random order, shared over ranks.

    Either `batch_size` samples a batch, or as many as fit into `tokens`, padding included; both count all ranks.
    What makes the batches of an epoch is a function of (seed, epoch), and the number of steps is the same in every
    epoch. Rank r of `world` gets the r-th of the equal parts of a batch; all ranks' tensors of a step have the same
    shapes. The main view is that of `views.teaching`: prompt, response, padding on the right. There is no augmentation,
    so its `number` is always 0.

    By count, `drop_last` leaves out what is no whole batch, other samples in every epoch; where there are fewer samples
    than `batch_size`, an epoch is one batch of all, with a warning. By tokens every sample is seen in every epoch, but
    for those that `world` cannot share equally. `window` is how many batches by count are sorted by length
    together; with 1, a batch is any samples and much of it padding.

    `samples` counts the texts, `steps` the batches of an epoch, `batch_size` the samples of a batch (by tokens, on
    average), `padding` the part of an epoch's tokens that is padding.

    Raises:
        ValueError: sizes and ranks that do not fit each other, or a text that is longer than `tokens`.
    """

    exact = True
    """Any step of any epoch can be first: a run may resume inside an epoch."""

    def __init__(
        self,
        encoded: Encoded,
        batch_size: int | None = None,
        *,
        tokens: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        window: int = WINDOW,
    ) -> None:
        texts = encoded.texts
        if (batch_size is None) == (tokens is None):
            raise ValueError(f"one of batch_size and tokens says how large a batch is; got {batch_size} and {tokens}")
        if window < 1:
            raise ValueError(f"window is a number of batches, at least 1, got {window}")
        lengths = encoded.lengths
        self.plan: ByCount | ByTokens
        if batch_size is not None:
            what = f"{texts.name} {texts.split}"
            shared = {"rank": rank, "world": world, "drop_last": drop_last}
            order = Order.of(len(encoded), batch_size, what, "none", seed=seed, kind="texts", **shared)
            self.plan = ByCount(lengths, order, window)
        else:
            assert tokens is not None
            _check_budget(encoded, tokens, rank, world)
            self.plan = ByTokens(lengths, tokens, seed, world)
        self.encoded, self.device, self.rank, self.world = encoded, torch.device(device), rank, world
        self.samples, self.steps = len(encoded), self.plan.steps
        self.batch_size = (
            self.plan.order.batch_size if isinstance(self.plan, ByCount) else round(self.samples / self.steps)
        )

    @cached_property
    def padding(self) -> float:
        """The part of the first epoch's tokens that is padding; of other epochs it is nearly the same."""
        return padding(self.encoded.lengths, self.plan.plan(0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batches `start`, `start + 1`, … of an epoch.

        Raises:
            ValueError: `start` lies outside the epoch.
        """
        if not 0 <= start <= self.steps:
            raise ValueError(f"an epoch has {self.steps} steps; it cannot start at step {start}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for rows in self.plan.plan(epoch)[start:]:
            part = len(rows) // self.world
            share = slice(self.rank * part, (self.rank + 1) * part)
            yield Batch({MAIN: replace(_view(self.encoded, rows, share, self.device), number=0)})


def batches(
    encoded: Encoded, batch_size: int, device: torch.device | str = "cpu", *, by_length: bool = False
) -> Iterator[Batch]:
    """Batches for evaluation: in order, the last one smaller. With `by_length`, the longest first: less padding, and
    `index` says which is which.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    rows = np.argsort(-encoded.lengths, kind="stable") if by_length else np.arange(len(encoded))
    parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return (Batch({MAIN: _view(encoded, part, slice(None), torch.device(device))}) for part in parts)


def batch_of(encoded: Encoded, rows: np.ndarray, device: torch.device | str = "cpu") -> Batch:
    """These texts, in this order."""
    return Batch({MAIN: _view(encoded, rows, slice(None), torch.device(device))})


def first(encoded: Encoded, rows: int, device: torch.device | str = "cpu") -> Batch:
    """The first texts, for a probe."""
    view = _view(encoded, np.arange(min(rows, len(encoded))), slice(None), torch.device(device))
    return Batch({MAIN: replace(view, number=PLAIN)})


def _view(encoded: Encoded, rows: np.ndarray, share: slice, device: torch.device) -> View:
    """A share of these samples, as wide as all of them need: every rank's tensors have the same shapes."""
    start, prompts, responses = encoded.offsets[rows], encoded.prompts[rows], encoded.responses[rows]
    length = int((prompts + responses).max())
    ahead, behind = np.arange(prompts.max()) - prompts.max(), np.arange(responses.max())
    start, prompts, responses = start[share, None], prompts[share, None], responses[share, None]
    middle = start + prompts
    left, right = ahead >= -prompts, behind < responses
    prompt = np.where(left, encoded.tokens[np.where(left, middle + ahead, 0)], encoded.pad)
    response = np.where(right, encoded.tokens[np.where(right, middle + behind, 0)], encoded.pad)

    def put(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

    return teaching(
        put(prompt, torch.int64),
        put(left, torch.bool),
        put(response, torch.int64),
        put(right, torch.bool),
        put(rows[share], torch.int64),
        length,
    )


def _check_budget(encoded: Encoded, tokens: int, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank must lie in [0, world), got rank {rank} of {world}")
    if len(encoded) < world:
        raise ValueError(f"{len(encoded)} texts cannot be shared equally by {world} ranks")
    longest = int(encoded.lengths.max())
    if tokens < longest * world:
        ranks = f" for each of {world} ranks" if world > 1 else ""
        raise ValueError(
            f"a batch of {tokens:,} tokens does not hold the longest text{ranks}: {encoded.lengths.argmax()} of "
            f"{encoded.texts.name} {encoded.texts.split} has {longest:,}; raise it to {longest * world:,}, or say with "
            "data.max_prompt, data.max_response and data.too_long what happens to long texts"
        )
