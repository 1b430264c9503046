"""Which rows and columns of a teacher's weights a narrower student keeps.

Ours, in the spirit of structured pruning (no paper's recipe is followed): hidden units, inner units of the feed-forward
layers and attention heads are kept as a prefix, or those with the largest weights. Letters: D width, I inner width, H
heads, G groups of heads that share keys and values, d width of a head (the teacher's: it stays).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Cut = Literal["first", "norm"]
INNER = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim")
"""What configurations call the width of the feed-forward layers."""

QUERY, KEY = r"(q_proj|q_lin|self\.query)", r"(k_proj|v_proj|k_lin|v_lin|self\.key|self\.value)"
UP = r"(gate_proj|up_proj|lin1|intermediate\.dense)"
AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"{QUERY}\.weight", ("heads", "width")),
    (rf"{QUERY}\.bias", ("heads",)),
    (rf"{KEY}\.weight", ("groups", "width")),
    (rf"{KEY}\.bias", ("groups",)),
    (r"(o_proj|out_lin|attention\.output\.dense)\.weight", ("width", "heads")),
    (r"attn\.c_attn\.weight", ("width", "qkv")),  # GPT-2's matrices are [in, out]
    (r"attn\.c_attn\.bias", ("qkv",)),
    (r"attn\.c_proj\.weight", ("heads", "width")),
    (r"mlp\.c_fc\.weight", ("width", "inner")),
    (r"mlp\.c_fc\.bias", ("inner",)),
    (r"mlp\.c_proj\.weight", ("inner", "width")),
    (rf"{UP}\.weight", ("inner", "width")),
    (rf"{UP}\.bias", ("inner",)),
    (r"(down_proj|lin2|output\.dense)\.weight", ("width", "inner")),
    (r"(q_norm|k_norm)\.weight", ("whole",)),  # over the width of a head
    (r"(wpe|position_embeddings)\.weight", ("context", "width")),
    (r"(embed_tokens|wte|word_embeddings|token_type_embeddings)\.weight", ("whole", "width")),
    (r"(lm_head|decoder|vocab_projector|classifier|score)\.weight", ("whole", "width")),
    (r"(lm_head|decoder|vocab_projector|classifier|score|predictions)\.bias", ("whole",)),
    (r"(pooler\.dense|transform\.dense|vocab_transform|pre_classifier)\.weight", ("width", "width")),
)
"""What the dimensions of a parameter are, by the end of its name; the first that fits. Other vectors are of width D."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a network of transformers, whatever its configuration calls them."""

    width: int
    inner: int
    heads: int
    groups: int
    head: int
    context: int

    @classmethod
    def of(cls, config: Any) -> Sizes:
        width, heads = config.hidden_size, config.num_attention_heads
        inner = next((value for name in INNER if (value := getattr(config, name, None))), 4 * width)
        groups = getattr(config, "num_key_value_heads", None) or heads
        head = getattr(config, "head_dim", None) or width // heads
        return cls(width, inner, heads, groups, head, config.max_position_embeddings)

    def narrower(self, width: int | None, inner: int | None, heads: int | None, context: int | None, free: bool):
        """The student's sizes; what is left out follows the width. `free`: the width of a head is a size of its own.

        Raises ValueError for sizes above the teacher's, and for heads that do not fit.
        """
        for name, wanted, have in (
            ("width", width, self.width),
            ("inner", inner, self.inner),
            ("heads", heads, self.heads),
            ("context", context, self.context),
        ):
            if wanted is not None and not 1 <= wanted <= have:
                raise ValueError(f"{name}={wanted}: the teacher has {have}, and a student cut from it has 1 to {have}")
        new, shared = width or self.width, self.heads // self.groups
        if heads is None:
            heads = max(shared, self.heads * new // self.width // shared * shared)
        if not free and heads * self.head != new:
            unit = self.head * shared
            near = sorted({max(unit, new // unit * unit), min(self.width, -(-new // unit) * unit)})
            raise ValueError(
                f"width={new}, heads={heads}: heads of this network are {self.head} wide and fill its width, so that "
                f"width must be {self.head} times heads; try width={' or '.join(map(str, near))} and leave out heads"
            )
        if heads % shared:
            raise ValueError(f"heads={heads}: {shared} heads of the teacher share keys and values; keep a multiple")
        inner = inner or max(1, self.inner * new // self.width)
        return Sizes(new, inner, heads, heads // shared, self.head, context or self.context)


@dataclass(frozen=True)
class Kept:
    """Indices of the teacher that the student keeps, along every kind of dimension."""

    teacher: Sizes
    student: Sizes
    width: Tensor
    inner: Mapping[str, Tensor]
    """By layer (the start of its parameters' names)."""
    groups: Mapping[str, Tensor]

    def cut(self, name: str, value: Tensor) -> Tensor:
        """A parameter of the teacher with the student's rows and columns."""
        for dim, axis in enumerate(axes_of(name, value)):
            index = self._index(axis, name)
            if index is not None and len(index) < value.shape[dim]:
                value = value.index_select(dim, index.to(value.device))
        return value

    def _index(self, axis: str, name: str) -> Tensor | None:
        if axis == "width":
            return self.width
        if axis == "context":
            return torch.arange(self.student.context)
        if axis == "whole":
            return None
        layer = next(layer for layer in self.inner if name.startswith(layer))
        if axis == "inner":
            return self.inner[layer]
        rows = _spans(self.groups[layer], self.teacher.head)
        if axis == "groups":
            return rows
        heads = _spans(self.groups[layer], self.teacher.head * (self.teacher.heads // self.teacher.groups))
        size = self.teacher.heads * self.teacher.head
        return heads if axis == "heads" else torch.cat([heads + part * size for part in range(3)])


def axes_of(name: str, value: Tensor) -> tuple[str, ...]:
    """What the dimensions of a parameter are.

    Raises ValueError for a matrix that is not known.
    """
    for pattern, axes in AXES:
        if re.search(rf"(^|\.){pattern}$", name) and len(axes) == value.ndim:
            return axes
    if value.ndim <= 1:
        return ("width",) * value.ndim
    raise ValueError(
        f"{name} {list(value.shape)}: which of its rows and columns a narrower student keeps is not known (it is for "
        "networks built like Llama, Qwen2, GPT-2, BERT and DistilBERT); keep the width, and keep fewer layers"
    )


def choose(teacher: Sizes, student: Sizes, state: Mapping[str, Tensor], layers: Iterable[str], by: Cut) -> Kept:
    """What to keep: the first units, or (`norm`) those whose weights have the largest sum of squares.

    A hidden unit counts with every row and column that writes or reads it, in all layers; inner units and heads with
    those of their own layer. The order of units stays.
    """
    layers = tuple(layers)
    if by == "first":
        inner = dict.fromkeys(layers, torch.arange(student.inner))
        groups = dict.fromkeys(layers, torch.arange(student.groups))
        return Kept(teacher, student, torch.arange(student.width), inner, groups)
    hidden = torch.zeros(teacher.width)
    inner_of = {layer: torch.zeros(teacher.inner) for layer in layers}
    groups_of = {layer: torch.zeros(teacher.groups) for layer in layers}
    for name, value in state.items():
        axes, layer = axes_of(name, value), next((layer for layer in layers if name.startswith(layer)), None)
        if value.ndim != 2:
            continue
        for dim, axis in enumerate(axes):
            squares = value.detach().cpu().float().square().sum(1 - dim)
            if axis == "width":
                hidden += squares
            elif layer is not None and axis == "inner":
                inner_of[layer] += squares
            elif layer is not None and axis in ("heads", "groups", "qkv"):
                parts = squares.view(3 if axis == "qkv" else 1, teacher.groups, -1)
                groups_of[layer] += parts.sum((0, 2))
    return Kept(
        teacher,
        student,
        _largest(hidden, student.width),
        {layer: _largest(score, student.inner) for layer, score in inner_of.items()},
        {layer: _largest(score, student.groups) for layer, score in groups_of.items()},
    )


def _largest(score: Tensor, count: int) -> Tensor:
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def _spans(starts: Tensor, length: int) -> Tensor:
    """Entries of blocks of equal length."""
    return (starts[:, None] * length + torch.arange(length)).flatten()
