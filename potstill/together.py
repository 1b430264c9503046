"""Many students for one teacher: engines that train side by side on the same batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import nn

from potstill.engine import Engine
from potstill.evaluation.summary import Cell
from potstill.loop import Failures, Step, drive, in_turn
from potstill.methods import Method
from potstill.recipe import Fit, Network
from potstill.registry import RESULT
from potstill.sources import Heard, Shuffled
from potstill.types import Batch

MOST = 8
"""Students in a group: the teacher's share of a student's cost is an eighth then, and memory holds them all at once."""
T = TypeVar("T")


@dataclass(eq=False)
class Trainee:
    """A network that is trained: what is known of it before, and then its engine."""

    spec: Network
    method: Method
    fit: Fit
    seed: int
    folder: Path
    module: nn.Module = field(init=False)
    engine: Engine = field(init=False)

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).exists()

    def cell(self) -> Cell:
        """What it came to, once it is done."""
        return Cell(**json.loads((self.folder / RESULT).read_text())["cell"])


def groups(students: Sequence[T], most: int = MOST) -> list[list[T]]:
    """As few groups as there must be, nearly equal.

    >>> groups(range(10), 4)
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """
    count = -(-len(students) // most)
    edges = [len(students) * number // count for number in range(count + 1)] if count else [0]
    return [list(students[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def expect(engines: Sequence[Engine], heard: Heard) -> None:
    """Tell the source that they share what all of them will ask for, so that it is asked once."""
    for engine in engines:
        for (name, view), taps in engine.system.wanted.items():
            source = engine.system.sources[name]
            if source is heard or (isinstance(source, Shuffled) and source.source is heard):
                heard.expect(view, taps)


def side_by_side(
    engines: Sequence[Engine], heard: Heard | None = None, resume: bool = False, step: Step = in_turn
) -> Failures:
    """Train them all to the end; returns the errors of those that failed, by engine.

    They have one loader, so that a batch is made once, and `heard` as the source that several of them listen to, so
    that it is run once a batch. Everything else is each engine's own; with `step` left out, each comes to the very bits
    that it would have come to by itself on that loader. Any of them may be resumed from a position of its own.

    Raises:
        Interrupted: Ctrl-C; all are saved.
        ValueError: engines of unequal loaders.
    """
    if not engines:
        return {}
    if any(engine.loader is not engines[0].loader for engine in engines):
        raise ValueError("engines that train side by side have one loader; assemble them from the same Examples")
    if heard is None:
        return drive(engines, resume, step)
    expect(engines, heard)

    def taken(some: Sequence[Engine], batch: Batch) -> Failures:
        heard.forget()
        return step(some, batch)

    return drive(engines, resume, taken)
