"""TAKD: teacher assistants (2020), networks between a large teacher and a small student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from potstill.experts import HOW
from potstill.objectives import KD, CrossEntropy
from potstill.scheme import Scene, Scheme
from potstill.terms import Spec, Term
from potstill.types import Source


@dataclass(frozen=True)
class TAKD(Scheme):
    r"""The student learns from the last of the recipe's assistants, which learned from the one before, and so on.

    $$L = (1 - \lambda)\,\mathrm{CE}(y, p_s) + \lambda\, T^2\, \mathrm{KL}(p_a \,\|\, p_s)$$

    with $p_a$ the last assistant's answer. A recipe names its assistants from strong to weak; `--ladder resnet56
    resnet20` trains them one from the next, with KD. In this method the assistant is the teacher: terms that are added
    (`takd+icd`) learn from it too. Agreement in tables is with the recipe's teacher.

    Defaults: $\lambda$ = 0.9 and T = 4, those of `kd`, so that a table compares ways and not weights. The paper tunes
    both for every step of the ladder; its repository suggests 0.04 with T = 5 or 10 for CIFAR-100.

    Where we differ: the released code averages the divergence over the K classes too, so its $\lambda$ stands for
    $\lambda / K$ in front of ours. Its ResNets train at a rate of 0.01 until three quarters of the run and 0.001 then,
    because a test compares the epoch with itself; the recipe `takd_cifar100` does the same.

    Raises:
        ValueError: no assistants, a weight outside [0, 1], a temperature that is not positive.

    >>> [term.label for term in TAKD().terms()]
    ['ce', 'kd']
    """

    weight: float = 0.9
    temperature: float = 4.0
    paper: ClassVar[str] = (
        "Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh: Improved Knowledge Distillation via Teacher "
        "Assistant. AAAI 2020. arXiv:1902.03393"
    )
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        check_weights("takd", self.weight, self.temperature)

    def terms(self) -> tuple[Term, ...]:
        return (
            Term(CrossEntropy, weight=1 - self.weight, name="ce"),
            Term(Spec.of(KD, temperature=self.temperature), weight=self.weight, name="kd"),
        )

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        if not scene.assistants:
            raise ValueError(f"takd: {HOW}")
        return {"teacher": list(scene.assistants.values())[-1]}


def check_weights(scheme: str, weight: float, temperature: float) -> None:
    """Raises ValueError for what is no share of the loss, and for a temperature that is not positive."""
    if not 0 <= weight <= 1:
        raise ValueError(f"{scheme}: weight is the share of the distillation loss, between 0 and 1, got {weight}")
    if temperature <= 0:
        raise ValueError(f"{scheme}: temperature must be positive, got {temperature}")
