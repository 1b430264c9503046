"""On paper: bytes and seconds of a step on 8, 64 and 512 devices. Arithmetic alone, nothing is measured.

Letters: N devices, P trained parameters, B rows per device, D width of the embeddings that related terms gather.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --devices 4 16 pair:pair --pair.name mine --pair.parameters 86e6 --pair.flops 35e9
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tyro

FLOAT = 4
"""Bytes of a gradient, a parameter and an embedding: they travel in float32."""
MATRICES, PASSES = 7.5, 20
"""Of rows x rows numbers: kept at once by ICD's loss (measured: 7.3 to 8.0), and read or written (assumed)."""


@dataclass(frozen=True)
class Pair:
    """One student and its teacher. FLOPs are of one sample's forward; a multiply-add is two.

    `rows` are those of a device and step; `width` that of the embeddings that terms of scope "batch" gather (0: there
    are none), `inner` that in which rows are compared (ICD's heads).
    """

    name: str
    parameters: float
    flops: float
    teacher_flops: float
    rows: int = 128
    width: int = 0
    inner: int = 128


PAIRS = (
    Pair("WRN-40-2 → WRN-16-2, CIFAR", 0.703e6, 0.2e9, 0.66e9, 64, 128),
    Pair("R34 → R18, ImageNet", 11.7e6, 3.6e9, 7.3e9, 256, 512),
    Pair("ViT-B/16 → ViT-S/16, ImageNet", 22.1e6, 9.2e9, 35.1e9, 128, 768),
    Pair("8B → 1B LM, 2,048 tokens", 1.24e9, 5.1e12, 32.9e12, 4),
)


@dataclass(frozen=True)
class Arguments:
    """Assumptions: put in your machine's, and your measurements."""

    pair: Pair | None = None
    """One of your own instead of those of docs/scaling.md."""
    devices: tuple[int, ...] = (8, 64, 512)
    node: int = 8
    """Devices in a node."""
    compute: float = 200e12
    """FLOP/s that networks reach (H100 SXM: 989e12 nominal, dense bf16)."""
    exact: float = 40e12
    """FLOP/s in float32, in which losses run (67e12 nominal)."""
    memory: float = 2.5e12
    """Bytes/s of the device's memory (3.35e12 nominal)."""
    inside: float = 350e9
    """Bytes/s that a device sends inside a node (NVLink: 900e9 nominal, half of it each way)."""
    between: float = 40e9
    """Bytes/s that a device sends between nodes (400 Gb/s InfiniBand each: 50e9 nominal)."""
    latency: float = 10e-6
    """Seconds of one message."""
    overlap: float = 0.5
    """Part of the backward pass behind which gradients can travel."""


def step(pair: Pair, n: int, a: Arguments) -> dict[str, float]:
    """Bytes (B) that a device sends or keeps, and seconds (s)."""
    # An all-gather or a reduce-scatter sends this much on a ring; an all-reduce is both.
    weights, gathered = (FLOAT * size * (n - 1) / n for size in (pair.parameters, 2 * pair.rows * n * pair.width))
    forwards = 2 if pair.width else 1  # related terms collect first, and differentiate then (gradient caching)
    square = (pair.rows * n) ** 2 if pair.width else 0
    sent = {"DDP": 2 * weights, "FSDP2": (2 + forwards) * weights, "gather": gathered}
    speed = a.inside if n <= a.node else a.between
    times = {way: b / speed + (2 * (n - 1).bit_length() * a.latency if b else 0) for way, b in sent.items()}
    related = 12 * square * pair.inner / a.exact + FLOAT * PASSES * square / a.memory
    networks = pair.rows * (pair.teacher_flops + (forwards + 2) * pair.flops) / a.compute
    hidden = a.overlap * 2 * pair.rows * pair.flops / a.compute
    found = {f"{way} B": b for way, b in sent.items()} | {f"{way} s": s for way, s in times.items()}
    found |= {"networks s": networks, "related s": related, "related B": FLOAT * MATRICES * square}
    for way in ("DDP", "FSDP2"):
        spent = networks + max(0.0, times[way] - hidden) + times["gather"] + related
        found[f"{way} %"] = 100 * networks / spent
    return found


def pays(pair: Pair, a: Arguments) -> int:
    """The most devices, a power of two, on which in-batch contrast adds at most a tenth."""
    n, found = 1, step(pair, 2, a)
    while n < 2**20 and found["gather s"] + found["related s"] <= 0.1 * found["networks s"]:
        n, found = 2 * n, step(pair, 4 * n, a)
    return n


COLUMNS = {
    **{f"{way} MB": (f"{way} B", 1e-6, 1) for way in ("DDP", "FSDP2", "gather")},
    **{f"{what} ms": (f"{what} s", 1e3, 2) for what in ("networks", "DDP", "FSDP2", "gather", "related")},
    "related GB": ("related B", 1e-9, 2),
    **{f"{way} %": (f"{way} %", 1, 0) for way in ("DDP", "FSDP2")},
}


def table(a: Arguments) -> Iterator[str]:
    """Markdown. Efficiency (%): the step without any exchange, over the step with it."""
    yield "| pair | N | " + " | ".join(COLUMNS) + " |"
    yield "| :-- |" + " --: |" * (1 + len(COLUMNS))
    pairs = (a.pair,) if a.pair else PAIRS
    for pair in pairs:
        for n in a.devices:
            found = step(pair, n, a)
            cells = (f"{found[key] * unit:,.{digits}f}" for key, unit, digits in COLUMNS.values())
            yield f"| {pair.name} | {n} | " + " | ".join(cells) + " |"
    yield ""
    for pair in pairs:
        if pair.width:
            yield f"{pair.name}: in-batch contrast adds at most a tenth on up to {pays(pair, a)} devices.  "


if __name__ == "__main__":
    print("\n".join(table(tyro.cli(Arguments, description=__doc__))))
