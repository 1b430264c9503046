"""Methods where labels are scores: the squared error in the place of the cross-entropy."""

from __future__ import annotations

from dataclasses import replace

from potstill.methods import Method
from potstill.objectives import CrossEntropy, LogitMSE, ScoreMSE
from potstill.terms import Term

NUMBERS = (ScoreMSE, LogitMSE)
"""Losses on an answer that is one number."""


def for_scores(method: Method) -> Method:
    """The method with `score_mse` for `ce`, with the same weight; where it is there already, without `ce`.

    Raises ValueError for another loss between answers that are classes: a softmax over one number is 1.

    >>> from potstill.methods import parse
    >>> for_scores(parse("student")).expansion, for_scores(parse("logit_mse:0.5")).expansion
    ('score_mse:1', 'score_mse:1+logit_mse:0.5')
    """
    wrong = next((one for one in method.schemes if getattr(one, "target", "scores") != "scores"), None)
    if wrong is not None:
        name = type(wrong).__name__.lower()
        raise ValueError(f"method {method.name!r}: the labels of this data are scores; write {name}(target=scores)")
    stages = tuple(replace(stage, terms=_for_scores(stage.terms)) for stage in method.stages)
    for term in (term for stage in stages for term in stage.terms):
        side = term.addresses[0]
        answers = side is not None and "output" in side.taps
        if answers and term.kind not in NUMBERS and term.weight != 0:
            raise ValueError(
                f"method {method.name!r}: {term.label} compares classes, and the labels of this data are scores; "
                f"write logit_mse for the teacher's score, and {term.label}:0 where another name brings it along"
            )
    return replace(method, stages=stages, expansion=_written(method.expansion))


def _for_scores(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    if any(term.kind is ScoreMSE for term in terms):
        return tuple(term for term in terms if term.kind is not CrossEntropy)
    return tuple(
        Term(ScoreMSE, weight=term.weight, name="score_mse") if term.kind is CrossEntropy else term for term in terms
    )


def _written(expansion: str) -> str:
    """The same in the expansion, in which every weight is written."""
    parts = expansion.split("+")
    if any(part.startswith("score_mse:") for part in parts):
        return "+".join(part for part in parts if part == "ce:0" or not part.startswith("ce:"))
    return "+".join(
        f"score_mse:{part.removeprefix('ce:')}" if part.startswith("ce:") and part != "ce:0" else part for part in parts
    )
