"""ImitKD: some responses are the data's, the others the student's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from potstill.scheme import Scene, Scheme
from potstill.types import Progress, Task


@dataclass(frozen=True)
class Falling:
    """$1 - r^{t / N}$: the share of the student's own texts grows from 0 to $1 - r$."""

    last: float

    def __call__(self, progress: Progress) -> float:
        return 1 - self.last**progress.fraction


@dataclass(frozen=True)
class ImitKD(Scheme):
    r"""Every sample is the data's with probability $\beta_t$, and else written by the student; the teacher's whole law
    is matched on both (the paper's "Full" variant).

    `schedule="exponential"` is the paper's $\beta_t = r^{t / N}$, with `last` its $r$ (1/200 for translation, 1/10 for
    summaries). `schedule="constant"` takes the share `own` of the student's texts throughout, as the later papers on
    language models do that compare with "ImitKD" (SKD's release: 0.5).

    Defaults: `schedule="constant"`, `own=0.5`, `last=0.005`, forward KL, `temperature=1`.

    Where we differ: the paper's student writes greedily or from its 5 most probable tokens (`top_k=5`); its first
    variant, with the teacher's most probable next word as the label, is not offered.

    Raises:
        ValueError: a share or a last value out of range, data without responses, a cached teacher.
    """

    schedule: Literal["constant", "exponential"] = "constant"
    own: float = 0.5
    last: float = 0.005
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens: int = 0
    writer: str = "own"

    paper: ClassVar[str] = (
        "Lin, Wohlwend, Chen, Lei: Autoregressive Knowledge Distillation through Imitation Learning. "
        "EMNLP 2020. arXiv:2009.07253"
    )
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:0+forward_kl:1"

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "exponential"):
            raise ValueError(f"imitkd: schedule is constant or exponential, got {self.schedule!r}")
        if not 0 <= self.own <= 1 or not 0 < self.last <= 1:
            raise ValueError(f"imitkd: own lies in [0, 1] and last in (0, 1], got {self.own} and {self.last}")

    def task(self, scene: Scene) -> Task:
        from potstill.language.scenes import alone, plain
        from potstill.language.writers import Sometimes

        share = self.own if self.schedule == "constant" else Falling(self.last)
        writer = alone(scene, "student", "imitkd", self)
        return plain(scene, "imitkd", answered=True).writing(Sometimes(writer, share))
