"""CES-KD: curriculum-based expert selection (2022). A reconstruction: only the abstract tells what it does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from potstill.callbacks import Callback
from potstill.difficulty import MEASURES, measured, strata
from potstill.errors import did_you_mean
from potstill.experts import EXPERTS, Experts, experts_of, out_of_order
from potstill.objectives import KD, CrossEntropy, SeveralKD
from potstill.scheme import Scene, Scheme
from potstill.schemes.takd import check_weights
from potstill.tasks.curriculum import SELECTIONS, Curriculum, MeasuresFirst
from potstill.tasks.routed import Routed
from potstill.terms import Spec, Term
from potstill.types import Source, Task

AVERAGE = "average"


@dataclass(frozen=True)
class CESKD(Scheme):
    r"""Each image is taught by one expert, teacher or assistant: easy images by weak ones, hard images by strong ones.

    **A reconstruction.** There is no public code. Known from the abstract: exactly one expert for each image, chosen by
    how hard the image is to classify, following a curriculum, gradually. Everything else here is our reading.

    Experts 1 … M are the recipe's assistants and its teacher, the weakest first; a recipe names its assistants from
    strong to weak (`--ladder resnet56 resnet20`). The difficulty of a training image is $d(x) = 1 - p_M(y \mid x)$ by
    the strongest expert on the image as it is, not augmented, measured once before the first step. M bins of equal mass
    give its stratum $g(x) \in \{1, …, M\}$. In epoch e of E

    $$m(x, e) = \min\left(g(x),\; 1 + \left\lfloor \frac{M e}{\rho E} \right\rfloor\right), \qquad
    L(x) = (1 - \lambda)\,\mathrm{CE}(y, p_s) + \lambda\, T^2\, \mathrm{KL}(p_{m(x,e)} \,\|\, p_s)$$

    so the weakest expert teaches alone at first. Only the experts that a batch needs run, each on its own images.

    Options: `select` is `gradual` (above), or a control: `static` (m = g from the start), `anti` (gradual upside down,
    M + 1 - m: the strongest alone at first, and hard images fall to the weakest), `random` (any expert, drawn for each
    image and step) and `average` (the mean of all experts' losses). `difficulty` is `probability` (above), `ce` (the
    same order), `margin` (largest wrong probability minus the right one), `entropy` (of the answer) or `mean_ce` (over
    all experts). `rho`, `weight` ($\lambda$) and `temperature` as above.

    Defaults, all ours: rho = 0.5; $\lambda$ = 0.9 and T = 4, those of `kd`, so that a table compares ways and not
    weights.

    Raises:
        ValueError: no assistants; experts with different numbers of classes; an empty stratum, as where all
            difficulties are equal; data without labels, or that only a loader of its own can read; a cached teacher,
            which cannot be asked about clean images; an unknown `select` or `difficulty`; rho outside (0, 1]; a weight
            outside [0, 1]; a temperature that is not positive.

    >>> [term.label for term in CESKD().terms()]
    ['ce', 'kd_from_experts']
    """

    select: str = "gradual"
    difficulty: str = "probability"
    rho: float = 0.5
    weight: float = 0.9
    temperature: float = 4.0
    paper: ClassVar[str] = (
        "Amara, Ziaeefard, Meyer, Gross, Clark: CES-KD: Curriculum-based Expert Selection for Guided Knowledge "
        "Distillation. 2022. arXiv:2209.07606"
    )
    matches: ClassVar[str] = "logits"
    reconstruction: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights("ces_kd", self.weight, self.temperature)
        selections = (*SELECTIONS, AVERAGE)
        if self.select not in selections:
            raise ValueError(f"ces_kd: unknown select {self.select!r}; {did_you_mean(self.select, selections)}")
        if self.difficulty not in MEASURES:
            raise ValueError(
                f"ces_kd: unknown difficulty {self.difficulty!r}; {did_you_mean(self.difficulty, MEASURES)}"
            )
        if not 0 < self.rho <= 1:
            raise ValueError(f"ces_kd: rho is a share of the run, in (0, 1], got {self.rho}")

    @property
    def ranked(self) -> bool:
        """It asks how hard an image is."""
        return self.select not in ("random", AVERAGE)

    def terms(self) -> tuple[Term, ...]:
        formula = Spec.of(KD, temperature=self.temperature)
        if self.select == AVERAGE:
            formula = Spec.of(SeveralKD, temperature=self.temperature, mean=True)
        return (
            Term(CrossEntropy, weight=1 - self.weight, name="ce"),
            Term(formula, "output", f"{EXPERTS}:output", weight=self.weight, name="kd_from_experts"),
        )

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        experts = experts_of("ces_kd", scene)
        if self.ranked:
            if said := out_of_order(experts):
                warnings.warn(f"ces_kd: {said}", stacklevel=2)
            _check_live(experts, experts.names if self.difficulty == "mean_ce" else experts.names[-1:])
        return {EXPERTS: experts}

    def task(self, scene: Scene) -> Task:
        experts = scene.sources[EXPERTS]
        assert isinstance(experts, Experts)
        count, plain = len(experts), scene.examples.plain
        if self.select == AVERAGE:
            return Routed(lambda view, progress, seed: np.tile(np.arange(count), (len(view), 1)))

        def measure() -> Tensor:
            if plain is None:
                raise ValueError(
                    "ces_kd: it measures how hard each training image is, and a loader of your own gives only its "
                    "batches; give the data set itself, or take select=random"
                )
            return strata(measured(self.difficulty, list(experts.experts.values()), plain()), count)

        return Curriculum(count, self.select, self.rho, scene.fit.epochs, measure if self.ranked else None)

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        return [MeasuresFirst()]


def _check_live(experts: Experts, names: Sequence[str]) -> None:
    for name in names:
        if experts.experts[name].module is None:
            raise ValueError(
                f"ces_kd: it asks {name!r} about clean training images, which a cache does not hold; use the live "
                "network (leave out teacher.cache), or select=random or average"
            )
