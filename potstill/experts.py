"""Several frozen teachers as one source: which of them answers is another matter for every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.sources import Heard
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Objective, Outputs, Source, Task, View

if TYPE_CHECKING:
    from potstill.scheme import Scene

EXPERTS = "experts"
"""What terms call them, and the extra of a view that says who is asked about each image."""
HOW = (
    "the recipe has no assistants; distil some from the teacher: --ladder MODEL … (strong to weak), or in the recipe "
    'assistants=(Assistant("middle", Network("resnet20")),); from Python potstill.distill(…, assistants={"middle": …})'
)


class Experts:
    """Frozen sources of which each row of a batch hears some; only those that a batch needs run, on their own rows.

    The view's extra `experts` holds their numbers, a numpy array, so that choosing waits for nothing: `[B]`, one a row,
    gives answers `[B, K]` that any objective can read; `[B, S]`, S different ones a row, gives `[B, S, K]`. Answers are
    those that the experts would give about the whole batch, up to rounding that depends on how many rows run at once.
    There are only answers: features of several networks do not fit together.

    Raises ValueError for experts with different numbers of classes, and for a view that names nobody.
    """

    trained = False
    module: nn.Module | None = None
    provides: frozenset[str] = frozenset()

    def __init__(self, experts: Mapping[str, Source]):
        # What several students share is recognised by whole batches, and each expert is asked about parts of them.
        self.experts = {name: one.source if isinstance(one, Heard) else one for name, one in experts.items()}
        self.names = list(experts)

    @property
    def fingerprint(self) -> str:
        return "experts:" + "+".join(one.fingerprint for one in self.experts.values())

    def __len__(self) -> int:
        return len(self.experts)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        for one in self.experts.values():
            if fits := getattr(one, "fits", None):
                fits(name, objective, taps)

    def check(self, probe: Batch) -> None:
        """Ask everybody once. Raises ValueError for different numbers of classes."""
        classes = {name: one(Classify(), probe, MAIN, ()).dense().shape[-1] for name, one in self.experts.items()}
        if len(set(classes.values())) > 1:
            said = ", ".join(f"{name} with {count}" for name, count in classes.items())
            raise ValueError(
                f"the experts answer with different numbers of classes ({said}); build all for the classes of the "
                "data, or give a network that knows others a label_map"
            )

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        route = seen.extras.get(EXPERTS)
        if route is None:
            raise ValueError(f"view {view!r} does not say which expert answers: it has no extra {EXPERTS!r}")
        slots = route if route.ndim == 2 else route[:, None]
        answer: Tensor | None = None
        for number in np.unique(slots).tolist():
            rows, places = map(torch.from_numpy, np.nonzero(slots == number))
            part = batch.with_view(view, seen if len(rows) == len(seen) else _some(seen, rows))
            said = at_least_float32(self.experts[self.names[number]](task, part, view, ()).dense())
            if answer is None:
                answer = said.new_empty(*slots.shape, said.shape[-1])
            where = (rows.to(said.device, non_blocking=True), places.to(said.device, non_blocking=True))
            answer[where] = said.to(answer.dtype)
        assert answer is not None, "a batch has rows, and each of them an expert"
        return Outputs(answer if route.ndim == 2 else answer[:, 0])


def _some(view: View, rows: Tensor) -> View:
    """Some rows of a view, and nothing that is not for networks."""
    rows = rows.to(view.index.device, non_blocking=True)

    def some(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: some(item) for name, item in value.items()}
        return value.index_select(0, rows) if isinstance(value, Tensor) else value

    return replace(view, input=some(view.input), index=some(view.index), label=some(view.label), mask=None, extras={})


def experts_of(scheme: str, scene: Scene) -> Experts:
    """The recipe's assistants and its teacher, the weakest first: recipes name assistants from strong to weak.

    Raises ValueError where there are no assistants, and for experts with different numbers of classes.
    """
    assistants = list(scene.assistants.items())
    if not assistants:
        raise ValueError(f"{scheme}: {HOW}")
    experts = Experts(dict([*reversed(assistants), ("teacher", scene.teacher)]))
    experts.check(scene.examples.probe)
    return experts


def out_of_order(experts: Experts) -> str | None:
    """What to say where an expert has more parameters than the next one, which should be the stronger."""
    sizes = {
        name: sum(p.numel() for p in one.module.parameters())
        for name, one in experts.experts.items()
        if one.module is not None
    }
    for (weak, small), (strong, large) in zip(sizes.items(), list(sizes.items())[1:], strict=False):
        if small > large:
            return (
                f"{weak!r} ({small:,} parameters) counts as weaker than {strong!r} ({large:,}); name assistants from "
                "strong to weak if that is not meant"
            )
    return None
