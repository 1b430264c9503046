"""EMA: the student's own moving average as its teacher (Mean Teacher, 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from potstill.follower import Follower
from potstill.scheme import Scene, Scheme
from potstill.terms import Term
from potstill.types import Source

NAME = "ema"


@dataclass(frozen=True)
class EMA(Scheme):
    r"""Losses that would listen to the teacher listen to the student's moving average instead; there is no teacher.

    $$\bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad d_t = \min(d, 1 - 1/(t + 1))$$

    `ema+kd` is self-distillation from the average of one's own past, `ema+dual+kd` the same across two augmentations,
    which is Mean Teacher's consistency with KL in place of its squared difference. What is evaluated and exported is
    the student; for the average, set `fit.ema`.

    Defaults: `decay=0.999`, Mean Teacher's for long runs (it takes 0.99 at first). Of its terms only those with a
    teacher side change.

    Where we differ: the average answers in evaluation mode with the student's batch-norm statistics (the authors' runs
    in training mode), so that its answer to an image does not depend on the batch.

    Raises:
        ValueError: a decay outside [0, 1).

    >>> from potstill.objectives import KD
    >>> [str(term.addresses[1]) for term in EMA().around([Term(KD)])]
    ['ema:output@main']
    """

    decay: float = 0.999
    paper: ClassVar[str] = (
        "Tarvainen, Valpola: Mean teachers are better role models: Weight-averaged consistency targets improve "
        "semi-supervised deep learning results. NeurIPS 2017. arXiv:1703.01780"
    )
    matches: ClassVar[str] = "logits"
    needs_teacher: ClassVar[bool] = False
    modifies: ClassVar[bool] = True
    example: ClassVar[str] = "ema+kd"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema: decay must lie in [0, 1), got {self.decay}")

    def around(self, terms: Sequence[Term]) -> list[Term]:
        return [_moved(term) for term in terms]

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        return {NAME: Follower(scene.student, self.decay)}


def _moved(term: Term) -> Term:
    right = term.addresses[1]
    if right is None or right.source != "teacher":
        return term
    return replace(term, teacher=str(replace(right, source=NAME)))
