"""Methods for features and relations on what a black box shows: the logits. Baselines under a call budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.errors import did_you_mean
from potstill.objectives import CRD, DIST, KD, RKD, CrossEntropy
from potstill.objectives.ckd import CKD
from potstill.scheme import Scheme
from potstill.terms import Spec, Term

METHODS = {
    "rkd": (Spec.of(RKD), 1.0),
    "dist": (Spec.of(DIST, temperature=4.0), 2.0),
    "crd": (Spec.of(CRD), 0.8),
}
"""Formula and weight by name, as in CKD's released code."""


@dataclass(frozen=True)
class BlackBox(Scheme):
    r"""$L = CE + w_{kd} \, T^2 KL(p_t \,\|\, p_s) + w \, L_{of}(z_s, z_t)$, T = 4: a method on logits as its inputs.

    `of` is `rkd` (distances 25, angles 50; w = 1), `dist` (T = 4; w = 2) or `crd` (w = 0.8); `weight` sets another w.

    Defaults: those of the baselines in CKD's released code (arXiv:2311.02253), each with $w_{kd} = 1$.

    Where we differ: RKD's batches are ordinary ones; there they have five images of each of some classes.

    Raises:
        ValueError: an unknown method, or a weight below 0.

    >>> [(term.label, term.weight) for term in BlackBox("dist").terms()]
    [('ce', 1.0), ('kd', 1.0), ('dist', 2.0)]
    """

    of: str = "rkd"
    weight: float | None = None
    kd: float = 1.0
    paper: ClassVar[str] = CKD.paper
    matches: ClassVar[str] = "relations"

    def __post_init__(self) -> None:
        if self.of not in METHODS:
            raise ValueError(f"black_box: unknown method {self.of!r}; {did_you_mean(self.of, METHODS)}")
        for name in ("weight", "kd"):
            if (value := getattr(self, name)) is not None and not (isinstance(value, int | float) and value >= 0):
                raise ValueError(f"black_box: {name} is a number from 0 up, got {value!r}")

    def terms(self) -> tuple[Term, ...]:
        formula, usual = METHODS[self.of]
        soft = Term(Spec.of(KD, temperature=4.0), "output", "output", weight=self.kd, name="kd")
        weight = usual if self.weight is None else self.weight
        return (
            Term(CrossEntropy, "output", None, name="ce"),
            *([soft] if self.kd else []),
            Term(formula, "output", "output", weight=weight, name=self.of),
        )
