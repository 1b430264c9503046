"""What `potstill check` found of a recipe of language models, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from potstill.console import spanned

COLUMNS = ("training", "steps", "ms", "writing", "teacher", "tokens/s", "MiB", "time")


def text_costs(found: Mapping[str, Any]) -> Group:
    """A line for every training: the teacher's, then the methods'."""
    data = found["dataset"]
    head = f"{data['name']}: {data['train']:,} training and {data['valid']:,} validation texts, on {found['device']}"
    networks = ", ".join(f"{row['role']} {row['network']} ({row['parameters']:,})" for row in found["networks"])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "training" else "right", overflow="fold")
    for row in found["methods"]:
        table.add_row(*map(Text, _line(row)))
    return Group(
        Text(head, style="bold"),
        Text(f"precision: {found['why']}"),
        Text(f"parameters: {networks}\n"),
        table,
        Text(
            "writing, teacher: shares of a step in which networks write texts, and in which the teacher is asked about "
            "them. tokens/s: response tokens learnt from. MiB: peak of tensors in a step. time: to the end, for one "
            "seed. What the teacher writes before the first step (seqkd) and the scores of texts come on top; trained "
            "networks write shorter or longer texts than those that were timed."
        ),
        Text(f"\nmemory: {found['peak_mib']:,.1f} MiB at most; {found['available_mib']:,.0f} MiB are free"),
        Text(f"time: {spanned(found['eta_seconds'])}", style="bold"),
    )


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    def share(value: float) -> str:
        return f"{100 * value:.0f} %" if value else "–"

    return (
        row["method"],
        f"{row['steps']:,}",
        f"{row['step_ms']:,.1f}",
        share(row["writing_share"]),
        share(row["teacher_share"]),
        f"{row['tokens_per_second']:,.0f}",
        f"{row['peak_mib']:,.1f}",
        spanned(row["eta_seconds"]),
    )
