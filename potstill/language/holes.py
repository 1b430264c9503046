"""Reading on with transformers' own growing cache: a token that was taken back stays as a masked hole.

Slower than slots.py (the cache is copied for every read and keeps what was taken back), but it needs nothing of a
network but a two-dimensional attention mask, so ALiBi and flash attention work.

B rows, q tokens read at once, C columns of the cache.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from potstill.language.reading import base, context


class HoleReader:
    """Reads with a `DynamicCache` and a mask with holes: see `potstill.language.reading.Reader`."""

    def __init__(self, model: nn.Module):
        takes = inspect.signature(type(base(model)).forward).parameters
        self.model = model
        self.cache = DynamicCache()
        self.columns: Tensor | None = None
        """`[B, C]`: the position of the token in each column; beyond every text for a hole."""
        self.limit = context(model)
        self.positions, self.keeps = "position_ids" in takes, "logits_to_keep" in takes

    def read(self, tokens: Tensor, start: Tensor, width: int, last: bool = False) -> Tensor:
        hole = torch.iinfo(torch.int64).max
        position = start[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        if self.columns is None:
            self.columns = position
        else:
            self.columns = torch.cat([self.columns.masked_fill(self.columns >= start[:, None], hole), position], 1)
        more: dict[str, object] = {"logits_to_keep": 1} if last and self.keeps else {}
        if self.positions:
            more["position_ids"] = position if self.limit is None else position.clamp(max=self.limit - 1)
        answer = self.model(
            input_ids=tokens,
            attention_mask=(self.columns != hole).long(),
            past_key_values=self.cache,
            use_cache=True,
            **more,
        )
        return answer.logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        assert self.columns is not None
        self.columns = self.columns[rows]
