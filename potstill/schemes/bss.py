"""BSS: boundary supporting samples (Heo et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.objectives import CrossEntropy, ForwardKL
from potstill.schedules import Fade
from potstill.scheme import Scene, Scheme
from potstill.tasks.boundary import VIEW, Attack, Boundary
from potstill.terms import Spec, Term
from potstill.types import Task


@dataclass(frozen=True)
class BSS(Scheme):
    r"""The student also learns the teacher's answers on images moved to the teacher's decision boundary.

    $$L = \mathrm{CE}(y, p_s) + \lambda(e) \, \mathrm{KL}(p_t^T(\tilde x) \,\|\, p_s^T(\tilde x)), \qquad T = 3$$

    Of a batch, the samples that both nets classify right are ranked by $\sum_{k \neq y} (p_t^k - p_s^k)^2$, and the
    first `size` are moved: towards a class k drawn in proportion to the teacher's probabilities,
    $\tilde x \leftarrow \tilde x + 0.3 (z_y - z_k + 10^{-4}) g / \|g\|_2$ with $g = \nabla (z_k - z_y)$, clamped to
    ±`bound`, at most `steps` times and until the teacher answers otherwise. z are the teacher's logits, and lengths are
    in the units of its normalised input. λ is 0 over the first `start` of the run, then $\lambda (1 - f / 0.8)$ at the
    part f of the run, so off for the last fifth.

    Shapes: logits `[B, K]` of the view `boundary`, of which at most `size` rows count.

    Defaults: weight 2, T 3, 32 samples, 10 steps of 0.3, bound 2.5 and the fading of λ as AberHu's
    Knowledge-Distillation-Zoo has them (its 10 of 200 epochs are `start=0.05`), attack and selection as the authors'.

    Where we differ: the authors add KD on the clean images (`bss+kd`), move up to 64 of 256 and ask only the teacher to
    be right; none of them has a factor T². Ours moves rows in place and masks the others, so that the student's
    batch norms see the whole batch in that view, and ranks choose together.

    Raises:
        ValueError: no sample, step or bound; a temperature that is not positive; a share outside [0, 1]; a teacher that
            is not live.

    >>> [term.label for term in BSS().terms()]
    ['ce', 'bss']
    """

    weight: float = 2.0
    temperature: float = 3.0
    size: int = 32
    steps: int = 10
    step: float = 0.3
    bound: float = 2.5
    start: float = 0.05
    end: float = 0.8
    paper: ClassVar[str] = (
        "Heo, Lee, Yun, Choi: Knowledge Distillation with Adversarial Samples Supporting Decision Boundary. AAAI 2019. "
        "arXiv:1805.05532"
    )
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        for name in ("size", "steps", "step", "bound", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"bss: {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.start <= self.end <= 1 or self.end == 0:
            raise ValueError(
                f"bss: start and end are shares of the run, 0 <= start <= end <= 1 and end above 0, got {self.start} "
                f"and {self.end}"
            )

    @property
    def fading(self) -> Fade:
        return Fade(self.start, self.end, self.weight)

    def terms(self) -> tuple[Term, ...]:
        view = f"output@{VIEW}"
        formula = Spec.of(ForwardKL, temperature=self.temperature)
        return (
            Term(CrossEntropy, name="ce"),
            Term(formula, f"student:{view}", f"teacher:{view}", weight=self.fading, name="bss"),
        )

    def task(self, scene: Scene) -> Task:
        return Boundary(scene.teacher, Attack(self.size, self.steps, self.step, self.bound), self.fading)
