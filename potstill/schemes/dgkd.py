"""DGKD: densely guided distillation (2021), from the teacher and all assistants at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from potstill.experts import EXPERTS, Experts, experts_of
from potstill.hashing import hash_int
from potstill.objectives import CrossEntropy, SeveralKD
from potstill.scheme import Scene, Scheme
from potstill.schemes.takd import check_weights
from potstill.tasks.routed import Routed
from potstill.terms import Spec, Term
from potstill.types import Progress, Source, Task, View


@dataclass(frozen=True)
class DGKD(Scheme):
    r"""The student learns from the teacher and from every assistant; in each step `drop` of them, drawn, are left out.

    $$L = (1 - \lambda)\,\mathrm{CE}(y, p_s) + \lambda\, T^2 \sum_{m \in S} \mathrm{KL}(p_m \,\|\, p_s)$$

    with S the experts that are left in this step, the same ones for the whole batch. Those left out are not run.
    An assistant may be trained densely as well: `Assistant("low", Network("plane4"), method="dgkd")` hears the teacher
    and the assistants before it.

    Defaults: $\lambda$ = 1 (no label term), T = 5 and one expert dropped, the released code's.

    Where we differ: the released code averages each divergence over the K classes too, so its distillation loss is K
    times as small as ours; for $\lambda$ = 1 that is a factor on the learning rate (it uses 0.01 for plain networks).

    Raises:
        ValueError: no assistants; as many dropped as there are experts, or less than none; a weight outside [0, 1]; a
            temperature that is not positive; experts with different numbers of classes.

    >>> [term.label for term in DGKD(weight=0.5).terms()]
    ['ce', 'kd_from_experts']
    """

    drop: int = 1
    weight: float = 1.0
    temperature: float = 5.0
    paper: ClassVar[str] = (
        "Son, Na, Choi, Hwang: Densely Guided Knowledge Distillation using Multiple Teacher Assistants. ICCV 2021. "
        "arXiv:2009.08825"
    )
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        check_weights("dgkd", self.weight, self.temperature)
        if self.drop < 0:
            raise ValueError(f"dgkd: drop counts experts, at least 0, got {self.drop}")

    def terms(self) -> tuple[Term, ...]:
        formula = Spec.of(SeveralKD, temperature=self.temperature)
        return (
            Term(CrossEntropy, weight=1 - self.weight, name="ce"),
            Term(formula, "output", f"{EXPERTS}:output", weight=self.weight, name="kd_from_experts"),
        )

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        experts = experts_of("dgkd", scene)
        if self.drop >= len(experts):
            raise ValueError(
                f"dgkd: in each step {self.drop} of {len(experts)} experts ({', '.join(experts.names)}) are dropped, "
                "and somebody must be left; lower drop"
            )
        return {EXPERTS: experts}

    def task(self, scene: Scene) -> Task:
        experts = scene.sources[EXPERTS]
        assert isinstance(experts, Experts)
        everybody = range(len(experts))

        def choose(view: View, progress: Progress, seed: int) -> np.ndarray:
            drawn = sorted(everybody, key=lambda number: hash_int(seed, "drop", progress.step, number))
            return np.tile(sorted(drawn[self.drop :]), (len(view), 1))

        return Routed(choose)
