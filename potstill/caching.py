"""A teacher that is paid once: what of it a method reads, and a cache that is there when it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill.cache import ABOUT, About, read_about, write
from potstill.cached import Cached
from potstill.cell import assemble
from potstill.console import Talk
from potstill.data import Preprocess, Split
from potstill.data.foreign import Pair
from potstill.examples import Examples
from potstill.forms import augmentation, views_of
from potstill.largest import check_tail
from potstill.methods import Method
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.types import MAIN, Source

OF = ("precision", "teacher", "data", "samples", "augment", "data_seed")
"""What a cache must have in common with the teacher and the data that it stands for."""


@dataclass(frozen=True)
class Cache:
    """Where `potstill.distill` keeps what the teacher says, and how: `cache=Cache(folder, top_k=10)`.

    `top_k` stores only so many of the largest logits, and the mass of the others at the method's temperature (`kd`
    only); `dtype` is `float32` or `bf16`, left out: as the teacher computed. A cache that exists already is used as it
    is stored; where it says something else than these two, that is an error.
    """

    folder: str | Path
    top_k: int | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, given: str | Path | Cache) -> Cache:
        return given if isinstance(given, Cache) else cls(given)

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def precision(self, asked: str, settled: Precision) -> Precision:
        """How the teacher computes: where nobody asked for anything, as it did when the cache was begun."""
        begun = asked == "auto" and (self.path / ABOUT).exists()
        return Precision.named(read_about(self.path).precision) if begun else settled


def check_methods(methods: Iterable[Method]) -> None:
    """Raises ValueError for a method that no cache can serve."""
    for method in methods:
        for stage in method.stages:
            if modules := [term.label for term in stage.terms if term.kind.needs_modules]:
                raise ValueError(
                    f"method {method.name!r}: {modules[0]} is built from modules of the teacher, which no cache holds; "
                    "teach it live"
                )


def needed(
    methods: Iterable[Method],
    student: Callable[[Method], nn.Module],
    teacher: Source,
    examples: Callable[[Fit], Examples],
    fit: Fit,
    preprocess: Preprocess | None,
    top_k: int | None = None,
    **kw: Any,
) -> tuple[tuple[str, ...], float | None]:
    """The taps that the methods read in the teacher, and the one temperature of the losses on top-k logits.

    Every stage of every method is wired to the teacher on throw-away students. Raises ValueError for a method that no
    cache can serve.
    """
    methods = list(methods)
    check_methods(methods)
    taps: dict[str, None] = {}
    temperature = None
    for method in methods:
        for stage in method.stages:
            asked = stage.fit(fit)
            engine = assemble(
                student(method), teacher, method, examples(asked), asked, stage=stage, preprocess=preprocess, **kw
            )
            # A scheme may give the teacher another name, and a control wraps it.
            names = [name for name, one in engine.sources.items() if getattr(one, "source", one) is teacher]
            if elsewhere := [view for source, view in engine.system.wanted if source in names and view != MAIN]:
                raise ValueError(
                    f"method {method.name!r} asks the teacher about another view of each sample ({elsewhere[0]!r}), "
                    "which no cache holds; teach it live"
                )
            taps |= dict.fromkeys(tap for name in names for tap in engine.system.wanted.get((name, MAIN), ()))
            for term in engine.system.wired:
                if top_k is not None and term.right is not None and "output" in term.right.taps:
                    temperature = temperature or getattr(term.objective, "temperature", None)
                    check_tail(term.name, term.objective, top_k, temperature)
    if top_k is not None and temperature is None:
        raise ValueError("top_k has nothing to store: no method reads the teacher's logits; leave it out")
    return tuple(taps), temperature


def rows_at_once(fit: Fit, batch_size: int) -> int:
    """How many samples a network sees at once in training, in one process."""
    parts = 1 if fit.micro_batch is None else -(-batch_size // fit.micro_batch)
    return -(-batch_size // parts)


def filled(talk: Talk, how: Callable[..., About], *arguments: Any) -> About:
    """`cache.write`, or the like, with a progress bar."""
    with talk.bars(1) as begin:
        started: list[Any] = []

        def show(progress):
            if not started:
                started.append(begin("teacher", progress.total))
            started[0](progress)

        return how(*arguments, on_step=show)


def standing_in(
    kept: Cache,
    teacher: Network,
    data: Split | Pair,
    method: Method,
    student: nn.Module,
    examples: Examples,
    fit: Fit,
    *,
    seed: int,
    preprocess: Preprocess | None,
    talk: Talk,
) -> Cached:
    """What speaks for the teacher from a folder: written where nothing is, finished where it is not whole.

    A cache that exists may hold more taps and views than are asked for, and may have been written in batches of another
    size. The student and the random state stay as they are.

    Raises:
        ValueError: the folder holds a cache of another teacher, other data, other views, or without what is needed.
    """
    device = examples.probe.main.index.device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        taps, temperature = needed(
            [method],
            lambda _: copy.deepcopy(student),
            teacher,
            lambda _: examples,
            fit,
            preprocess,
            kept.top_k,
            precision=teacher.precision,
        )
    augment = augmentation(data)
    about = About(
        teacher=teacher.fingerprint,
        precision=teacher.precision.name,
        data=data.digest,
        samples=len(data),
        augment=augment,
        data_seed=0 if augment == "none" else seed,
        batch_size=rows_at_once(fit, examples.info.batch_size),
        names=tuple(sorted(teacher.names)),
        taps=taps,
        dtype=kept.dtype,
        top_k=kept.top_k,
        temperature=temperature,
        views=views_of(data, fit),
    )
    folder, begun = kept.path, (kept.path / ABOUT).exists()
    if begun:
        about = _as_begun(kept, read_about(folder), about)
    views = about.views if not begun else views_of(data, fit)
    if not begun or any(not about.path(folder, v, s).exists() for v in range(views) for s in range(about.shards)):
        talk.say(f"what the teacher says is {'finished' if begun else 'written'} once, into {folder}")
        filled(talk, write, teacher, data, folder, about)
    return Cached(folder, views)


def _as_begun(kept: Cache, before: About, now: About) -> About:
    """A cache that exists, with the views that it is to have. Raises ValueError where it cannot stand in."""
    asked = OF + tuple(name for name in ("top_k", "dtype") if getattr(kept, name) is not None)
    if different := before.differences(now, *asked):
        raise ValueError(
            f"the cache {kept.folder} is not of this teacher (its weights, preprocessing and precision) and this data; "
            f"they differ in {'; '.join(different)}; give another folder, or what it was written from"
        )
    if lacking := sorted(set(now.taps) - set(before.taps)):
        raise ValueError(
            f"the cache {kept.folder} holds {', '.join(('output', *before.taps))}, and the method also reads "
            f"{', '.join(lacking)}; give another folder, which is then written for this method"
        )
    return replace(before, views=max(before.views, now.views))
