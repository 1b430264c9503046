"""ONE: on-the-fly native ensemble (Lan, Zhu, Gong 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from potstill.branches import Branches, Ends, Ensemble, ends_of
from potstill.hashing import hash_int
from potstill.objectives import KD, CrossEntropy
from potstill.schedules import SigmoidWarmUp
from potstill.scheme import Scene, Scheme
from potstill.sources import Network
from potstill.terms import Spec, Term
from potstill.types import Batch, Source

SOURCE = "ensemble"


@dataclass(frozen=True)
class ONE(Scheme):
    r"""A student with several ends learns from its own gated ensemble; no teacher.

    $$L = \sum_b \mathrm{CE}(y, p_b) + \mathrm{CE}(y, p_e) + w(e)\, T^2 \sum_b \mathrm{KL}(p_e^T \,\|\, p_b^T), \qquad
    z_e = \sum_b g_b z_b, \qquad T = 3$$

    All before the student's last stage is shared; every further branch has a last stage and a classifier of its own.
    The gate g is a linear layer on the averaged shared map, batch norm, ReLU and softmax. The student itself is the
    first branch: it is what is evaluated and exported, and nothing of the others stays in it; with `ensemble` it is the
    whole that answers, is evaluated and exported (the paper's ONE-E), with the same training. w grows as
    $\exp(-5 (1 - f / s)^2)$ over the first share s of the run, f being the part of it that is done.

    Shapes: logits `[B, K]` of each branch (taps `branch1`, `branch2` … of the source `ensemble`, whose output is
    $z_e$).

    Defaults: 3 branches, T 3, `ramp` 80 of 300 epochs, as the authors' code; their initial weights are those of
    further students.

    Where we differ: the weight w follows every step, theirs every epoch; their KL adds 1e-7 to what the ensemble
    says.

    Raises:
        ValueError: fewer than two branches, a temperature that is not positive, a share outside [0, 1]; a network that
            has no two stages of maps, or does not compute its last one from the map before it alone.

    >>> [term.label for term in ONE(branches=2).terms()]
    ['ce', 'kd', 'ce_branch2', 'kd_branch2', 'ce_ensemble']
    """

    branches: int = 3
    temperature: float = 3.0
    weight: float = 1.0
    ramp: float = round(80 / 300, 4)
    ensemble: bool = False
    paper: ClassVar[str] = (
        "Lan, Zhu, Gong: Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018. arXiv:1806.04606"
    )
    matches: ClassVar[str] = "logits"
    classifies: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.branches < 2:
            raise ValueError(f"one: an ensemble has at least 2 branches, got {self.branches}")
        if self.temperature <= 0:
            raise ValueError(f"one: temperature must be positive, got {self.temperature}")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"one: ramp is a share of the run, between 0 and 1, got {self.ramp}")

    def terms(self) -> tuple[Term, ...]:
        formula, growing = Spec.of(KD, temperature=self.temperature), SigmoidWarmUp(self.ramp, self.weight)
        source, found = "student" if self.ensemble else SOURCE, []
        for number in range(1, self.branches + 1):
            mark, branch = "" if number == 1 else f"_branch{number}", f"{source}:branch{number}"
            found.append(Term(CrossEntropy, branch, None, name=f"ce{mark}"))
            found.append(Term(formula, branch, f"{source}:output", weight=growing, name=f"kd{mark}"))
        return (*found, Term(CrossEntropy, f"{source}:output", None, name="ce_ensemble"))

    @property
    def adapts(self) -> bool:
        return self.ensemble

    def adapt(self, student: Network, batch: Batch, peer: Callable[[str], nn.Module], seed: int) -> nn.Module:
        return Ensemble(student.module, self._ends(student, batch, peer, seed))

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        if self.ensemble:
            return {}
        student, batch = scene.student, scene.examples.probe
        return {SOURCE: Branches(student, self._ends(student, batch, lambda name: scene.peer(name).module, scene.seed))}

    def _ends(self, student: Network, batch: Batch, peer: Callable[[str], nn.Module], seed: int) -> Ends:
        others = [partial(peer, f"branch{number}") for number in range(2, self.branches + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_int(seed, "one", "gate"))
            return ends_of(student, batch, others)
