"""CKD: Comparative Knowledge Distillation (2023, WACV 2025), for a teacher that takes few calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.errors import did_you_mean
from potstill.objectives import CC, KD, VID, FitNet
from potstill.objectives.ckd import CKD as Compared
from potstill.objectives.ckd import LOSSES, CKDLabels
from potstill.scheme import Scene, Scheme
from potstill.tasks.comparisons import MOST, OPERATORS, Comparisons
from potstill.terms import Spec, Term
from potstill.types import Task

INTER = {"fitnet": FitNet, "vid": VID, "cc": CC}
"""Feature methods of the white-box variant."""
SIZES = (2, 3)


@dataclass(frozen=True)
class CKD(Scheme):
    r"""N answers of a teacher are $O(N^2)$ comparisons, and the student learns these:

    $$L = w_y \, \tfrac1K \|\Delta_s - \Delta_y\|^2 + w_r \, \tfrac1K \|\Delta_s - \Delta_t\|^2
      + w_{kd} \, T^2 KL(\Delta_t \,\|\, \Delta_s), \qquad \Delta = \mathrm{mean}_A \, z - \mathrm{mean}_B \, z,$$

    where $z$ are the logits of the student, of the teacher, or the labels as one-hot rows, and (A, B) are disjoint sets
    of training images: `group=2` compares one with one, `group=3` two with one. At most 100,000 comparisons are drawn,
    once (`tasks/comparisons.py`). No softmax and no cross-entropy: the label term is on logits too.

    Defaults: `label` ($w_y$) and `relation` ($w_r$) 1, `kd` 0 at T = 4, `group=2`: those of the release for WACV 2025.
    The release of 2023 has `group=3`, and `loss="kl"`: it gives differences to KD's loss at T = 4 (softmax of
    differences), for labels and teacher. `operator` is the ablation's: difference, sum ($\tfrac12 A + \tfrac12 B$) or
    mixup ($\lambda A + (1 - \lambda) B$, $\lambda$ one a batch from Beta(1, 1)).

    `inter` is the white-box variant: a feature method on comparisons of features, at RepDistiller's weight: `fitnet`
    (stage 2, 100), `vid` (every stage, 1) or `cc` (embeddings, 0.02). The teacher's features are computed again from
    the image crop that its call was about.

    The published protocol is `teacher.budget=N`, `data.watched=0.2`, `fit.schedule=plateau` with a patience of 50,
    batches of 64 comparisons, SGD with momentum 0.9 and weight decay 5e-4, a learning rate of 0.1, 0.05 or 0.025
    chosen on the watched images, and ⌈0.8 N / 64⌉ steps (`fit.drop_last=False`) between two evaluations, for every
    method. Without a budget it runs as well, and asks the teacher about what it shows to the student.

    Where we differ: the last step before an evaluation has as many comparisons as an ordinary method has images there,
    which may be fewer than 64. Comparisons, their order and the augmentation are hashed, not drawn from a generator.

    Raises:
        ValueError: a group other than 2 or 3, an unknown operator, loss or feature method, a weight below 0; when a
            student is built: a loader that cannot show a sample by its index.

    >>> [term.label for term in CKD(group=3, inter="vid").terms()]
    ['label', 'relation', 'vid']
    """

    group: int = 2
    operator: str = "difference"
    label: float = 1.0
    relation: float = 1.0
    kd: float = 0.0
    loss: str = "mse"
    temperature: float = 4.0
    inter: str = ""
    most: int = MOST
    paper: ClassVar[str] = Compared.paper
    matches: ClassVar[str] = "relations"

    def __post_init__(self) -> None:
        if self.group not in SIZES:
            raise ValueError(f"ckd: group is 2 (one image with one) or 3 (two with one), got {self.group}")
        for name, known in (("operator", OPERATORS), ("loss", LOSSES), ("inter", ("", *INTER))):
            if (given := getattr(self, name)) not in known:
                raise ValueError(f"ckd: unknown {name} {given!r}; {did_you_mean(given, [one for one in known if one])}")
        for name in ("label", "relation", "kd"):
            if getattr(self, name) < 0:
                raise ValueError(f"ckd: the weight {name} must not be negative, got {getattr(self, name)}")
        if self.temperature <= 0 or self.most < 1:
            raise ValueError(f"ckd: temperature and most must be positive, got {self.temperature} and {self.most}")

    def terms(self) -> tuple[Term, ...]:
        formula = {"loss": self.loss, "temperature": self.temperature}
        here, there = "output@comparison", "teacher:output@comparison"
        found = [
            Term(Spec.of(CKDLabels, **formula), here, None, weight=self.label, name="label"),
            Term(Spec.of(Compared, **formula), here, there, weight=self.relation, name="relation"),
            Term(Spec.of(KD, temperature=self.temperature), here, there, weight=self.kd, name="kd"),
        ]
        found = [term for term in found if term.weight]
        if self.inter:
            kind = INTER[self.inter]
            ours, theirs = kind.default_taps
            sides = f"{ours}@comparison", f"teacher:{theirs}@comparison"
            found.append(Term(kind, *sides, weight=kind.default_weight, name=self.inter))
        return tuple(found)

    def task(self, scene: Scene) -> Task:
        classes = scene.examples.info.classes
        assert classes is not None, "what is distilled has classes"
        return Comparisons(scene.examples.loader, classes, self.group, self.operator, self.most)
