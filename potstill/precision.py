"""Cheaper arithmetic: what it is, and choosing it by measuring a few real steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import did_you_mean


@dataclass(frozen=True)
class Precision:
    """How networks compute: `bf16` autocasts their forward, `channels_last` lays images out for convolutions.

    `compiled` runs them through `torch.compile` in training steps (`compiling.py`). Losses, norms and softmax stay in
    at least float32 whatever this says.
    """

    bf16: bool = False
    channels_last: bool = False
    float64: bool = False
    compiled: bool = False

    @classmethod
    def named(cls, name: str) -> Precision:
        """`float32`, `float32-channels-last`, `bf16`, `bf16-channels-last`, these with `-compile` behind, or `float64`.

        Raises ValueError otherwise.

        >>> Precision.named("bf16-channels-last")
        Precision(bf16=True, channels_last=True, float64=False, compiled=False)
        """
        known = {precision.name: precision for precision in (*CHOICES, *COMPILED)}
        if name not in known:
            raise ValueError(f"unknown precision {name!r}; {did_you_mean(name, ['auto', *known])}")
        return known[name]

    @property
    def name(self) -> str:
        kind = "float64" if self.float64 else "bf16" if self.bf16 else "float32"
        return kind + ("-channels-last" if self.channels_last else "") + ("-compile" if self.compiled else "")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.float64 else torch.float32

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def arrange(self, value: Any) -> Any:
        """Lay an input out as the networks want it."""
        if isinstance(value, Tensor):
            if self.float64 and value.is_floating_point():
                value = value.double()
            if self.channels_last and value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
        return value

    def place(self, module: nn.Module, device: torch.device | str) -> nn.Module:
        """Move a network to the device; its weights keep their values."""
        module.to(device)
        if self.float64:
            module.double()
        if self.channels_last:
            lay_out(module, torch.channels_last)
        return module


def lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Change how a network's four-dimensional weights lie in memory; their values stay."""
    module.to(memory_format=memory_format)  # ty: ignore[no-matching-overload]


CHOICES = (
    Precision(),
    Precision(channels_last=True),
    Precision(bf16=True),
    Precision(bf16=True, channels_last=True),
    Precision(float64=True),
)
COMPILED = tuple(replace(precision, compiled=True) for precision in CHOICES if not precision.float64)


@dataclass(frozen=True)
class Choice:
    """What `auto` chose, the medians that it chose by (milliseconds a step), and what it found about compiling."""

    precision: Precision
    milliseconds: dict[str, float]
    compile: str = ""

    def __str__(self) -> str:
        best, plain = self.milliseconds[self.precision.name], self.milliseconds["float32"]
        if self.precision.name == "float32":
            runner_up = min((v, k) for k, v in self.milliseconds.items() if k != "float32")
            return f"float32 ({best:.1f} ms a step; {runner_up[1]} {runner_up[0]:.1f} ms)"
        return f"{self.precision.name} ({best:.1f} ms a step; float32 {plain:.1f} ms, {plain / best:.1f}x)"


def choose(
    step: Callable[[Precision], Callable[[], None]], device: torch.device, rounds: int = 5, images: bool = True
) -> Choice:
    """Measure one step in each precision, interleaved, and take the fastest.

    `step(precision)` returns a function that runs one whole step on throw-away copies. How images lie in memory is no
    question where there are none.
    """
    candidates = [p for p in CHOICES if not p.float64 and (images or not p.channels_last)]
    runs = {p: step(p) for p in candidates}
    for run in runs.values():
        run()  # first calls compile kernels and allocate
    times: dict[Precision, list[float]] = {p: [] for p in candidates}
    for _ in range(rounds):
        for precision, run in runs.items():
            times[precision].append(1000 * waited(run, device))
    medians = {p: median(values) for p, values in times.items()}
    return Choice(fastest(medians), {p.name: round(value, 3) for p, value in medians.items()})


def fastest(medians: Mapping[Precision, float]) -> Precision:
    """The smallest time; but what gains less than a tenth over float32 is not worth its rounding: float32 is kept.

    >>> fastest({Precision(): 20.0, Precision(bf16=True): 18.5}).name
    'float32'
    """
    best = min(medians, key=lambda precision: medians[precision])
    return Precision() if medians[best] > 0.9 * medians[Precision()] else best


def waited(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with what the device still has to do at its end."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
