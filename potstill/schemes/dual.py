"""Dual: teacher and student see different augmentations of an image (Giakoumoglou and Stathaki 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from potstill.data.resident import Resident
from potstill.errors import did_you_mean
from potstill.scheme import Scene, Scheme
from potstill.tasks.second import OTHER, Again, SecondView
from potstill.terms import Term
from potstill.types import Task


@dataclass(frozen=True)
class Dual(Scheme):
    r"""The losses written beside it compare the student on one augmentation of an image with the teacher on another.

    With $t, t'$ drawn independently for every image: the student sees $t(x)$, also for the labels, the teacher
    $t'(x)$; `dual+icd` is $\mathrm{CE}(y, s(t(x))) + \mathrm{ICD}(s(t(x)), T(t'(x)))$.

    Reconstruction: the paper's abstract says that different augmentations are applied to the inputs of teacher and
    student; lists, weights and tables were not found, and no code is public. Here both are drawn from the recipe's
    augmentation (crop and flip); `teacher="none"` shows the teacher the image as it is, and `"crop"` or `"flip"` only
    that.

    Defaults: `teacher="same"`, the augmentation of the recipe.

    Raises:
        ValueError: an unknown augmentation; data that is not whole in memory (streamed, or a loader of your own), so
            that no second view of an image can be made.

    >>> from potstill.objectives import ICD
    >>> [str(term.addresses[1]) for term in Dual().around([Term(ICD)])]
    ['teacher:embedding@other']
    """

    teacher: str = "same"
    paper: ClassVar[str] = (
        "Giakoumoglou, Stathaki: Distilling Invariant Representations with Dual Augmentation. 2024. arXiv:2410.09474"
    )
    matches: ClassVar[str] = "contrast"
    reconstruction: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    modifies: ClassVar[bool] = True
    example: ClassVar[str] = "dual+icd"

    def __post_init__(self) -> None:
        if self.teacher not in (known := ("same", "crop-flip", "crop", "flip", "none")):
            raise ValueError(
                f"dual: unknown augmentation {self.teacher!r} for the teacher; {did_you_mean(self.teacher, known)}"
            )

    def around(self, terms: Sequence[Term]) -> list[Term]:
        return [_moved(term) for term in terms]

    def task(self, scene: Scene) -> Task:
        loader = scene.examples.loader
        if not isinstance(loader, Resident):
            raise ValueError(
                "dual: a second view of an image is made from the image itself, and this data does not lie whole in "
                "memory; set data.stream to never, or give potstill.data.Images"
            )
        return SecondView(Again(loader, loader.augment if self.teacher == "same" else self.teacher), OTHER)


def _moved(term: Term) -> Term:
    right = term.addresses[1]
    return term if right is None else replace(term, teacher=str(replace(right, view=OTHER)))
