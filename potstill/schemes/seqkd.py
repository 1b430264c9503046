"""Sequence-level distillation: the student learns texts that the teacher has written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from potstill.examples import Examples
from potstill.scheme import Scene, Scheme
from potstill.sources import Network


@dataclass(frozen=True)
class SeqKD(Scheme):
    r"""$-\sum_t \log q_t(\hat y_t)$ of one response $\hat y$ of the teacher to every prompt, written once before the
    first step; the data's own responses are not used.

    `beams=5` takes the text that beam search finds most probable (the paper's), `beams=1` a sample at `temperature` and
    `top_p` (the line of MiniLLM and DistiLLM). `seqkd+forward_kl` matches the teacher's law on its own texts, which
    DistiLLM's scripts call seqkd.

    Defaults: `beams=1`, `temperature=1`, `top_p=1`, labels alone; `tokens=0`: as many as the longest response of the
    data. Every student of one teacher learns the same texts, whatever its seed.

    Where we differ: the paper's seq-inter, which takes the candidate of the beam that is nearest to the reference, is
    not offered.

    Raises:
        ValueError: beams below 1, data that is no text, or a teacher that cannot write (a cache).
    """

    beams: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens: int = 0

    paper: ClassVar[str] = "Kim, Rush: Sequence-Level Knowledge Distillation. EMNLP 2016. arXiv:1606.07947"
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "labels"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:1"

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"seqkd: beams must be at least 1, got {self.beams}")

    def examples(self, scene: Scene) -> Examples:
        from potstill.language.generation import Sampling
        from potstill.language.loader import TextLoader
        from potstill.language.rewriting import Rewritten
        from potstill.language.scenes import columns, plain
        from potstill.language.sequences import speaker
        from potstill.language.writers import lasting

        task = plain(scene, "seqkd")
        speaker(scene.sources, "teacher", "seqkd")
        teacher = scene.teacher
        assert isinstance(teacher, Network)
        sampling = lasting(Sampling(self.temperature, self.top_p, self.top_k), self.tokens, task.longest)
        data = scene.examples.loader
        assert isinstance(data, TextLoader)
        loader = Rewritten(
            data, teacher, task.tokenizer, sampling, task.ends, beams=self.beams, vocabulary=columns(task)
        )
        return replace(scene.examples, loader=loader)
