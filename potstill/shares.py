"""A cache written by several processes, each with shards of its own. All that they need of each other is the folder.

They may be ranks under torchrun, on several machines that see one folder, or processes that `--jobs` starts. The first
one begins the cache and comes back when all of it is there. Which shards are whose is fixed by their numbers, so no
process waits for another, and the files are those of a single process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from potstill.cache import ABOUT, About, add, begin, missing, places, read_about, with_views
from potstill.data import Split
from potstill.fanout import follow_parent
from potstill.types import Progress, Source

PAUSE = 0.1
"""Seconds between two looks into the folder."""


@dataclass(frozen=True)
class Share:
    """This is process `number` of `of`, and on its machine it is process `local`."""

    number: int = 0
    of: int = 1
    local: int = 0

    @classmethod
    def first(cls, jobs: int) -> Share:
        """Of this process, which starts the others; under torchrun, which has started them, as that says.

        Raises ValueError for both at once.
        """
        number, of, local = (
            int(os.environ.get(name, usual)) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        if of > 1 and jobs > 1:
            raise ValueError(
                f"--jobs {jobs} under torchrun, which has started {of} processes already: give one of them"
            )
        return cls(number, of, local) if of > 1 else cls(0, jobs, 0)

    def device(self, name: str | None) -> str:
        """The GPU of this process, where none is named by its number."""
        count = torch.cuda.device_count()
        if name is None:
            name = "cuda" if count else "cpu"
        return f"cuda:{self.local % count}" if name == "cuda" and count and self.of > 1 else name


def write_share(
    source: Source,
    images: Split,
    folder: Path,
    about: About,
    share: Share,
    on_step: Callable[[Progress], None],
    helpers: Callable[[], Sequence[BaseProcess]] = list,
) -> About:
    """This process's part of a cache, as `cache.write` writes all of it; `helpers` starts the other processes, once
    the cache is begun, where nobody else has.

    Raises:
        ValueError: as `cache.write` does, or a helper has failed.
    """
    if share.number == 0:
        about = begin(source, images, folder, about)
    else:
        while not (folder / ABOUT).exists():
            time.sleep(PAUSE)
        about = with_views(read_about(folder), about, folder)
    with _ended(helpers() if missing(about, folder) else []) as others:
        mine = set(places(about)[share.number :: share.of])
        add(source, images, folder, about, [place for place in missing(about, folder) if place in mine], on_step)
        while share.number == 0 and missing(about, folder):
            _check(others)
            time.sleep(PAUSE)
    return about


def start(work: Callable[..., Any], *arguments: Any, jobs: int) -> Sequence[BaseProcess]:
    """Further processes of this machine that call `work(*arguments, share)`; they do not outlive this one."""
    context = multiprocessing.get_context("spawn")  # a forked child of a process with threads may hang
    threads = max(1, torch.get_num_threads() // jobs)
    shares = [Share(number, jobs, number) for number in range(1, jobs)]
    started = [
        context.Process(target=_helping, args=(threads, work, *arguments, share), daemon=True) for share in shares
    ]
    for process in started:
        process.start()
    return started


def _helping(threads: int, work: Callable[..., Any], *arguments: Any) -> None:
    follow_parent(threads)
    try:
        work(*arguments)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _check(others: Sequence[BaseProcess]) -> None:
    for process in others:
        if process.exitcode:
            raise ValueError(
                f"one of the processes of --jobs ended with status {process.exitcode}; what is finished is kept: the "
                "same command goes on"
            )


@contextmanager
def _ended(others: Sequence[BaseProcess]) -> Generator[Sequence[BaseProcess]]:
    """With the block the processes end too: all that they wrote is there, or they are not wanted any more."""
    try:
        yield others
    finally:
        for process in others:
            process.terminate()
        for process in others:
            process.join()
