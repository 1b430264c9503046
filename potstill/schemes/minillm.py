"""MiniLLM: the reverse KL of whole sequences, by policy gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.objectives.cross_entropy import CrossEntropy
from potstill.objectives.divergences import ForwardKL, ReverseKL
from potstill.objectives.policy_gradient import PolicyGradient
from potstill.scheme import Scene, Scheme
from potstill.terms import Spec, Term
from potstill.types import Task


@dataclass(frozen=True)
class MiniLLM(Scheme):
    r"""Policy gradient on $KL(q \| p)$ of whole responses. Texts are drawn token by token from $\tilde p = \alpha p +
    (1 - \alpha) q$; a token's reward is $r_t = (\log p(y_t) - \log q(y_t)) / s$, clipped to ±100, its return $R_t =
    \sum_{t' \ge t} \gamma^{t' - t} r_{t'} / (T - t + 1)$, whitened. On every batch `inner` optimizer steps are taken,
    on the clipped policy gradient with importance weights $q / \tilde p$, plus the single-step term $KL(q_t \| p_t)$
    over the whole vocabulary on the same texts, plus `language` times $0.5 \, CE + 0.5 \, KL(p \| q)$ on the data's own
    responses.

    Defaults: `alpha=0.2`, `scale=0.5`, `gamma=0.95`, `clip=0.2`, `inner=4`, `language=1`, sampling at temperature 1:
    the authors' code. The single step alone is `on_policy+reverse_kl`.

    Where we differ: the authors draw 256 texts and cut them into batches for the inner epochs, and take their
    language-model term on a corpus of plain text; here each batch is its own rollout, and that term is on the data.
    Whitening is over this rank's texts.

    Raises:
        ValueError: options out of range, data without responses, a cached teacher.
    """

    alpha: float = 0.2
    scale: float = 0.5
    gamma: float = 0.95
    clip: float = 0.2
    inner: int = 4
    language: float = 1.0
    tokens: int = 0

    paper: ClassVar[str] = PolicyGradient.paper
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    needs_labels: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, low, high in (("alpha", 0.0, 1.0), ("gamma", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high or (name == "alpha" and self.alpha == 1):
                raise ValueError(
                    f"minillm: {name} lies in [0, 1{')' if name == 'alpha' else ']'}, got {getattr(self, name)}"
                )
        if not self.scale > 0 or not self.clip > 0 or self.inner < 1 or self.language < 0:
            raise ValueError(
                "minillm: scale and clip must be positive, inner at least 1 and language not negative, got "
                f"{self.scale}, {self.clip}, {self.inner} and {self.language}"
            )

    def terms(self) -> tuple[Term, ...]:
        found = [
            Term(Spec.of(PolicyGradient, clip=self.clip), name="policy"),
            Term(ReverseKL, name="single_step"),
        ]
        if self.language:
            half = 0.5 * self.language
            found += [
                Term(CrossEntropy, "output@data", None, weight=half, name="data_label"),
                Term(ForwardKL, "output@data", "teacher:output@data", weight=half, name="data_kl"),
            ]
        return tuple(found)

    def task(self, scene: Scene) -> Task:
        from potstill.language.generation import Sampling
        from potstill.language.policy import Traced
        from potstill.language.scenes import columns, plain
        from potstill.language.writers import lasting

        task = plain(scene, "minillm", answered=self.language > 0)
        sampling = lasting(Sampling(), self.tokens, task.longest)
        writer = Traced(task.ends, sampling, self.alpha, self.scale, self.gamma, columns(task))
        return task.writing(writer, passes=self.inner)
