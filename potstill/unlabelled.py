"""Distillation without labels: what of a recipe still works, and what is left to say of its students."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from potstill.methods import Method, parse
from potstill.models.foreign import library_of, outputs_of
from potstill.recipe import Network, Recipe
from potstill.terms import Term
from potstill.types import Objective


def check_unlabelled(recipe: Recipe, methods: Sequence[Method]) -> None:
    """Raises ValueError for what cannot work in a recipe whose data has no labels.

    That is a network that would have to be trained by labels, a loss that needs them, and a teacher of which nobody
    knows how many answers it has.
    """
    if not recipe.data.unlabelled:
        return
    if not recipe.teacher.taught:
        raise ValueError(
            f"data.unlabelled: the teacher {recipe.teacher.name!r} has no weights, and nothing could train it; give "
            "them, e.g. --teacher.checkpoint FILE --teacher.outputs CLASSES"
        )
    classes, student = answered(recipe.teacher), recipe.student
    if student.outputs not in (None, classes) and student.label_map is None:
        raise ValueError(
            f"data.unlabelled: the teacher answers with {classes} classes and the student with {student.outputs}; "
            "leave out student.outputs, or give a student.label_map"
        )
    if recipe.fit.schedule == "plateau":
        raise ValueError("data.unlabelled: fit.schedule plateau watches an accuracy, and there is none; take another")
    check_terms(methods)
    for one in recipe.assistants:
        try:
            check_terms([] if one.network.taught else [parse(one.method)])
        except ValueError as error:
            raise ValueError(f"assistant {one.name!r}: {error} (a recipe's assistants say their method)") from None


def answered(teacher: Network) -> int:
    """How many classes a teacher with weights answers with. Raises ValueError where nobody knows."""
    known = None if teacher.label_map is None else len(teacher.label_map)
    known = known or teacher.outputs or (outputs_of(teacher.name) if library_of(teacher.name) else None)
    if known is None:
        raise ValueError(
            f"data.unlabelled: without labels nobody knows how many classes the teacher {teacher.name!r} answers "
            "with; say it, e.g. --teacher.outputs 10"
        )
    return known


def check_terms(methods: Sequence[Method]) -> None:
    """Raises ValueError for the first loss or scheme that needs labels, and says what can be written instead."""
    for method in methods:
        if any(scheme.needs_labels for scheme in method.schemes):
            raise ValueError(f"method {method.name!r} makes its examples of labels, and the data has none")
        if needing := [term.label for term in _terms(method) if "label" in _needs(term)]:
            other = without_labels(method)
            hint = f"write {other!r}" if other else "write a method without it, e.g. 'ce:0+kd' or 'ce:0+fitnet'"
            raise ValueError(
                f"method {method.name!r}: its term {needing[0]!r} needs labels, and the data has none; {hint}"
            )


def without_labels(method: Method) -> str | None:
    """The same method without the losses that need labels; None where nothing would be left.

    >>> without_labels(parse("icd+kd:0.5")), without_labels(parse("student"))
    ('ce:0+icd:1+kd:0.5', None)
    """
    needing = {term.label for term in _terms(method) if "label" in _needs(term)}
    formula = method.expansion
    parts = [part for part in formula.split("+") if re.split(r"[(:]", part)[0] not in needing]
    text = "+".join(["ce:0", *parts]) + (f"~{method.control}" if method.control else "")
    try:
        found = parse(text)
    except ValueError:
        return None
    return text if parts and not any("label" in _needs(term) for term in _terms(found)) else None


def untaught_answers(methods: Sequence[Method]) -> list[str]:
    """Sentences about methods whose losses never reach the student's answer, only what lies in front of it."""
    return [
        f"method {method.name}: no loss reaches the student's answer, so nothing trains its classifier and what it "
        "answers means nothing; its embedding is what it learns (potstill.load(RUN).embed)"
        for method in methods
        if not method.classifies
    ]


def unknown_normalisation(recipe: Recipe) -> list[str]:
    """A sentence where the teacher's inputs may be normalised in another way than it was trained with.

    With labels a bad accuracy would show that; without them nothing does.
    """
    if not recipe.data.unlabelled or recipe.teacher.mean is not None:
        return []
    return [
        "the teacher's inputs are normalised with the mean and standard deviation of these images; if it was trained "
        "on others, say theirs with --teacher.mean and --teacher.std"
    ]


def _terms(method: Method) -> Iterator[Term]:
    return (term for stage in method.stages for term in stage.terms)


def _needs(term: Term) -> tuple[str, ...]:
    return (term.objective if isinstance(term.objective, Objective) else term.kind).needs
