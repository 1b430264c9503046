"""SKD: the student proposes every token of what it learns on, the teacher replaces those it ranks badly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from potstill.scheme import Scene, Scheme
from potstill.types import Task


@dataclass(frozen=True)
class SKD(Scheme):
    r"""Speculative knowledge distillation. A token that the student samples stands if it is among the teacher's `k`
    most probable ones, and is replaced by a sample of the teacher otherwise; then $\frac{1}{T} \sum_t D(p_t \| q_t)$
    over all of the response, without a gradient through the sampling.

    A token's law is $m(v) = q(v) \, 1[v \in top_k(p)] + (1 - q(top_k(p))) \, p(v)$: with k = V on-policy distillation,
    with k = 0 texts of the teacher. The student drafts `draft` tokens at a time, one pass of the teacher judges them;
    the law does not depend on `draft`. `share` < 1 mixes the data's own responses in.

    Defaults, as in the authors' release: `k=25`, `draft=5`, student at temperature 0.5 and top-p 0.5, teacher at 0.2
    and 0.5, forward KL at temperature 1 (`skd+reverse_kl`, `skd+jsd` for others); `tokens=0`: as many as the longest
    response of the data. `nucleus` tests membership in the teacher's nucleus of that mass instead; `decay` lowers k to
    1 over so many tokens.

    Where we differ: the released code tests a token that is sampled anew and not the one that is kept, ranks after
    temperature and top-p, and drafts with the teacher's sampler; `released=True` does the same. It also drops the loss
    of the first response token and trains on re-tokenised texts; we train on the sampled tokens, shifted rightly. Its
    "jsd" is the objective `mixture_kl`.

    Raises:
        ValueError: k below 0, a draft below 1, sampling options out of range, a cached teacher, or other vocabularies.
    """

    k: int = 25
    draft: int = 5
    temperature: float = 0.5
    top_p: float = 0.5
    teacher_temperature: float = 0.2
    teacher_top_p: float = 0.5
    share: float = 1.0
    nucleus: float = 0.0
    decay: int = 0
    accept_on: Literal["raw", "warped"] = "raw"
    released: bool = False
    tokens: int = 0

    paper: ClassVar[str] = (
        "Xu, Han, Wang, Le, Madeka, Li, Wang, Agarwal, Lee, Pfister: Speculative Knowledge Distillation: Bridging the "
        "Teacher-Student Gap Through Interleaved Sampling. ICLR 2025. arXiv:2410.11325"
    )
    wants: ClassVar[str] = "texts, a prompt and its response"
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    losses: ClassVar[str] = "ce:0+forward_kl:1"

    def __post_init__(self) -> None:
        if self.k < 0 or self.draft < 1:
            raise ValueError(f"skd: k must be at least 0 and draft at least 1, got {self.k} and {self.draft}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"skd: share is a probability, got {self.share}")

    def task(self, scene: Scene) -> Task:
        from potstill.language.generation import Sampling
        from potstill.language.scenes import columns, plain
        from potstill.language.speculative import as_released
        from potstill.language.writers import Interleaved, Sometimes, lasting

        task = plain(scene, "skd", answered=self.share < 1)
        student = lasting(Sampling(self.temperature, self.top_p), self.tokens, task.longest)
        teacher = lasting(Sampling(self.teacher_temperature, self.teacher_top_p), self.tokens, task.longest)
        options: dict[str, Any] = {"accept_on": self.accept_on}
        if self.released:
            options = as_released(teacher)
            student, teacher = options.pop("student_sampling"), options.pop("teacher_sampling")
        options |= {"k": self.k, "draft": self.draft, "decay": self.decay, "teacher_p": self.nucleus or None}
        writer = Interleaved("skd", task.ends, student, teacher, columns(task), **options)
        return task.writing(writer if self.share == 1 else Sometimes(writer, self.share))
