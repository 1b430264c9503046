"""What surrounds a step: where batches come from, who is trained on them, how long it took, stopping in between."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from potstill.ranks import anyone, world_size
from potstill.types import Batch


class Loader(Protocol):
    """Batches of an epoch, from any step on. `exact`: an epoch is a function of its number, so a run may resume
    inside one; a foreign loader resumes at epoch boundaries.
    """

    steps: int
    exact: bool

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]: ...


class Interrupted(Exception):
    """The run was stopped by the user; its checkpoint is saved (a foreign loader's at the end of the last epoch)."""


@dataclass
class Result:
    """What a finished run leaves: one row a epoch, and the wall-clock seconds of this process's part."""

    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0


class Training(Protocol):
    """What can be driven, batch by batch (`engine.py`)."""

    loader: Loader
    device: torch.device
    result: Result

    @property
    def position(self) -> tuple[int, int]: ...

    @property
    def over(self) -> bool: ...

    def start(self, resume: bool = False) -> None: ...

    def train_on(self, batch: Batch) -> None: ...

    def end_epoch(self, seconds: float, waited: float, students: int = 1) -> None: ...

    def due(self) -> bool: ...

    def save(self) -> None: ...


Failures = dict[Any, Exception]
"""Errors by what they ended."""

Step = Callable[[Sequence[Any], Batch], Failures]
"""How one loader batch is taken by those whose turn it is."""


def each(some: Iterable[Any], act: Callable[[Any], object]) -> Failures:
    """Do it for all; an error ends nobody else's, `Interrupted` everybody's."""
    failed: Failures = {}
    for one in some:
        try:
            act(one)
        except Interrupted:
            raise
        except Exception as error:
            failed[one] = error
    return failed


def in_turn(some: Sequence[Training], batch: Batch) -> Failures:
    """One loader batch for each, one after the other: activations of one at a time."""
    return each(some, lambda one: one.train_on(batch))


def drive(some: Sequence[Training], resume: bool = False, step: Step = in_turn) -> Failures:
    """Train all of them to the end on one loader, side by side: every batch is made once.

    One that fails is left out from then on, and is in the result. Each has its own checkpoints; a resumed one that had
    come further than the others waits for them. Raises Interrupted on Ctrl-C, after saving all.
    """
    failed: Failures = {}

    def going() -> list[Training]:
        return [one for one in some if one not in failed and not one.over]

    clock = time.perf_counter()
    failed |= each(some, lambda one: one.start(resume))
    with interruptible() as interrupted:
        while running := going():
            loader, device = running[0].loader, running[0].device
            epoch, first = min(one.position for one in running)
            began, waited = time.perf_counter(), 0.0
            for number, (batch, wait) in enumerate(timed(loader.epoch(epoch, first)), first):
                waited += wait
                here = [one for one in going() if one.position == (epoch, number)]
                failed |= step(here, batch)
                due = [one for one in here if one not in failed and one.due()]
                # Ranks meet, and so can agree to stop, where they save.
                stopping = (bool(due) or world_size() == 1) and anyone(interrupted(), device)
                failed |= each(going() if stopping and loader.exact else due, lambda one: one.save())
                if stopping:
                    raise Interrupted
                if not going():
                    break
            ending = [one for one in going() if one.position[0] == epoch]
            if not ending:
                continue
            part = len(ending)
            seconds, waited = (time.perf_counter() - began) / part, waited / part
            failed |= each(ending, lambda one, s=seconds, w=waited, n=part: one.end_epoch(s, w, n))
            stopping = anyone(interrupted(), device)
            always = stopping or world_size() > 1 or not loader.exact
            kept = [one for one in ending if one not in failed and (one.over or always)]
            failed |= each(kept, lambda one: one.save())
            for one in ending:
                one.result.seconds += (time.perf_counter() - clock) / part
                one.result.waited += waited
            clock = time.perf_counter()
            if stopping:
                raise Interrupted
    return failed


def timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that were spent waiting for it."""
    iterator = iter(batches)
    while True:
        began = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield batch, time.perf_counter() - began


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noticed between two steps, so that weights and optimizer are saved in one piece; twice, it is at once.

    Yields a function that says whether it was pressed. Outside the main thread nothing is caught.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def remember(number, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)
