"""Responses that networks write while a student trains: the student, the teacher, both token by token, or in turns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from potstill.hashing import hash_int, uniform
from potstill.language.behaviour import Tally, collapse
from potstill.language.generation import Ends, Rollout, Sampling, generate
from potstill.language.sequences import Sequences, speaker
from potstill.language.speculative import interleave
from potstill.language.views import PROMPT, PROMPT_MASK, chosen, rewritten
from potstill.ranks import rank
from potstill.schedules import Schedule, at
from potstill.types import MAIN, Batch, Progress, Source, Stateful

COLLAPSED = 3
"""Reports in a row that must look collapsed before a warning is given: a new student writes badly at first."""


class Writer:
    """One network writes all responses, or two do together; what they look like is counted.

    `method` is who asks, for messages. Random numbers are a function of (seed, step, rank). Networks write in
    evaluation mode, without gradient, and come back as they were.
    """

    def __init__(self, method: str, ends: Ends, sampling: Sampling, vocabulary: int | None = None):
        self.method, self.ends, self.sampling, self.vocabulary = method, ends, sampling, vocabulary
        self.tally, self.collapsed = Tally(), 0

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch:
        device = batch.main.index.device
        generator = self.generator(device, progress, seed)
        cheaper = getattr(sources["student"], "precision", None)
        with cheaper.autocast(device) if cheaper is not None else nullcontext():
            rollout = self.write(batch, sources, generator)
        self.tally.add(rollout)
        return rewritten(batch, rollout.tokens, rollout.mask)

    def generator(self, device: torch.device, progress: Progress, seed: int) -> torch.Generator:
        """Random numbers of this step, and of this rank."""
        return torch.Generator(device).manual_seed(hash_int(seed, self.method, progress.step, rank()))

    def write(self, batch: Batch, sources: Mapping[str, Source], generator: torch.Generator) -> Rollout:
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """Means since the last call; warns where the texts have collapsed for several of them."""
        found = self.tally.report()
        sign = collapse(found, self.sampling.max_new_tokens) if found else None
        self.collapsed = self.collapsed + 1 if sign else 0
        if self.collapsed == COLLAPSED:
            warnings.warn(
                f"{self.method}: {sign}; begin with a student that has learnt from the data, lower the learning rate, "
                "or mix the data's own responses in",
                stacklevel=2,
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"tally": self.tally.state_dict(), "collapsed": self.collapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tally.load_state_dict(state["tally"])
        self.collapsed = state["collapsed"]


class Alone(Writer):
    """One network writes: `who` is "student" or "teacher"."""

    def __init__(self, who: str, method: str, ends: Ends, sampling: Sampling, vocabulary: int | None = None):
        super().__init__(method, ends, sampling, vocabulary)
        self.who = who

    def write(self, batch: Batch, sources: Mapping[str, Source], generator: torch.Generator) -> Rollout:
        model, view = speaker(sources, self.who, self.method), batch.main
        asked = (view.extras[PROMPT], view.extras[PROMPT_MASK], self.sampling, self.ends, generator)
        return generate(model, *asked, vocabulary=self.vocabulary, measure=True)


class Interleaved(Writer):
    """The student proposes and the teacher replaces (`speculative.interleave`, whose `options` these are)."""

    def __init__(
        self,
        method: str,
        ends: Ends,
        student: Sampling,
        teacher: Sampling,
        vocabulary: int | None = None,
        **options: Any,
    ):
        super().__init__(method, ends, student, vocabulary)
        self.teacher, self.options = teacher, options

    def write(self, batch: Batch, sources: Mapping[str, Source], generator: torch.Generator) -> Rollout:
        return interleave(
            speaker(sources, "student", self.method),
            speaker(sources, "teacher", self.method),
            batch.main.extras[PROMPT],
            batch.main.extras[PROMPT_MASK],
            ends=self.ends,
            generator=generator,
            student_sampling=self.sampling,
            teacher_sampling=self.teacher,
            vocabulary=self.vocabulary,
            measure=True,
            **self.options,
        )


class Sometimes:
    """`inner` writes a share of the responses, the others are the data's own.

    `share` is a number or a function of progress. With `batchwise` one draw decides for the whole batch, the same on
    all ranks, and nothing is written that is not used; otherwise one for each sample.
    """

    def __init__(self, inner: Sequences, share: float | Schedule, batchwise: bool = False):
        self.inner, self.share, self.batchwise = inner, share, batchwise
        self.written = self.seen = 0.0

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch:
        share = float(at(self.share, progress))
        if self.batchwise:
            own = torch.tensor(hash_int(seed, "who writes", progress.step))
            take = bool(uniform(own, "batch") < share)
            self._count(float(take))
            return self.inner(batch, sources, progress, seed) if take else batch
        self._count(share)
        if share <= 0:
            return batch
        written = self.inner(batch, sources, progress, seed)
        rows = uniform(batch.main.index, seed, "who writes", progress.step) < share
        return batch.with_view(MAIN, chosen(rows, written.main, batch.main))

    def _count(self, share: float) -> None:
        self.written, self.seen = self.written + share, self.seen + 1

    def report(self) -> dict[str, float]:
        if not self.seen:
            return {}
        found = {"written_share": self.written / self.seen, **self.inner.report()}
        self.written = self.seen = 0.0
        return found

    def state_dict(self) -> dict[str, Any]:
        inner = self.inner.state_dict() if isinstance(self.inner, Stateful) else {}
        return {"written": self.written, "seen": self.seen, "inner": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written, self.seen = state["written"], state["seen"]
        if isinstance(self.inner, Stateful):
            self.inner.load_state_dict(state["inner"])


def lasting(sampling: Sampling, tokens: int, longest: int) -> Sampling:
    """With `tokens` as the most that is written, or where that is 0, what the data's longest response has."""
    return replace(sampling, max_new_tokens=tokens or longest)
