"""What `potstill check` found, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from potstill.console import spanned

NOTHING = "–"
NETWORKS = ("network", "parameters", "MACs")
COSTS = ("training", "steps", "ms", "student", "teacher", "terms", "data", "steps/s", "MiB", "time")


def costs(found: Mapping[str, Any]) -> Group:
    """Networks, then a line for every training: teacher, assistants, all stages of the methods; totals and advice."""
    data = found["dataset"]
    head = f"{data['name']}: {data['train']:,} training and {data['valid']:,} validation images, on {found['device']}"
    networks = [
        (f"{row['role']} {row['network']}", f"{row['parameters']:,}", _large(row["macs"])) for row in found["networks"]
    ]
    training = found["teacher_training"]
    lines = [("(the teacher)", training)] if training else []
    lines += [(f"(assistant {row['name']})", row) for row in found["assistants_training"]]
    lines += [(_label(row), row) for row in found["methods"]]
    parts = [
        Text(head, style="bold"),
        Text(f"precision: {found['why']}\n"),
        _table(NETWORKS, networks),
        Text("MACs: multiply-adds for one image in convolutions, matrix products and attention.\n"),
        _table(COSTS, [_costs(label, row) for label, row in lines]),
        Text(
            "student, teacher, terms, data: shares of a step, the wait for its data included; a term's is that of its "
            "formula and its gradient. MiB: predicted peak of tensors on the device. time: to the end, for one seed, "
            "with evaluations."
        ),
        Text(f"\nmemory: {_memory(found)}"),
        Text(f"time: {_time(found)}", style="bold"),
        *(Text(f"warning: {text}", style="yellow") for text in found["warnings"]),
        *(Text(f"suggestion: {text}", style="green") for text in found["suggestions"]),
    ]
    return Group(*parts)


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['method']} [{row['stage']}]" if row["stage"] else row["method"]


def _costs(label: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    peak = f"{row['memory_mib']['peak']:,.1f}"
    if row["step_ms"] is None:
        return label, f"{row['steps']:,}", *[NOTHING] * 6, peak, NOTHING
    whole = row["step_ms"] + row["wait_ms"]

    def share(milliseconds: float) -> str:
        return f"{100 * milliseconds / whole:.0f} %"

    return (
        label,
        f"{row['steps']:,}",
        f"{whole:,.1f}",
        share(row["student_ms"]),
        share(row["teacher_ms"]) if row["teacher_ms"] else NOTHING,
        ", ".join(f"{name} {share(value)}" for name, value in row["terms_ms"].items()),
        share(row["wait_ms"]),
        f"{row['steps_per_second']:,.1f}",
        peak,
        spanned(row["eta_seconds"]),
    )


def _memory(found: Mapping[str, Any]) -> str:
    rows = [*found["methods"], *_before(found)]
    parts = max([found["teacher_evaluation_mib"], *(row["memory_mib"] for row in rows)], key=lambda row: row["peak"])
    what = "step" if parts["step"] >= parts["evaluation"] else "evaluation"
    always = f"data {parts['data']:,.1f}, weights {parts['weights']:,.1f}, optimizer {parts['optimizer']:,.1f}"
    measured = [row["measured_mib"] for row in rows if row["measured_mib"]]
    seen = f"; measured at most {max(measured):,.1f}" if measured else ""
    return (
        f"{found['peak_mib']:,.1f} MiB predicted ({always}, {what} {parts[what]:,.1f}){seen}; "
        f"{found['available_mib']:,.0f} MiB are free"
    )


def _time(found: Mapping[str, Any]) -> str:
    if found["eta_seconds"] is None:
        return "unknown: no step was taken, because the prediction does not fit into the free memory"
    training, assistants = found["teacher_training"], found["assistants_training"]
    parts = [f"the teacher {spanned(training['eta_seconds'])}"] if training else []
    if assistants:
        parts.append(f"{len(assistants)} assistants {spanned(sum(row['eta_seconds'] for row in assistants))}")
    students = found["eta_seconds"] - sum(row["eta_seconds"] for row in _before(found))
    parts.append(f"{found['cells']} students {spanned(students)}")
    return f"{spanned(found['eta_seconds'])} ({', '.join(parts)})"


def _before(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is trained before the students."""
    return [*([found["teacher_training"]] if found["teacher_training"] else []), *found["assistants_training"]]


def _large(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        left = heading in ("network", "training", "terms")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
