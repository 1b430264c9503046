"""Classification in which somebody chooses, batch by batch, which experts each image hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from potstill.experts import EXPERTS
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Progress, Source, View

Choose = Callable[[View, Progress, int], np.ndarray]
"""(view, progress, seed) -> experts' numbers for each row, int64: `[B]`, or several a row `[B, S]`."""


class Routed(Classify):
    """`choose` writes the extra that a source of `Experts` reads."""

    def __init__(self, choose: Choose):
        self.choose = choose

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        route = self.choose(batch.main, progress, seed)
        extras = {**batch.main.extras, EXPERTS: route}
        return (batch.with_view(MAIN, replace(batch.main, extras=extras)),)
