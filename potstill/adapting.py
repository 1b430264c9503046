"""Networks that a method makes of the student: another one around it, or another one like it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import nn

from potstill.data.preprocess import Preprocess
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.methods import Method
from potstill.precision import Precision
from potstill.taps import untouched
from potstill.tasks.classify import Classify
from potstill.terms import Spec
from potstill.types import MAIN, LiveSource, Objective, Outputs, Source


def started_anew(student: nn.Module, seed: int, name: str) -> nn.Module:
    """A copy of a network with initial weights of its own, where nobody says how they are made.

    Raises ValueError for a network with parameters that no `reset_parameters` of its layers draws again.
    """
    fresh = copy.deepcopy(student)
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_int(seed, "peer", name))
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                drawn |= {id(p) for p in module.parameters()}
    if kept := [path for path, p in fresh.named_parameters() if id(p) not in drawn]:
        raise ValueError(
            f"{type(student).__name__} cannot be given other initial weights: nothing draws {kept[0]} again; "
            "give its layers reset_parameters()"
        )
    return fresh


def adapted(
    student: nn.Module,
    teacher: Source | None,
    method: Method,
    examples: Examples,
    *,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    fresh: Callable[[str], nn.Module] | None = None,
) -> nn.Module:
    """The network that a method trains: the student, or what its scheme or an objective builds around the student."""

    def listen(source: Source, taps: Sequence[str]) -> Outputs:
        with untouched(source.module) if source.module is not None else nullcontext(), torch.no_grad():
            return source(Classify(), examples.probe, MAIN, taps)

    makers = [term.label for term in method.adapting]
    if method.scheme is not None and method.scheme.adapts:
        guided = source(student, examples.probe, trained=True, preprocess=preprocess, precision=Precision())
        anew = fresh or (lambda name: started_anew(guided.module, seed, name))
        student = method.scheme.adapt(guided, examples.probe, anew, seed)
        makers.insert(0, "the scheme")
    if len(makers) > 1:
        raise ValueError(f"{' and '.join(makers)} each make another network of the student")
    if teacher is None:
        return student
    for term in method.adapting:
        if isinstance(term.objective, Objective):
            raise ValueError(f"term {term.label!r}: give the class or a Spec; it is built with the student's network")
        if teacher.module is None:
            raise ValueError(
                f"method {method.name!r} builds its student from modules of the teacher, and what stands in for that "
                "one (a cache) has none; use the live network"
            )
        options = dict(term.objective.kwargs) if isinstance(term.objective, Spec) else {}
        guided = source(student, examples.probe, trained=True, preprocess=preprocess, precision=Precision())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_int(seed, "adapt", term.label))
            student = term.kind.adapt(guided, cast(LiveSource, teacher), listen, **options) or student
    return student
