"""What LazyLogits save and cost: one loss on a large vocabulary with its gradient, from whole logits and in pieces.

Both sides have hidden states `[tokens, D]` and a head `[V, D]` in float32; measured is what forward and backward take
beyond these inputs, the gradients that they leave (the student's hidden states and head) included. With `--top` each
loss is measured once more for a teacher of which so many of the largest probabilities are known. `extra MiB` is the
largest sum of live allocations (torch.profiler, on a GPU the allocator's own peak), `gradients MiB` what of it is left
at the end. Whole logits are run up to `--dense` tokens; above, `extra MiB` of the largest run is scaled by its tokens.
`seconds` is the process's own time on a CPU, the median of interleaved rounds, and `ratio` the median of each round's.

    OMP_NUM_THREADS=1 python benchmarks/logit_memory.py --json logit_memory.json
    OMP_NUM_THREADS=1 python benchmarks/logit_memory.py --vocabulary 32000 --tokens 512 --rounds 5 --top 100 \
        --objectives forward_kl reverse_kl jsd akl
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from step_cost import abilities, interleaved, peak_mib

from potstill.largest import top_logits
from potstill.lazy import weighted_sum
from potstill.methods import parse
from potstill.runs import environment
from potstill.types import LazyLogits, Objective, TopLogits

Row = dict[str, Any]
Run = Callable[[], object]
MIB = 2**20


@dataclass
class Arguments:
    """Memory and time of one loss, whole and in pieces."""

    objectives: tuple[str, ...] = ("forward_kl", "reverse_kl", "jsd", "skew_kl")
    """Names of objectives on logits that take LazyLogits."""
    top: int = 0
    """Also measure a teacher of which so many tokens are known (TopLogits)."""
    tokens: tuple[int, ...] = (1024, 8192)
    vocabulary: int = 128_256
    width: int = 1024
    """Of both sides."""
    dense: int = 1024
    """The most tokens of which whole logits are made."""
    timed: int = 1024
    """The most tokens of which the time is measured, over all rounds."""
    rounds: int = 3
    device: str = "cpu"
    json: Path | None = None
    """Also write the rows here, after each of them."""


def main(arguments: Arguments) -> None:
    found: Row = {
        "date": time.strftime("%Y-%m-%d"),
        "vocabulary": arguments.vocabulary,
        "width": arguments.width,
        "top": arguments.top,
        "rounds": arguments.rounds,
        "device": arguments.device,
        "environment": {**environment(), "machine": platform.machine(), **abilities()},
        "rows": [],
    }
    for name in arguments.objectives:
        for tokens, top in product(arguments.tokens, sorted({0, arguments.top})):
            found["rows"].append(measure(name, tokens, arguments, top))
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nV = {arguments.vocabulary:,}, D = {arguments.width:,}, float32\n")
    print("\n".join(table(found["rows"])))


def measure(name: str, tokens: int, arguments: Arguments, top: int = 0) -> Row:
    (*_, term) = parse(name).terms
    objective = term.objective.build()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    student, teacher = (side(tokens, arguments, device, trained) for trained in (True, False))
    guide = largest(teacher, top, objective) if top else teacher
    runs = {"pieces": in_pieces(objective, student, guide)}
    if tokens <= arguments.dense:
        runs["whole"] = whole(objective, student, guide)
    row: Row = {"objective": f"{name}, top {top}" if top else name, "tokens": tokens}
    for label, run in runs.items():
        row[f"{label}_mib"] = round(peak_mib(run, device), 1)
    trained = (student.hidden, student.weight)
    row["gradients_mib"] = round(sum(x.numel() * x.element_size() for x in trained) / MIB, 1)
    if tokens <= arguments.timed:
        row |= seconds(runs, arguments.rounds, device)
    return row


def side(tokens: int, arguments: Arguments, device: torch.device, trained: bool) -> LazyLogits:
    """Hidden states of size 1 and a head that makes logits of size 3, as those of a language model are."""
    hidden = torch.randn(tokens, arguments.width, device=device)
    weight = torch.randn(arguments.vocabulary, arguments.width, device=device).mul_(3 / arguments.width**0.5)
    return LazyLogits(hidden.requires_grad_(trained), weight.requires_grad_(trained))


def largest(teacher: LazyLogits, k: int, objective: Objective) -> TopLogits:
    """As a cache or a served teacher gives them, some tokens at a time."""
    temperature = getattr(objective, "temperature", 1.0)
    parts = [
        top_logits(teacher.rows(slice(start, start + 64)), k, temperature) for start in range(0, teacher.shape[0], 64)
    ]
    log_probs, indices = (torch.cat([getattr(part, name) for part in parts]) for name in ("log_probs", "indices"))
    return replace(parts[0], log_probs=log_probs, indices=indices)


def in_pieces(objective: Objective, student: LazyLogits, teacher: LazyLogits | TopLogits) -> Run:
    weights = torch.full(student.shape[:1], 1 / student.shape[0], device=student.hidden.device)
    return stepping(student, lambda: weighted_sum(objective, student, teacher, weights, {}))


def whole(objective: Objective, student: LazyLogits, teacher: LazyLogits | TopLogits) -> Run:
    def loss() -> torch.Tensor:
        return objective(student.dense(), teacher.dense() if isinstance(teacher, LazyLogits) else teacher).mean()

    return stepping(student, loss)


def stepping(student: LazyLogits, loss: Callable[[], torch.Tensor]) -> Run:
    """Forward and backward, without what an earlier call has left."""

    def run() -> None:
        student.hidden.grad = student.weight.grad = None
        loss().backward()

    return run


def seconds(runs: dict[str, Run], rounds: int, device: torch.device) -> Row:
    times = interleaved(runs, rounds, device)
    row: Row = {f"{label}_seconds": round(median(found), 3) for label, found in times.items()}
    if "whole" in times:
        row["ratio"] = round(median(a / b for a, b in zip(times["pieces"], times["whole"], strict=True)), 3)
    return row


def table(rows: list[Row]) -> list[str]:
    """Markdown: a line an objective and number of tokens."""
    lines = ["| objective | tokens | extra MiB, pieces | whole | gradients MiB | seconds, pieces | whole | ratio |"]
    lines += ["| :-- | --: | --: | --: | --: | --: | --: | --: |"]
    for row in rows:
        known = next((r for r in rows if r["objective"] == row["objective"] and "whole_mib" in r), None)
        dense = f"{row['whole_mib']:,.0f}" if "whole_mib" in row else scaled(row, known)
        times = [f"{row[key]:.2f}" if key in row else "–" for key in ("pieces_seconds", "whole_seconds", "ratio")]
        lines += [
            f"| {row['objective']} | {row['tokens']:,} | {row['pieces_mib']:,.0f} | {dense} | "
            f"{row['gradients_mib']:,.0f} | {' | '.join(times)} |"
        ]
    return lines


def scaled(row: Row, known: Row | None) -> str:
    """What whole logits would take: all but the gradients grows with the tokens."""
    if known is None:
        return "–"
    grown = (known["whole_mib"] - known["gradients_mib"]) * row["tokens"] / known["tokens"]
    return f"about {grown + row['gradients_mib']:,.0f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
