"""On-policy distillation and GKD: the student learns on what it writes itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.scheme import Scene, Scheme
from potstill.types import Task

GKD_PAPER = (
    "Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem: On-Policy Distillation of Language Models: "
    "Learning from Self-Generated Mistakes. ICLR 2024. arXiv:2306.13649"
)


@dataclass(frozen=True)
class OnPolicy(Scheme):
    r"""The student writes every response, and learns the teacher's law on it: $E_{y \sim q} \, D(p \| q)$, without a
    gradient through the sampling.

    Only prompts are needed. The divergence is what is written beside it: `on_policy+reverse_kl`; forward KL where
    nothing is, as in SKD's comparison.

    Defaults: `temperature=1`, `top_p=1`, `top_k=0`: the student's own law; `tokens=0`: as many as the longest response
    of the data; `writer=own`: the student samples in place, `writer=vllm` through vLLM, which is then needed.

    Raises:
        ValueError: a teacher that cannot be asked about new texts (a cache), or sampling options out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens: int = 0
    writer: str = "own"

    paper: ClassVar[str] = GKD_PAPER
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:0+forward_kl:1"

    def task(self, scene: Scene) -> Task:
        from potstill.language.scenes import alone, plain

        return plain(scene, "on_policy").writing(alone(scene, "student", "on_policy", self))


@dataclass(frozen=True)
class GKD(Scheme):
    r"""Generalised knowledge distillation:
    $(1 - \lambda) \, E_{data} \, D + \lambda \, E_{y \sim q} \, D$, with $D$ the generalised JSD.

    One draw a batch decides who has written it. The divergence is what is written beside it; `gkd` alone is
    `gkd+jsd`, so `gkd+jsd(beta=0.1)` has another $\beta$.

    Defaults: `share=0.5` ($\lambda$), `temperature=0.9`, $\beta$ 0.5: TRL's; `tokens=0`: as many as the longest
    response of the data (TRL: 128). The paper finds $\lambda = 1$ best, which is `on_policy+jsd`.

    Where we differ: TRL draws anew on every rank; here all ranks do the same.

    Raises:
        ValueError: a share outside [0, 1], a cached teacher, or sampling options out of range.
    """

    share: float = 0.5
    temperature: float = 0.9
    top_p: float = 1.0
    top_k: int = 0
    tokens: int = 0
    writer: str = "own"

    paper: ClassVar[str] = GKD_PAPER
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:0+jsd:1"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"gkd: share is a probability, got {self.share}")

    def task(self, scene: Scene) -> Task:
        from potstill.language.scenes import alone, plain
        from potstill.language.writers import Sometimes

        writer = alone(scene, "student", "gkd", self)
        return plain(scene, "gkd", answered=self.share < 1).writing(Sometimes(writer, self.share, batchwise=True))
