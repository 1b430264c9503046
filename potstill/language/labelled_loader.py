"""Batches of labelled texts: tokenised once, in an order that is a function of (seed, epoch, step).

Letters in shapes: N texts, B batch, L tokens of the longest of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.data.order import Order
from potstill.language.batching import ByCount
from potstill.language.labelled import Labelled
from potstill.types import MAIN, PLAIN, Batch, DataInfo, View


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts without padding: text n is `ids[offsets[n] : offsets[n + 1]]`.

    `ids` and `types` (which text of a pair; None where the tokenizer does not say) are int32 on the host, `full` counts
    the texts of `max_length` tokens, which may have been cut off.
    """

    ids: Tensor
    types: Tensor | None
    offsets: Tensor
    labels: Tensor
    pad: int
    name: str
    classes: int | None
    full: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def view(self, rows: Tensor, device: torch.device | str = "cpu", number: int | None = None) -> View:
        """Some texts, padded on the right to the longest of them: `input_ids`, `attention_mask` `[B, L]` …"""
        begins = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begins
        place = torch.arange(int(lengths.max()))
        mask = place < lengths[:, None]
        where = (begins[:, None] + place).clamp(max=len(self.ids) - 1)
        inputs = {"input_ids": torch.where(mask, self.ids[where].long(), self.pad), "attention_mask": mask}
        if self.types is not None:
            inputs["token_type_ids"] = torch.where(mask, self.types[where].long(), 0)
        return View(inputs, rows, self.labels[rows], number=number).to(device)

    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Every text once, in order."""
        for rows in torch.arange(len(self)).split(batch_size):
            yield Batch({MAIN: self.view(rows, device, PLAIN)})

    def info(self, batch_size: int) -> DataInfo:
        """What objectives may know of it."""
        return DataInfo(len(self), min(batch_size, len(self)), self.classes, self.labels)


def tokenised(texts: Labelled, tokenizer: Any, max_length: int = 128) -> Tokens:
    """Ids of all texts, or of all pairs joined as the tokenizer joins them, cut off at `max_length` tokens.

    `tokenizer` is one of transformers. Where it has no padding token its end-of-text token fills up: padding is masked.

    Raises:
        ValueError: a tokenizer without either, or a `max_length` that leaves no room.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has neither a padding nor an end-of-text token; set tokenizer.pad_token"
        )
    least = tokenizer.num_special_tokens_to_add(pair=texts.second is not None) + 1 + (texts.second is not None)
    if max_length < least:
        raise ValueError(f"max_length must be at least {least} with this tokenizer, got {max_length}")
    first, second = list(texts.first), None if texts.second is None else list(texts.second)
    found = tokenizer(first, second, truncation=True, max_length=max_length, return_overflowing_tokens=False)
    rows = found["input_ids"]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not lengths.all():
        raise ValueError(f"{texts.name}, row {int((lengths == 0).argmax()) + 1}: the tokenizer makes no token of it")
    types = found.get("token_type_ids")
    return Tokens(
        _flat(rows),
        None if types is None else _flat(types),
        torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        texts.labels,
        pad,
        texts.name,
        len(texts.names) or None,
        int((lengths == max_length).sum()),
    )


class LabelledLoader:
    """Training batches of labelled texts: a `Loader` whose every step is a function of (seed, epoch, step).

    The order of epoch e is a function of (`seed`, e). In it, `window` batches at a time are sorted by length, so that
    little of a batch is padding; no more than a quarter of an epoch is sorted together, so that few texts meet others
    in every epoch. Rank r of `world` gets the r-th of a global batch's equal parts, padded to the longest text of that
    part. Where there are fewer texts than `batch_size`, an epoch is one batch of all of them, with a warning.

    Raises:
        ValueError: sizes and ranks that do not fit each other, or a window below 1.
    """

    exact = True

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        window: int = 8,
    ) -> None:
        if window < 1:
            raise ValueError(f"window is a number of batches, at least 1 (which sorts nothing), got {window}")
        if batch_size > len(tokens) > 0:
            warnings.warn(
                f"batch_size {batch_size} is larger than the {len(tokens)} texts of {tokens.name}: every epoch is one "
                "batch of all of them",
                stacklevel=2,
            )
            batch_size = len(tokens)
        self.plan = Order.of(
            len(tokens), batch_size, tokens.name, "none", seed=seed, rank=rank, world=world, drop_last=drop_last
        )
        self.tokens, self.device = tokens, device
        self.samples, self.batch_size, self.steps = self.plan.samples, self.plan.batch_size, self.plan.steps
        lengths = tokens.offsets.diff().numpy()
        self.by_length = ByCount(lengths, self.plan, max(1, min(window, self.steps // 4)))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batches `start`, `start + 1`, … of an epoch.

        Raises:
            ValueError: `start` lies outside the epoch.
        """
        self.plan.check_start(start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for rows in self.by_length.plan(epoch)[start:]:
            part = len(rows) // self.plan.world
            mine = torch.from_numpy(rows[self.plan.rank * part : (self.plan.rank + 1) * part])
            # Nothing is augmented: every epoch shows the texts as they are.
            yield Batch({MAIN: self.tokens.view(mine, self.device, PLAIN)})


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.from_numpy(np.fromiter((token for row in rows for token in row), dtype=np.int32))
