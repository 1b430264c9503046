"""What flows through a step: progress, views, batches and outputs. Letters in shapes as in `types.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

MAIN = "main"
"""Name of the view that every batch has."""
PLAIN = -1
"""`View.number` of training samples as they are, not augmented."""

Tensors = Tensor | tuple[Tensor, ...]
"""One side of an objective: one tensor, or one per tap that the address names."""


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
    `label` and `mask` (True: counts) may be absent. `extras` holds whatever else terms ask for by name.
    Rows of a view may be a multiple of the rows of the main view (a comparison needs several images).
    `number` says which augmentation of the training samples the input is, so that a cache knows what it is asked for;
    it is known on the host. None where a loader does not know: then no cache can answer.
    """

    input: Any
    index: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
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

    `output` is its answer: logits `[B, K]` or `[B, T, V]`, scores `[B, N]`, embeddings `[B, D]`. `taps` maps tap
    names to activations.
    """

    output: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    def get(self, name: str) -> Tensor:
        return self.output if name == "output" else self.taps[name]


SourceOutputs = dict[str, dict[str, Outputs]]
"""`outputs[source][view]`."""
