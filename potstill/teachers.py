"""Look at a teacher before it teaches: is it any good on this data, and if not, why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from potstill.console import Talk
from potstill.data.preprocess import USUAL, Preprocess
from potstill.sources import Network
from potstill.tasks.classify import Classify, Evaluation
from potstill.types import MAIN, Batch


def examine(
    teacher: Network, task: Classify, valid: Callable[[], Iterable[Batch]], classes: int, talk: Talk
) -> Evaluation:
    """Say the teacher's own accuracy on the validation data. Near chance, try the usual normalisations and say which
    would have worked.

    Raises ValueError for a teacher that answers with another number of classes, or with NaN.
    """
    first = next(iter(valid()))
    with teacher.evaluating():
        answer = teacher(task, first, MAIN, ()).output
    if answer.ndim != 2 or answer.shape[1] != classes:
        raise ValueError(
            f"the teacher answers with shape {list(answer.shape)}, expected [{len(first)}, {classes}] for the "
            f"{classes} classes of the data; load the matching checkpoint, or give its preprocessing a label_map"
        )
    found = task.evaluate(teacher, valid())
    if not found.finite:
        raise ValueError(
            "the teacher returns NaN or infinity on the validation data; check its weights, its preprocessing and "
            "its precision"
        )
    chance = 100 / classes
    talk.say(f"teacher: {found.top1:.2f} % on the validation data (chance is {chance:.2f} %)")
    if found.top1 < chance + 0.2 * (100 - chance):
        talk.warn(_advice(teacher, task, valid, found.top1, chance))
    return found


def _advice(teacher: Network, task: Classify, valid: Callable[[], Iterable[Batch]], now: float, chance: float) -> str:
    own = teacher.preprocess or Preprocess()
    channels = next(iter(valid())).main.input.shape[1]
    tried: dict[str, float] = {}
    try:
        for name, usual in USUAL.items():
            if len(usual.mean or ()) in (0, 1, channels):
                teacher.preprocess = replace(own, mean=usual.mean, std=usual.std)
                tried[name] = task.evaluate(teacher, valid()).top1
    finally:
        teacher.preprocess = own
    best = max(tried, key=lambda name: tried[name])
    near = f"the teacher is near chance ({now:.2f} %; chance is {chance:.2f} %)"
    if tried[best] > max(2 * now, now + 10):
        usual = USUAL[best]
        return (
            f"{near}. With the normalisation {best!r} it reaches {tried[best]:.2f} %: set its preprocessing to "
            f"mean={usual.mean}, std={usual.std}"
        )
    return (
        f"{near}, and none of the usual normalisations helps (best: {best!r}, {tried[best]:.2f} %); look at the order "
        "of its labels, the order of its channels, its input size and its weights"
    )
