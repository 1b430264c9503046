"""MixKD: the teacher is also asked about texts that are made of two (Liang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from potstill.data.mixing import Per
from potstill.errors import did_you_mean
from potstill.objectives import KD, CrossEntropy, LogitMSE, ScoreMSE
from potstill.objectives.mixed_labels import MixedLabels
from potstill.scheme import Scene, Scheme
from potstill.tasks.mixed_embeddings import MIXED, MixedEmbeddings
from potstill.terms import Spec, Term
from potstill.types import Task

Distance = Literal["mse", "kl"]
Target = Literal["classes", "scores"]


@dataclass(frozen=True)
class MixKD(Scheme):
    r"""Student and teacher each mix their own word embeddings of two texts, with the same pairs and shares:

    $$L = CE(y, z_s) + \alpha_{SM} [\lambda CE(y_i, \tilde z_s) + (1 - \lambda) CE(y_j, \tilde z_s)]
      + \alpha_{TMKD} \, d(\tilde z_t, \tilde z_s) + \alpha_{KD} \, d(z_t, z_s),$$

    $\tilde z$ the answer to $\tilde E = \lambda E_i + (1 - \lambda) E_j$, $\lambda \sim Beta(a, a)$. $d$ is the squared
    error of the logits (`distance=mse`, the mean over classes) or $T^2 KL(teacher \| student)$ at `temperature` (`kl`).
    With `target=scores` (a regression) $CE$ is the squared error, and the label of a mixed text is mixed like it. Where
    embeddings are mixed: `potstill/tasks/mixed_embeddings.py`. Terms of weight 0 are left out, and with them what they
    would have run: `sm=0,tmkd=0` is fine-tuning.

    Both networks read the same token ids. A network is evaluated on texts as they are.

    Defaults: `sm=1`, `tmkd=1`, `kd=0`, `alpha=0.4` for each text (`per=sample`) are ours, since the paper's values are
    not known to us. `distance=mse` is the paper's, as recalled.

    Where we differ: no released code was found and the equations are as recalled. The place of the mixing, padding and
    attention masks are our reading. The paper enlarges the data by back-translation first; here a file of augmented
    rows may be given, or words be deleted and swapped.

    Raises:
        ValueError: an unknown choice, a negative weight, an alpha or a temperature that is not positive, `kl` with
            scores, or data whose labels are of the other kind.
    """

    sm: float = 1.0
    tmkd: float = 1.0
    kd: float = 0.0
    alpha: float = 0.4
    per: str = "sample"
    distance: str = "mse"
    temperature: float = 1.0
    target: str = "classes"
    wants: ClassVar[str] = "texts with labels; for images take mixup_kd or cutmix_kd"
    matches: ClassVar[str] = "logits"
    needs_labels: ClassVar[bool] = True
    reconstruction: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Liang, Hao, Shen, Zhou, Chen, Chen, Carin: MixKD: Towards Efficient Distillation of Large-scale Language "
        "Models. ICLR 2021. arXiv:2011.00593"
    )

    def __post_init__(self) -> None:
        for name, choices in (("per", get_args(Per)), ("distance", get_args(Distance)), ("target", get_args(Target))):
            if (given := getattr(self, name)) not in choices:
                raise ValueError(f"mixkd: unknown {name}={given!r}; {did_you_mean(str(given), choices)}")
        for name in ("sm", "tmkd", "kd"):
            if getattr(self, name) < 0:
                raise ValueError(f"mixkd: the weight {name} must not be negative, got {getattr(self, name)}")
        for name in ("alpha", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"mixkd: {name} must be positive, got {getattr(self, name)}")
        if self.distance == "kl" and self.target == "scores":
            raise ValueError("mixkd: a score is one number, over which a softmax is 1; write distance=mse")

    def terms(self) -> tuple[Term, ...]:
        scores = self.target == "scores"
        label = Term(ScoreMSE, name="score_mse") if scores else Term(CrossEntropy, name="ce")
        distance = LogitMSE if self.distance == "mse" else Spec.of(KD, temperature=self.temperature)
        there = f"output@{MIXED}"
        found = [
            label,
            Term(ScoreMSE if scores else MixedLabels, there, None, weight=self.sm, name="sm"),
            Term(distance, there, f"teacher:{there}", weight=self.tmkd, name="tmkd"),
            Term(distance, "output", "output", weight=self.kd, name="kd"),
        ]
        return tuple(term for term in found if term.weight != 0)

    def task(self, scene: Scene) -> Task:
        labels = scene.examples.info.labels
        if labels is not None and labels.is_floating_point() != (self.target == "scores"):
            kind = "scores" if labels.is_floating_point() else "classes"
            raise ValueError(f"mixkd: the labels of this data are {kind}; write mixkd(target={kind})")
        return MixedEmbeddings(self.alpha, "batch" if self.per == "batch" else "sample")
