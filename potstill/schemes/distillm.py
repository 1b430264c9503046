"""DistiLLM: skewed divergences on the data, on the student's texts, and on those that it wrote before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from potstill.callbacks import Callback
from potstill.scheme import Scene, Scheme
from potstill.types import Task

if TYPE_CHECKING:
    from potstill.engine import Engine


class Watching(Callback):
    """Tells the writer the validation loss, which decides how often the student writes."""

    def on_evaluate(self, engine: Engine, metrics: dict[str, Any]) -> None:
        sequences: Any = getattr(engine.task, "sequences", None)
        sequences.evaluated(metrics["valid_loss"])


@dataclass(frozen=True)
class DistiLLM(Scheme):
    r"""Skewed KL with the adaptive off-policy scheduler. A threshold $\phi$ starts at `start` and grows by `step`, up
    to 1, at every evaluation whose validation loss is not below the last by more than `-margin` (loss ≥ last + margin).
    For every batch one $u \sim U(0, 1)$: for $u < \phi (1 - step / total)$ the student writes, and its texts go into a
    buffer of `capacity` texts; else for $u < \phi$ texts of the buffer are learnt again (fresh ones while it is not
    full); else the data's own.

    Defaults: `start=0`, `step=0.1`, `margin=0.1`, `capacity=1000`, sampling at temperature 1, as in the authors' code;
    `skew_kl(alpha=0.1)` alone, as their scripts for GPT-2 of 0.1 B, `distillm+skew_reverse_kl` for larger students.

    Where we differ: the authors add the language-model loss on a corpus of plain text, which is another data set, and
    begin with a student fine-tuned for 3 epochs.

    Raises:
        ValueError: options out of range, data without responses, a cached teacher.
    """

    start: float = 0.0
    step: float = 0.1
    margin: float = 0.1
    capacity: int = 1000
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens: int = 0
    writer: str = "own"

    paper: ClassVar[str] = (
        "Ko, Kim, Chen, Yun: DistiLLM: Towards Streamlined Distillation for Large Language Models. "
        "ICML 2024. arXiv:2402.03898"
    )
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:0+skew_kl:1"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 < self.step <= 1:
            raise ValueError(f"distillm: start lies in [0, 1] and step in (0, 1], got {self.start} and {self.step}")
        if self.capacity < 1:
            raise ValueError(f"distillm: capacity must be at least 1, got {self.capacity}")

    def task(self, scene: Scene) -> Task:
        from potstill.language.replay import Adaptive
        from potstill.language.scenes import alone, plain

        writer = alone(scene, "student", "distillm", self)
        sequences = Adaptive(writer, self.start, self.step, self.margin, self.capacity)
        return plain(scene, "distillm", answered=True).writing(sequences)

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        return [Watching()]
