"""HKD: information flow through an auxiliary teacher (Passalis, Tzelepi and Tefas 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from potstill.callbacks import Callback, FreshMoments
from potstill.errors import did_you_mean
from potstill.objectives import InfoFlow
from potstill.schedules import PerEpoch
from potstill.scheme import Scene, Scheme
from potstill.terms import Spec, Term
from potstill.types import Source

AUXILIARY = "auxiliary"
"""The source that speaks for the auxiliary teacher, whatever the recipe calls it."""


@dataclass(frozen=True)
class HKD(Scheme):
    r"""Every layer of the student learns whom samples resemble in the same layer of an auxiliary teacher, the earlier
    ones mostly in the first epochs:

    $$L_e = \ell_\text{last} + \alpha_e \sum_{l < \text{last}} \ell_l, \qquad \alpha_e = 100 \cdot 0.7^e$$

    with $\ell$ of `info_flow` (both kernels, Jeffreys divergence). There is no label term, so the student's classifier
    is not trained and tables show no top-1 of it; what it learnt is for `potstill evaluate RUN --suite retrieval` to
    say. `ce:1+hkd` adds the labels.

    The auxiliary teacher has the student's layers and is wider: it is trained on the labels, then on the teacher's
    embedding. In a recipe these are two assistants (`Assistant.start`), see `recipes/vision/hkd_cifar10.py`. It is the
    last assistant of the recipe, or the one that `auxiliary` names; in a run without assistants, or with
    `auxiliary="teacher"`, it is the teacher itself.

    Defaults, the authors': `initial` 100 and `decay` 0.7, so that the weight is below 2 after 11 epochs; `last` 1, of
    the embedding; `layers` all stages, which must be as many on both sides or else the deepest are compared;
    `fresh_moments`, Adam starts anew in every epoch (the released code makes its optimizer per epoch). `kernel` and
    `divergence` are those of `info_flow`. Weights 0 leave a term out. The optimizer itself is the recipe's: Adam is
    `fit.optimizer adamw` with `fit.weight_decay 0`.

    Where we differ: the paper picks pairs of layers by their mutual information with the labels; its code, like this,
    takes them one by one. Several micro-batches or ranks compare the whole batch, as if it were one. A port of the
    method for CIFAR-100 in other repositories has a mistake that is not copied: it multiplies the weight by 0.7 from
    layer to layer within a batch and never from epoch to epoch, and uses it for the first layer alone.

    Raises:
        ValueError: a weight or decay out of range, nothing to learn from, an unknown kernel or divergence, an
            `auxiliary` that is no assistant of the recipe.

    >>> [str(term.weight) for term in HKD().terms()]
    ['1.0', '100*0.7^epoch']
    """

    initial: float = 100.0
    decay: float = 0.7
    last: float = 1.0
    layers: str = "stages"
    auxiliary: str = ""
    kernel: str = "combined"
    divergence: str = "jeffreys"
    fresh_moments: bool = True
    paper: ClassVar[str] = InfoFlow.paper
    matches: ClassVar[str] = "relations"

    def __post_init__(self) -> None:
        _ = self.weight
        InfoFlow(self.kernel, self.divergence)  # which checks them
        if self.last < 0:
            raise ValueError(f"hkd: last must not be negative, got {self.last}")
        if self.last == 0 and (self.initial == 0 or not self.layers):
            raise ValueError("hkd: with last 0 and no other layers there is nothing to learn from")

    @property
    def weight(self) -> PerEpoch:
        """Of all layers but the last."""
        return PerEpoch(self.initial, self.decay)

    def terms(self) -> tuple[Term, ...]:
        formula = Spec.of(InfoFlow, kernel=self.kernel, divergence=self.divergence)
        found = []
        if self.last > 0:
            embedding = ("embedding", f"{AUXILIARY}:embedding")
            found.append(Term(formula, *embedding, weight=self.last, name="info_flow_last"))
        if self.initial > 0 and self.layers:
            layers = (self.layers, f"{AUXILIARY}:{self.layers}")
            found.append(Term(formula, *layers, weight=self.weight, name="info_flow_layers"))
        return tuple(found)

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        known = {"teacher": scene.teacher, **scene.assistants}
        if self.auxiliary and self.auxiliary not in known:
            raise ValueError(
                f"hkd: the recipe has no assistant {self.auxiliary!r}; {did_you_mean(self.auxiliary, known)}"
            )
        return {AUXILIARY: known[self.auxiliary] if self.auxiliary else list(known.values())[-1]}

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        return (FreshMoments(),) if self.fresh_moments else ()
