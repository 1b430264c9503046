"""A source that answers with a weighted sum of what others say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from potstill.functional import at_least_float32
from potstill.types import Batch, Follows, Objective, Outputs, Source, Stateful, Task


class Blend:
    """Several teachers as one: their answers, each times its weight, added up. Taps and modules are the first one's.

    What is added are logits, in at least float32. `LazyLogits` are made whole.

    Raises:
        ValueError: fewer sources than one, another number of weights, or a source that is trained; when it is asked,
            sources that answer with different shapes.
    """

    trained = False

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if not sources or len(sources) != len(weights):
            raise ValueError(f"a blend has a weight for each of its sources, got {len(sources)} and {len(weights)}")
        if any(source.trained for source in sources):
            raise ValueError("a blend is made of frozen sources, and one of them is trained")
        self.sources, self.weights = tuple(sources), tuple(weights)

    @property
    def module(self) -> nn.Module | None:
        return self.sources[0].module

    @property
    def provides(self) -> frozenset[str] | None:
        return self.sources[0].provides

    @property
    def fingerprint(self) -> str:
        said = repr([(source.fingerprint, weight) for source, weight in zip(self.sources, self.weights, strict=True)])
        return hashlib.sha256(f"blend:{said}".encode()).hexdigest()[:16]

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        expand = getattr(self.sources[0], "expand", None)
        return expand(taps) if expand else tuple(taps)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        for source in self.sources:
            if fits := getattr(source, "fits", None):
                fits(name, objective, taps)

    def follow(self) -> None:
        for source in self.sources:
            if isinstance(source, Follows):
                source.follow()

    def state_dict(self) -> dict[str, Any]:
        return {str(n): source.state_dict() for n, source in enumerate(self.sources) if isinstance(source, Stateful)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, source in enumerate(self.sources):
            if isinstance(source, Stateful) and str(number) in state:
                source.load_state_dict(state[str(number)])

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        first = self.sources[0](task, batch, view, taps)
        answers = [first.dense(), *(source(task, batch, view, ()).dense() for source in self.sources[1:])]
        if len({answer.shape for answer in answers}) > 1:
            raise ValueError(
                f"the sources of a blend answer with different shapes, {', '.join(str(list(a.shape)) for a in answers)}"
                "; give each a label_map to the classes of the data"
            )
        parts = zip(answers, self.weights, strict=True)
        return Outputs(torch.stack([weight * at_least_float32(answer) for answer, weight in parts]).sum(0), first.taps)
