"""Who writes the text that is taught on: the data set, the teacher, the student, or several of them in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from potstill.types import Batch, Progress, Source


@runtime_checkable
class Sequences(Protocol):
    """Makes the batch to learn from of a batch of the data set.

    One that remembers something (a replay buffer, a threshold) is Stateful. Random numbers are functions of (seed,
    step, rank), so that a killed run goes on with the same bits.
    """

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch: ...

    def report(self) -> dict[str, float]:
        """What the texts were like since the last call: means by name, for `metrics.jsonl`."""
        ...


def speaker(sources: Mapping[str, Source], name: str, method: str) -> nn.Module:
    """The live network of a source.

    Raises ValueError for a source that stands for one and cannot write (a cache, say).
    """
    if name not in sources:
        raise ValueError(f"{method} lets the {name} write, and there is none")
    module = sources[name].module
    if module is None:
        raise ValueError(
            f"{method} lets the {name} write, and a {type(sources[name]).__name__} only repeats what was said of given "
            "texts; use the live network, or a method that learns from the data set (forward_kl, seqkd)"
        )
    return module
