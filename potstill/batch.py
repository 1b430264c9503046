"""What flows through a step: progress, views, batches and outputs. Letters in shapes as in `types.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAIN = "main"
"""Name of the view that every batch has."""
PLAIN = -1
"""`View.number` of training samples as they are, not augmented."""


@dataclass(frozen=True)
class LazyLogits:
    """Logits `hidden @ weight.T + bias` of a large vocabulary that are never made as a whole.

    `hidden` `[B, T, D]` or `[B, D]`, `weight` `[V, D]`, `bias` `[V]` or None: the last layer's input, and its own
    parameters (which a network may share with its embedding). Only objectives with `lazy = True` take it.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        fits = self.hidden.ndim >= 2 and self.weight.ndim == 2 and self.hidden.shape[-1] == self.weight.shape[1]
        if not fits or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            shapes = [None if one is None else list(one.shape) for one in (self.hidden, self.weight, self.bias)]
            raise ValueError(
                "LazyLogits: hidden {}, weight {}, bias {}; expected [..., D], [V, D] and [V] or None".format(*shapes)
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the logits would have."""
        return (*self.hidden.shape[:-1], len(self.weight))

    def dense(self) -> Tensor:
        """The logits, whole."""
        cast = self.cast()
        return F.linear(cast.hidden, cast.weight, cast.bias)

    def rows(self, some: slice) -> Tensor:
        """Logits of some tokens, counted through all samples."""
        return F.linear(self.hidden.flatten(0, -2)[some], self.weight, self.bias)

    def cast(self) -> LazyLogits:
        """With its head in the dtype of the hidden states, as under autocast."""
        dtype = self.hidden.dtype
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def detach(self) -> LazyLogits:
        bias = None if self.bias is None else self.bias.detach()
        return LazyLogits(self.hidden.detach(), self.weight.detach(), bias)

    def roll(self, shifts: int, dims: int) -> LazyLogits:
        """Another sample's logits: `dims` is one of the dimensions in front of the vocabulary, counted from 0."""
        return replace(self, hidden=self.hidden.roll(shifts, dims))


@dataclass(frozen=True)
class TopLogits:
    """A distribution over a large vocabulary of which the k most probable tokens are known, and so the others' mass.

    `log_probs` `[B, T, k]` or `[B, k]` of the softmax at `temperature`, over the whole `vocabulary`; `indices` int64 of
    the same shape, whose tokens they are, each once a row. What is missing to 1 is the mass of all other tokens. A row
    of which fewer are known is filled up with index -1 and -inf. Only a source that is not trained may answer with it,
    and only objectives with `takes_top = True` take it.
    """

    log_probs: Tensor
    indices: Tensor
    vocabulary: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        values, places = self.log_probs, self.indices
        if values.ndim < 2 or values.shape != places.shape or not 1 <= values.shape[-1] <= self.vocabulary:
            raise ValueError(
                f"TopLogits: log_probs {list(values.shape)}, indices {list(places.shape)}, a vocabulary of "
                f"{self.vocabulary}; expected [..., k] twice, with k between 1 and the vocabulary"
            )
        if not values.is_floating_point() or places.dtype != torch.int64:
            raise ValueError(
                f"TopLogits: log_probs are {values.dtype}, indices {places.dtype}; expected floating point and int64"
            )
        if self.temperature <= 0:
            raise ValueError(f"TopLogits: temperature must be positive, got {self.temperature}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the logits would have."""
        return (*self.log_probs.shape[:-1], self.vocabulary)

    def __getitem__(self, some: slice) -> TopLogits:
        """Rows of the first dimension."""
        return replace(self, log_probs=self.log_probs[some], indices=self.indices[some])

    def flat(self) -> TopLogits:
        """`[N, k]`: tokens counted through all samples."""
        return replace(self, log_probs=self.log_probs.flatten(0, -2), indices=self.indices.flatten(0, -2))

    def detach(self) -> TopLogits:
        return replace(self, log_probs=self.log_probs.detach())

    def roll(self, shifts: int, dims: int) -> TopLogits:
        """Another sample's: `dims` is one of the dimensions in front of the tokens, counted from 0."""
        return replace(self, log_probs=self.log_probs.roll(shifts, dims), indices=self.indices.roll(shifts, dims))

    def check(self) -> None:
        """Raises ValueError for numbers that are no part of a distribution. Waits for the device."""
        known, values = self.indices >= 0, self.log_probs.double()
        mass = values.exp().where(known, 0).sum(-1).max().item()
        places = self.indices.sort(-1).values
        if values.isnan().any() or not mass <= 1.01:
            raise ValueError(f"TopLogits: log_probs are NaN or sum to more than 1 (the largest mass is {mass:.4g})")
        if self.indices.min() < -1 or self.indices.max() >= self.vocabulary:
            raise ValueError(
                f"TopLogits: indices lie in [{self.indices.min()}, {self.indices.max()}]; expected 0 to "
                f"{self.vocabulary - 1}, or -1 where no further token is known"
            )
        if ((places[..., 1:] == places[..., :-1]) & (places[..., 1:] >= 0)).any():
            raise ValueError("TopLogits: a row names the same token twice")


Answer = Tensor | LazyLogits | TopLogits
"""What a network answers with, or what stands for one."""

Tensors = Tensor | tuple[Tensor, ...]
"""One side of an objective: one tensor, or one per tap that the address names."""

Side = Answer | tuple[Answer, ...]
"""The same as a term reads it, before it is known what the objective takes."""


@dataclass(frozen=True)
class Progress:
    """How far a run is. Known on the host, so reading it never waits for the device.

    `step` counts optimizer steps taken, `epoch` is the epoch that the step lies in, `total` is the number of
    optimizer steps of the whole run (at least 1).
    """

    step: int
    epoch: int
    total: int

    @property
    def fraction(self) -> float:
        """Part of the run that lies behind, in [0, 1]."""
        return min(self.step / self.total, 1.0)


@dataclass(frozen=True)
class View:
    """One way of looking at the examples of a batch: an input and what belongs to it, row by row.

    `input` is what a network's forward receives (a tensor, or a mapping of tensors for tokenised text).
    `index` is each row's place in the data set (int64), the key of memory banks, caches and random draws.
    `label` and `mask` (True: counts) may be absent. `extras` holds whatever else terms ask for by name; what a source
    must know without asking the device is a numpy array there, one row per example too.
    Rows of a view may be a multiple of the rows of the main view (a comparison needs several images).
    `number` says which augmentation of the training samples the input is, so that a cache knows what it is asked for;
    it is known on the host. None where a loader does not know: then no cache can answer.
    """

    input: Any
    index: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None

    def __len__(self) -> int:
        return len(self.index)

    def slice(self, start: int, stop: int) -> View:
        """Rows `start` to `stop`; every tensor of the view has one row per example."""
        cut = _cutter(start, stop)
        return View(
            cut(self.input), cut(self.index), cut(self.label), cut(self.mask), cut(dict(self.extras)), self.number
        )

    def to(self, device: torch.device | str) -> View:
        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        extras = {name: move(value) for name, value in self.extras.items()}
        inputs = self.input
        inputs = {k: move(v) for k, v in inputs.items()} if isinstance(inputs, Mapping) else move(inputs)
        return View(inputs, move(self.index), move(self.label), move(self.mask), extras, self.number)


def _cutter(start: int, stop: int) -> Callable[[Any], Any]:
    def cut(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Mapping):
            return {name: cut(item) for name, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(cut(item) for item in value)
        return value[start:stop]

    return cut


@dataclass(frozen=True)
class Batch:
    """Named views of the same examples. `views["main"]` always exists."""

    views: Mapping[str, View]

    @property
    def main(self) -> View:
        return self.views[MAIN]

    def __len__(self) -> int:
        return len(self.main)

    def with_view(self, name: str, view: View) -> Batch:
        return replace(self, views={**self.views, name: view})

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` micro-batches, nearly equal; every view is cut at the same examples."""
        rows = len(self)
        parts = min(parts, rows)
        edges = [rows * part // parts for part in range(parts + 1)]
        per_row = {}
        for name, view in self.views.items():
            per_row[name], left_over = divmod(len(view), rows)
            if left_over:
                raise ValueError(
                    f"view {name!r} has {len(view)} rows, which is no multiple of the {rows} rows of the main "
                    "view, so the batch cannot be cut into micro-batches"
                )
        return [
            Batch({name: view.slice(a * per_row[name], b * per_row[name]) for name, view in self.views.items()})
            for a, b in zip(edges, edges[1:], strict=False)
        ]


@dataclass(frozen=True)
class Outputs:
    """What one network said about one view.

    `output` is its answer: logits `[B, K]` or `[B, T, V]`, as a tensor, as `LazyLogits` or as `TopLogits`; scores
    `[B, N]`; embeddings `[B, D]`. `taps` maps tap names to activations.
    """

    output: Answer
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    def get(self, name: str) -> Answer:
        return self.output if name == "output" else self.taps[name]

    def dense(self) -> Tensor:
        """The answer as a tensor; `LazyLogits` are made whole. Raises ValueError for `TopLogits`, which cannot be."""
        if isinstance(self.output, TopLogits):
            raise ValueError(
                f"whole logits are read, and of this answer only the {self.output.log_probs.shape[-1]} most probable "
                f"of {self.output.vocabulary} tokens are known (TopLogits); let the source answer with all of them"
            )
        return self.output.dense() if isinstance(self.output, LazyLogits) else self.output


SourceOutputs = dict[str, dict[str, Outputs]]
"""`outputs[source][view]`."""
