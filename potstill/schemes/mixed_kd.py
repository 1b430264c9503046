"""Mixup and CutMix with a teacher that is asked about unmixed images only: baselines under a call budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from potstill.objectives import KD
from potstill.objectives.mixed_labels import MixedLabels
from potstill.scheme import Scene, Scheme
from potstill.tasks.mixes import Mixes
from potstill.terms import Spec, Term
from potstill.types import Task


@dataclass(frozen=True)
class MixupKD(Scheme):
    r"""The student sees mixed images, and learns the labels and what the teacher said of the two images, mixed alike:

    $$L = w_y [\lambda CE(y, z_s) + (1 - \lambda) CE(y', z_s)] + w_r KL(\lambda p_t + (1 - \lambda) p'_t \,\|\, p_s),
      \qquad \tilde x = \lambda x + (1 - \lambda) x', \; \lambda \sim Beta(\alpha, \alpha)$$

    Softmax at T = 1. One $\lambda$ a batch. The second term is the released code's cross-entropy with soft targets less
    their entropy, so its gradient is the same.

    Defaults: both weights 1 and alpha 1, as in the code released with CKD (arXiv:2311.02253), whose baseline it is.

    Where we differ: a partner is another image of the batch (now and then the image itself), not one of 100,000 pairs
    that are drawn first.

    Raises:
        ValueError: an alpha that is not positive, or a weight below 0.
    """

    label: float = 1.0
    relation: float = 1.0
    alpha: float = 1.0
    kind: ClassVar[Literal["mixup", "cutmix"]] = "mixup"
    paper: ClassVar[str] = MixedLabels.paper
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"{self.kind}_kd: alpha must be positive, got {self.alpha}")
        for name in ("label", "relation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{self.kind}_kd: the weight {name} must not be negative, got {getattr(self, name)}")

    def terms(self) -> tuple[Term, ...]:
        soft = Spec.of(KD, temperature=1.0)
        return (
            Term(MixedLabels, "output@mixed", None, weight=self.label, name="label"),
            Term(soft, "output@mixed", "teacher:output@targets", weight=self.relation, name="relation"),
        )

    def task(self, scene: Scene) -> Task:
        return Mixes(self.kind, self.alpha)


@dataclass(frozen=True)
class CutMixKD(MixupKD):
    r"""Like `mixup_kd`, with a box of one image pasted into the other; $\lambda$ is the area that is left of the first.

    $$L = w_y [\lambda CE(y, z_s) + (1 - \lambda) CE(y', z_s)] + w_r KL(\lambda p_t + (1 - \lambda) p'_t \,\|\, p_s)$$

    One box a batch, its area before it is cut off at the edges $1 - \lambda$ with $\lambda \sim Beta(\alpha, \alpha)$.
    Defaults and differences are those of `mixup_kd`.

    Raises:
        ValueError: an alpha that is not positive, or a weight below 0.
    """

    kind: ClassVar[Literal["mixup", "cutmix"]] = "cutmix"
    paper: ClassVar[str] = (
        "Yun, Han, Oh, Chun, Choe, Yoo: CutMix: Regularization Strategy to Train Strong Classifiers with Localizable "
        "Features. ICCV 2019. arXiv:1905.04899"
    )
