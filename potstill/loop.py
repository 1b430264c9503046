"""What surrounds a step: where batches come from, how long they took, and stopping between two of them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

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
