"""A method in several parts: what is trained first, for how long, and what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from potstill.terms import Term

if TYPE_CHECKING:
    from potstill.recipe import Fit


@dataclass(frozen=True)
class Stage:
    """One part of a method's training: its terms, on the student that the part before has left.

    The last stage has no name and is trained as the recipe says. One in front of it lasts the fraction `share` of as
    many epochs (at least one) at a constant learning rate, the recipe's or `lr` if that is smaller. Networks that no
    term of a stage addresses are not run in it and stay as they are.

    >>> from potstill.recipe import Fit
    >>> Stage("ab", (), share=1 / 8).fit(Fit(epochs=240)).epochs
    30
    """

    name: str
    terms: tuple[Term, ...]
    share: float = 1.0
    lr: float = float("inf")

    def fit(self, fit: Fit) -> Fit:
        """How this stage is trained, where the whole method is trained as `fit` says."""
        if not self.name:
            return fit
        epochs = max(1, round(fit.epochs * self.share))
        return replace(fit, epochs=epochs, lr=min(fit.lr, self.lr), schedule="constant", warmup=0.0, ema=None)


def stages_of(terms: Sequence[Term]) -> tuple[Stage, ...]:
    """What the terms come to: stages that their objectives put in front, and the main stage with the rest.

    Raises ValueError when nothing is left for the main stage, or two stages have one name.
    """
    before: list[Stage] = []
    main: list[Term] = []
    for term in terms:
        first, then = term.kind.expand(term)
        before += first
        main += then
    if not main:
        raise ValueError(
            f"{', '.join(stage.name for stage in before)} only prepares the student: nothing is left to train it with "
            "afterwards; add a term for the labels, such as Term(CrossEntropy)"
        )
    names = [stage.name for stage in before]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two stages of one method are called {name!r}; give the terms different names")
    return (*before, Stage("", tuple(main)))
