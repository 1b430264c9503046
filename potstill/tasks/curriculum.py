"""One expert for every image: the harder the image and the later in training, the stronger."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int16
from torch import Tensor

from potstill.callbacks import Callback
from potstill.experts import EXPERTS
from potstill.hashing import uniform_int
from potstill.ranks import agree
from potstill.tasks.routed import Routed
from potstill.types import Progress, View

if TYPE_CHECKING:
    from potstill.engine import Engine

SELECTIONS = ("gradual", "static", "anti", "random")


class Curriculum(Routed):
    """`count` experts, 0 the weakest, for images whose `strata` are measured before the first step.

    With M experts, strata g(x) in [0, M) and epoch e of E:

    - static: g(x).
    - gradual: min(g(x), floor(M e / (rho E))): the weakest expert alone at first, all from rho E epochs on.
    - anti: gradual upside down, M - 1 - gradual: the strongest alone at first, and later for easy images only.
    - random: any, drawn anew in every step.

    `measure` gives the strata. They are in the checkpoint, so a resumed run has the same ones. Before they are known
    (a probe, or steps that are only timed) the rows of a batch are dealt out in turn.
    """

    def __init__(
        self, count: int, select: str, rho: float, epochs: int, measure: Callable[[], Int16[Tensor, "N"]] | None
    ):
        super().__init__(self.expert)
        self.count, self.select, self.rho, self.epochs = count, select, rho, epochs
        self._measure = measure
        self.strata: Tensor | None = None
        self.started = False

    def start(self) -> None:
        """Find the strata, once."""
        self.started = True
        if self.strata is None and self._measure is not None:
            self.strata = agree(self._measure())

    def reached(self, epoch: int) -> int:
        """The strongest expert of that epoch.

        >>> [Curriculum(3, "gradual", 0.5, 12, None).reached(epoch) for epoch in range(8)]
        [0, 0, 1, 1, 2, 2, 2, 2]
        """
        # A quotient that should be a whole number may lie just below it.
        return min(self.count - 1, math.floor(self.count * epoch / (self.rho * self.epochs) + 1e-9))

    def expert(self, view: View, progress: Progress, seed: int) -> np.ndarray:
        """Of each row."""
        if not self.started:
            return np.arange(len(view)) % self.count
        if self.select == "random":
            return uniform_int(view.index, self.count, seed, "expert", progress.step).cpu().numpy()
        assert self.strata is not None, "measured at the start"
        if self.select == "static":
            return self.strata[view.index.cpu()].numpy()
        reached = self.reached(progress.epoch)
        # While there is one expert for all, nobody need wait for the indices.
        found = self.strata[view.index.cpu()].clamp(max=reached).numpy() if reached else np.zeros(len(view), np.int64)
        return found if self.select == "gradual" else self.count - 1 - found

    def state_dict(self) -> dict[str, Any]:
        return {"strata": self.strata}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.strata = state["strata"]


class MeasuresFirst(Callback):
    """Before the first step, if experts are heard in this stage at all."""

    def on_start(self, engine: Engine) -> None:
        heard = any(source == EXPERTS for source, _ in engine.system.wanted)
        if heard and isinstance(engine.task, Curriculum):
            engine.task.start()
