"""A cache of keys and values whose slot is the position in the text: what a row takes back it just overwrites.

Row `b` writes the keys of the token at position `p` into slot `p` and the query at position `p` sees the slots
`0..p`. A slot beyond a row's text holds zeros or what was taken back; no query sees it before it is written again. So
rows of any length and any number of accepted tokens share one dense tensor without holes, padding or copying, and
the mask is one comparison.

B rows, q tokens read at once, S slots, H heads of keys, D width of a head.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from potstill.language.reading import base, context, layer_types, text_config


@dataclass
class Places:
    """Where all layers of one forward write: shared by them, set before it."""

    rows: int
    slots: int
    flat: Tensor | None = None
    """`[B * q]`: row * S + slot of each token that is read."""
    width: int = 0
    """How many slots the queries may look at."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, `[B, S, H, D]`: a token's heads lie together, so writing is one row copy."""

    is_sliding = False

    def __init__(self, places: Places):
        super().__init__()
        self.places = places

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, width = states.shape
            # Zeros and not empty memory: a masked slot has the weight 0, and 0 times a NaN would be NaN.
            setattr(self, name, states.new_zeros(self.places.rows, self.places.slots, heads, width))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self._written(self.keys, key_states), self._written(self.values, value_states)

    def _written(self, store: Tensor, states: Tensor) -> Tensor:
        assert self.places.flat is not None
        states = states.transpose(1, 2).to(store.dtype)
        store.view(-1, *store.shape[2:]).index_copy_(0, self.places.flat, states.flatten(0, 1))
        return store[:, : self.places.width].transpose(1, 2)

    def keep(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.places.width, 0

    def get_seq_length(self) -> int:
        return self.places.width

    def get_max_length(self) -> int:
        return self.places.slots


class SlotReader:
    """Reads with a `SlotLayer` in every layer: see `potstill.language.reading.Reader`."""

    def __init__(self, model: nn.Module, rows: int, slots: int):
        config, types = text_config(model), set(layer_types(model))
        self.model = model
        self.places = Places(rows, slots)
        self.cache = Cache(layer_class_to_replicate=partial(SlotLayer, self.places))  # ty: ignore[invalid-argument-type]
        self.window = config.sliding_window if "sliding_attention" in types else None
        self.mixed = len(types) > 1
        self.additive = config._attn_implementation == "eager"
        # A learned table of positions ends at the context; only drafts that are thrown away lie beyond it.
        self.limit = (context(model) or slots) - 1
        self.keeps = "logits_to_keep" in inspect.signature(type(base(model)).forward).parameters
        self.steps = torch.arange(slots, device=next(model.parameters()).device)
        self.first = self._first_slots()

    def read(self, tokens: Tensor, start: Tensor, width: int, last: bool = False) -> Tensor:
        position = start[:, None] + self.steps[: tokens.shape[1]]
        self.places.flat = (position + self.first).flatten()
        self.places.width = width
        answer = self.model(
            input_ids=tokens,
            attention_mask=self._mask(position, width),
            position_ids=position.clamp(max=self.limit),
            past_key_values=self.cache,
            use_cache=True,
            **({"logits_to_keep": 1} if last and self.keeps else {}),
        )
        return answer.logits

    def keep(self, rows: Tensor) -> None:
        for layer in self.cache.layers:
            layer.keep(rows)  # ty: ignore[missing-attribute]
        self.places.rows = len(rows)
        self.first = self._first_slots()

    def _first_slots(self) -> Tensor:
        return torch.arange(self.places.rows, device=self.steps.device)[:, None] * self.places.slots

    def _mask(self, position: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """`[B, 1, q, width]`: a query sees the slots up to its own position, or the window's last ones of them."""
        behind = position[:, None, :, None] - self.steps[:width]
        full = behind >= 0
        if self.window is None:
            return self._usable(full)
        near = self._usable(full & (behind < self.window))
        return {"full_attention": self._usable(full), "sliding_attention": near} if self.mixed else near

    def _usable(self, mask: Tensor) -> Tensor:
        if not self.additive:
            return mask
        dtype = next(base(self.model).parameters()).dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
