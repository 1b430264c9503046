"""OKD: online knowledge distillation of language models (2024), a teacher that adapts to its student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from potstill.callbacks import Callback
from potstill.errors import did_you_mean
from potstill.lora import PLACES, head_of, low_rank
from potstill.objectives import AKL, OBJECTIVES, CrossEntropy, ForwardKL
from potstill.objectives.divergences import Divergence
from potstill.online import Additions, Online, network_of
from potstill.scheme import Scene, Scheme
from potstill.terms import Spec, Term
from potstill.types import Source

if TYPE_CHECKING:
    from potstill.engine import Engine

NAME = "online"
DIVERGENCES = tuple(name for name, kind in OBJECTIVES.items() if issubclass(kind, Divergence | AKL))


@dataclass(frozen=True)
class OKD(Scheme):
    r"""Small modules in the frozen teacher are trained while the student is, so that the two meet; nothing is sampled.

    $$L_{student} = (1 - \alpha)\, \mathrm{CE}(y, q) + \alpha\, D(p_\phi \,\|\, q)$$

    $$L_\phi = \mathrm{CE}(y, p_\phi) + \lambda\, \mathrm{KL}(q \,\|\, p_\phi) + \mu\, \mathrm{KL}(p_0 \,\|\, p_\phi)$$

    q is the student, $p_\phi$ the teacher with its modules $\phi$, $p_0$ the teacher alone; each network sees the
    other's answer as a constant. The cross-entropy keeps the teacher able, the term with λ draws it to what the student
    can say, and the one with μ holds it where it was. $\phi$ are low-rank additions (`potstill/lora.py`) that are zero
    before the first step, where $p_\phi = p_0$. The teacher's own weights never change, and are not in the checkpoint.

    Shapes: logits `[B, K]`, or `[B, T, V]`, which may be LazyLogits.

    Defaults: `alpha=1`, `lam=1`, `mu=0`, `rank=8`, `rate=1` (the modules' learning rate as a multiple of the
    student's), `divergence=forward_kl` (any of the divergences), `place=auto`: on attention's projections, and in a
    network without attention on every linear map and convolution but the one that answers; `linear` and `head` are the
    other places. All are starting values of our own. They are for a student that has read the data already, as is usual
    with language models: one that begins with random weights draws the teacher away from the labels at first, where
    `lam=0.3` did better.

    Where we differ: we know the paper's abstract, and there is no code: the kind of modules, their losses and weights,
    and the student's divergence are our reading of it. The modules' gradient is clipped (`fit.clip`) apart from the
    student's, so with `rate=0` the student's run has the bits of supervised KD. `metrics.jsonl` tells the modules'
    losses, and `online_share`, how much of the adapted teacher is trained (percent).

    Raises:
        ValueError: a share outside [0, 1], a negative weight or rate, a rank below 1, an unknown place or divergence; a
            teacher that is not a live network, or has no such place.

    >>> [str(term.addresses[0]) for term in OKD(alpha=0.5, mu=0.1).terms()]
    ['student:output@main', 'student:output@main', 'online:output@main', 'online:output@main', 'online:output@main']
    """

    alpha: float = 1.0
    lam: float = 1.0
    mu: float = 0.0
    rank: int = 8
    rate: float = 1.0
    place: str = "auto"
    divergence: str = "forward_kl"
    paper: ClassVar[str] = (
        "Rao, Liu, Lin, Ding, Li, Tao, Zhang: Exploring and Enhancing the Transfer of Distribution in Knowledge "
        "Distillation for Autoregressive Language Models. 2024. arXiv:2409.12512"
    )
    matches: ClassVar[str] = "logits"
    reconstruction: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"okd: alpha must lie in [0, 1], got {self.alpha}")
        for name in ("lam", "mu", "rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"okd: {name} must not be negative, got {getattr(self, name)}")
        if self.rank < 1:
            raise ValueError(f"okd: rank must be at least 1, got {self.rank}")
        if self.place not in PLACES:
            raise ValueError(f"okd: unknown place {self.place!r}; {did_you_mean(self.place, PLACES)}")
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"okd: unknown divergence {self.divergence!r}; {did_you_mean(self.divergence, DIVERGENCES)}"
            )

    def terms(self) -> tuple[Term, ...]:
        mine, online = "student:output", f"{NAME}:output"
        formula = Spec.of(OBJECTIVES[self.divergence])
        student = (
            Term(CrossEntropy, mine, None, weight=1 - self.alpha, name="ce"),
            Term(formula, mine, online, weight=self.alpha, name=self.divergence),
        )
        modules = (
            Term(CrossEntropy, online, None, name="ce_online"),
            Term(ForwardKL, online, mine, weight=self.lam, name="kl_online_from_student"),
            Term(ForwardKL, online, "teacher:output", weight=self.mu, name="kl_online_from_teacher"),
        )
        return tuple(term for term in (*student, *modules) if term.weight != 0)

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        try:
            teacher = network_of(scene.teacher)
            head = head_of(teacher.module, teacher.names)
            added = low_rank(teacher.module, self.rank, self.place, head, scene.seed)
        except ValueError as error:
            raise ValueError(f"okd: {error}") from None
        return {NAME: Online(teacher, Additions(added), self.rate)}

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        online = scene.sources[NAME]
        assert isinstance(online, Online)
        return [_Reported(online.share)]


class _Reported(Callback):
    """How much of the teacher is trained, beside every evaluation."""

    def __init__(self, share: float):
        self.share = share

    def on_evaluate(self, engine: Engine, metrics: dict[str, Any]) -> None:
        metrics["online_share"] = round(100 * self.share, 4)
