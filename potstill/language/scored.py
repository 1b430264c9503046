"""Methods where labels are scores: the squared error in the place of the cross-entropy."""

from __future__ import annotations

import re
from dataclasses import replace

from potstill.methods import Method
from potstill.objectives import CrossEntropy, LogitMSE, ScoreMSE
from potstill.terms import Term

NUMBERS = (ScoreMSE, LogitMSE)
"""Losses on an answer that is one number."""


def for_scores(method: Method) -> Method:
    """The method with `score_mse` for `ce`, with the same weight.

    Raises ValueError for another loss between answers that are classes: a softmax over one number is 1.

    >>> from potstill.methods import parse
    >>> for_scores(parse("logit_mse:0.5")).expansion
    'score_mse:1+logit_mse:0.5'
    """
    wrong = next((one for one in method.schemes if getattr(one, "target", "scores") != "scores"), None)
    if wrong is not None:
        name = type(wrong).__name__.lower()
        raise ValueError(f"method {method.name!r}: the labels of this data are scores; write {name}(target=scores)")
    stages = []
    for stage in method.stages:
        terms = tuple(_swapped(term) for term in stage.terms)
        for term in terms:
            side = term.addresses[0]
            answers = side is not None and "output" in side.taps
            if answers and term.kind not in NUMBERS and term.weight != 0:
                raise ValueError(
                    f"method {method.name!r}: {term.label} compares classes, and the labels of this data are scores; "
                    f"write logit_mse for the teacher's score, and {term.label}:0 where another name brings it along"
                )
        stages.append(replace(stage, terms=terms))
    expansion = re.sub(r"(^|\+)ce:(?!0(\+|$))", r"\1score_mse:", method.expansion)
    return replace(method, stages=tuple(stages), expansion=expansion)


def _swapped(term: Term) -> Term:
    return Term(ScoreMSE, weight=term.weight, name="score_mse") if term.kind is CrossEntropy else term
