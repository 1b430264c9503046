"""Look at a teacher before it teaches: is it any good on this data, and if not, why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import nn

from potstill.assistants import check_name
from potstill.console import Talk
from potstill.data.foreign import check_labels
from potstill.data.preprocess import USUAL, Preprocess
from potstill.examples import Examples, source
from potstill.precision import Precision
from potstill.sources import Network
from potstill.taps import untouched
from potstill.tasks.classify import Classify, Evaluation
from potstill.types import MAIN, Batch

NEAR = 0.2
"""Part of the way from chance to perfect below which a teacher is suspect."""
LOOKED_AT = 8
"""Batches that each normalisation is tried on."""


def examine(
    teacher: Network,
    task: Classify,
    valid: Callable[[], Iterable[Batch]],
    classes: int,
    talk: Talk,
    own: Mapping[str, Preprocess] | None = None,
    taught: bool = False,
    what: str = "validation",
) -> Evaluation:
    """Say the teacher's own accuracy on the validation data. Near chance, try the usual normalisations, and `own`
    ones, and say which would have worked; a teacher that was `taught` here has the right one and needs none.

    Raises ValueError for a teacher that answers with another number of classes, or with NaN.
    """
    first = next(iter(valid()))
    with teacher.evaluating():
        answer = teacher(task, first, MAIN, ()).dense()
    if answer.ndim != 2 or answer.shape[1] != classes:
        raise ValueError(
            f"the teacher answers with shape {list(answer.shape)}, expected [{len(first)}, {classes}] for the "
            f"{classes} classes of the data; load the matching checkpoint, or give its preprocessing a label_map"
        )
    found = task.evaluate(teacher, valid())
    if not found.finite:
        raise ValueError(
            f"the teacher returns NaN or infinity on the {what} data; check the data, its weights, its "
            "preprocessing and its precision"
        )
    chance = 100 / classes
    talk.say(f"teacher: {found.top1:.2f} % on the {what} data (chance is {chance:.2f} %)")
    if found.top1 < chance + NEAR * (100 - chance):
        near = f"the teacher is near chance ({found.top1:.2f} %; chance is {chance:.2f} %)"
        if taught:
            talk.warn(f"{near}: it needs longer training, more data or another learning rate")
        elif not talk.quiet:
            talk.warn(f"{near}{_advice(teacher, task, valid, found.top1, {**(own or {}), **USUAL})}")
    return found


def _advice(
    teacher: Network,
    task: Classify,
    valid: Callable[[], Iterable[Batch]],
    now: float,
    usual: Mapping[str, Preprocess],
) -> str:
    given = teacher.preprocess or Preprocess()
    shape = next(iter(valid())).main.input.shape
    tried: dict[str, float] = {}
    try:
        for name, other in usual.items():
            if len(shape) == 4 and len(other.mean or ()) in (0, 1, shape[1]):
                teacher.preprocess = replace(given, mean=other.mean, std=other.std)
                tried[name] = task.evaluate(teacher, islice(valid(), LOOKED_AT)).top1
    finally:
        teacher.preprocess = given
    look = "look at the order of its labels, the order of its channels, its input size and its weights"
    if not tried:
        return f"; {look}"
    best = max(tried, key=lambda name: tried[name])
    if tried[best] > max(2 * now, now + 10):
        mean, std = (
            [float(f"{value:.4g}") for value in side]
            for side in (usual[best].mean or (0.0,), usual[best].std or (1.0,))
        )
        flags = f"--teacher.mean {' '.join(map(str, mean))} --teacher.std {' '.join(map(str, std))}"
        return (
            f". With the normalisation {best!r} it reaches {tried[best]:.2f} %: set its preprocessing to "
            f"mean={tuple(mean)}, std={tuple(std)} (on the command line {flags})"
        )
    return f", and none of the usual normalisations helps (best: {best!r}, {tried[best]:.2f} %); {look}"


def check_modules(teacher: Any, student: Any, assistants: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The assistants, as a dictionary.

    Raises ValueError for what is no network, for a teacher or assistant that would change while its student learns,
    and for an assistant's name that terms cannot write.
    """
    for role, module in (("teacher", teacher), ("student", student), *assistants.items()):
        if not isinstance(module, nn.Module):
            raise ValueError(f"the {role} must be a torch.nn.Module, got {type(module).__name__}")
    own = {id(p) for p in student.parameters()}
    for role, module in (("teacher", teacher), *assistants.items()):
        if module is student:
            raise ValueError(f"{role} and student are the same module; give the student a copy of its own")
        if {id(p) for p in module.parameters()} & own:
            raise ValueError(f"{role} and student share parameters; give the student a copy of its own")
    for name in assistants:
        check_name(name)
    return dict(assistants)


@contextmanager
def frozen(
    networks: Mapping[str, nn.Module], examples: Examples, preprocess: Preprocess | None, precision: Precision
) -> Iterator[dict[str, Network]]:
    """Sources that only answer; afterwards the networks are in the modes that they were in."""
    found: dict[str, Network] = {}
    try:
        for name, module in networks.items():
            found[name] = source(module, examples.probe, trained=False, preprocess=preprocess, precision=precision)
        yield dict(found)
    finally:
        for one in found.values():
            one.close()


def classes_of(
    networks: Mapping[str, nn.Module], preprocesses: Mapping[str, Preprocess | None], examples: Examples
) -> int:
    """How many classes the networks answer with. They are left as they are.

    Raises ValueError for a network that cannot run on the data, whose answers are no logits or not finite, or of
    another number of classes than the first; and for labels that do not fit.
    """
    found: dict[str, int] = {}
    for role, module in networks.items():
        speaker = source(module, examples.probe, trained=False, preprocess=preprocesses[role], precision=Precision())
        try:
            with untouched(module):
                answer = speaker(Classify(), examples.probe, MAIN, ()).dense()
        finally:
            speaker.close()
        if answer.ndim != 2:
            raise ValueError(f"the {role} answers with shape {list(answer.shape)}, expected logits [B, K]")
        if not answer.isfinite().all():
            raise ValueError(
                f"the {role} returns NaN or infinity on the first batch; check the data, its weights and its "
                "preprocessing"
            )
        found[role] = answer.shape[1]
    (first, classes), *others = found.items()
    for role, theirs in others:
        if theirs != classes:
            raise ValueError(
                f"the {first} answers with {classes} classes and the {role} with {theirs}; build the {role} with "
                f"{classes} outputs, or give {first}_preprocess a label_map"
            )
    for labels in (getattr(examples.loader, "labels", examples.info.labels), examples.probe.main.label):
        if labels is not None:
            check_labels(labels.cpu(), classes)
    return classes
