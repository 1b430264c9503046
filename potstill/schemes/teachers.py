"""Teachers: several at once, each with a weight (You et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from potstill.schedules import scaled
from potstill.scheme import Scheme
from potstill.terms import Term


@dataclass(frozen=True)
class Teachers(Scheme):
    r"""The losses written beside it listen to several teachers: $L = \sum_m w_m L(s, t_m)$, with $\sum_m w_m = 1$.

    `teachers(of=teacher/second,weights=2/1)+kd` has two KD terms, the first with two thirds of KD's weight. The names
    are `teacher`, the recipe's, and those of its assistants (from Python, the keys of `assistants=`), which need not
    be smaller: any network will do.

    The paper averages the teachers' softened answers and adds a triplet loss on intermediate relations; here every
    loss is averaged over teachers, which for KD has the same gradient as the average of the answers, and works for
    features as well.

    Defaults: equal weights.

    Raises:
        ValueError: fewer than two teachers, a name written twice, weights that are not positive or not one for each.

    >>> from potstill.objectives import KD
    >>> [(term.label, term.weight) for term in Teachers("teacher/second", "3/1").around([Term(KD, name="kd")])]
    [('kd', 0.75), ('kd_second', 0.25)]
    """

    of: str = ""
    weights: str = ""
    paper: ClassVar[str] = "You, Xu, Xu, Tao: Learning from Multiple Teacher Networks. KDD 2017."
    matches: ClassVar[str] = "logits"
    modifies: ClassVar[bool] = True
    example: ClassVar[str] = "teachers(of=teacher/second)+kd"
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"teachers: name at least two, each once, such as teachers(of=teacher/second); got {self.of!r}"
            )
        if len(self.shares) != len(names):
            raise ValueError(f"teachers: {len(names)} teachers but {len(self.shares)} weights ({self.weights!r})")

    @property
    def names(self) -> list[str]:
        return [name for name in self.of.split("/") if name]

    @property
    def shares(self) -> list[float]:
        """The weights, with the sum 1."""
        try:
            given = [float(text) for text in self.weights.split("/")] if self.weights else [1.0] * len(self.names)
        except ValueError:
            given = []
        if not given or not all(0 < one < float("inf") for one in given):
            raise ValueError(f"teachers: weights are positive numbers such as 2/1, got {self.weights!r}")
        return [one / sum(given) for one in given]

    def around(self, terms: Sequence[Term]) -> list[Term]:
        found = []
        for term in terms:
            right = term.addresses[1]
            if right is None or right.source != "teacher":
                found.append(term)
                continue
            for name, share in zip(self.names, self.shares, strict=True):
                label = term.label if name == "teacher" else f"{term.label}_{name}"
                heard = str(replace(right, source=name))
                found.append(replace(term, teacher=heard, weight=scaled(term.weight, share), name=label))
        return found
