"""Networks compiled by `torch.compile`, with the same taps, weights and checkpoints as uncompiled ones.

Only the forward of a network in a training step is compiled, and its backward with it: evaluation, probing, and the
last batch of an epoch where that is smaller run as they are written. Compiled code is kept per network architecture,
set of taps and shape, so that all students of a run share it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any, cast

import torch
from torch import nn

from potstill.precision import Choice, Precision, waited
from potstill.ranks import world_size

LONG = 1800.0
"""Seconds that a student must train uncompiled before `auto` tries to compile: a vain try costs one or two minutes."""
RECOMPILE_LIMIT = 64
"""Variants of compiled code; beyond torch's own limit of 8 it would silently run the rest as it is written."""

_whole_step: ContextVar[bool] = ContextVar("whole_step", default=False)


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        return f"there is no C++ compiler ({program}); install one, or name it in the environment variable CXX"
    return None


@contextmanager
def step(whole: bool) -> Iterator[None]:
    """A training step, in which networks may run compiled if it has all the rows that a batch usually has."""
    token = _whole_step.set(whole)
    try:
        yield
    finally:
        _whole_step.reset(token)


def compiled(network: nn.Module, taps: Sequence[str]) -> nn.Module:
    """What to call in place of the network: itself, or inside of `step(True)` its compiled forward.

    The hooks that read these `taps` must be in place, in this order.
    """
    if not _whole_step.get():
        return network
    key = ",".join(taps) or "none"
    return cast(nn.Module, lambda *args, **kwargs: _compiled()(key, network, *args, **kwargs))


@cache
def _compiled() -> Callable[..., Any]:
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, RECOMPILE_LIMIT)  # ty: ignore[invalid-assignment]
    # Sizes are never made symbols: which code a batch runs must not depend on the batches before it.
    return torch.compile(_forward, dynamic=False)


def _forward(taps: str, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    # Compiled code holds the hooks that it was traced with and does not look for others later
    # (torch._dynamo.config.skip_nnmodule_hook_guards). Reading the names of the taps makes them what it looks at.
    if not taps:
        raise AssertionError
    return network(*args, **kwargs)


def consider(
    choice: Choice, step: Callable[[Precision], Callable[[], None]], steps: int, device: torch.device, rounds: int = 5
) -> Choice:
    """The same choice, or it compiled where a student's `steps` are enough to repay that.

    Measured only where the student trains for at least `LONG` uncompiled. Compiling must save twice the seconds that it
    takes. `compile` of the result says what was found.
    """
    plain = choice.milliseconds[choice.precision.name]
    seconds = steps * plain / 1000
    if reason := missing():
        return replace(choice, compile=f"not tried: {reason}")
    if world_size() > 1:
        return replace(choice, compile="not tried: each rank would decide on its own; name it with --precision")
    if seconds < LONG:
        return replace(choice, compile=f"not tried: a student trains for about {seconds:.0f} s, below {LONG:.0f} s")
    precision = replace(choice.precision, compiled=True)
    try:
        run, began = step(precision), time.perf_counter()
        for _ in range(2):
            run()
        spent = time.perf_counter() - began
        taken = 1000 * median(waited(run, device) for _ in range(rounds))
    except Exception as error:  # whatever compilers raise
        return replace(choice, compile=f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    saved = steps * (plain - taken) / 1000
    found = f"{taken:.1f} ms a step for {plain:.1f}, {spent:.0f} s to compile, {saved:.0f} s saved"
    if saved < 2 * spent:
        return replace(choice, compile=f"does not pay: {found}")
    times = {**choice.milliseconds, precision.name: round(taken, 3)}
    return replace(choice, precision=precision, milliseconds=times, compile=f"pays: {found}")
