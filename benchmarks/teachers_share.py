"""What a method takes from its teacher: run folders of `recipes/vision/cifar20_methods.py` as one table.

Each method beside itself with a shuffled teacher and beside the lone student, paired by seed. Several folders (the
recipe run in parts, from one teacher checkpoint) become one table.

    python benchmarks/teachers_share.py runs/part1 runs/part2 --json benchmarks/results/cifar20_methods.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from potstill.evaluation.statistics import PairedDifference, mean_std, paired_difference

LONE, CONTROL = "student", "~shuffled"


@dataclass
class Arguments:
    """One table of several run folders."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    json: Path | None = None
    """Also write every cell and every difference here."""


def main(arguments: Arguments) -> None:
    cells = read(arguments.runs)
    rows = [row(name, cells) for name in sorted(cells) if not name.endswith(CONTROL)]
    rows.sort(key=lambda one: -one["top1"])
    print("| method | top-1 % | shuffled teacher % | difference [95 %] | to lone student [95 %] | n |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for one in rows:
        shuffled = "–" if one["shuffled"] is None else spread(one["shuffled"], one["shuffled_std"])
        mine = spread(one["top1"], one["std"])
        print(
            f"| {one['method']} | {mine} | {shuffled} | {interval(one['to_shuffled'])} | "
            f"{interval(one['to_student'])} | {one['n']} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "cells": cells}, indent=1) + "\n")


def read(runs: tuple[Path, ...]) -> dict[str, dict[int, float]]:
    """Last-epoch accuracy by method and seed. Raises ValueError where two folders differ about one cell."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(path for run in runs for path in run.glob("*/seed*/result.json")):
        cell = json.loads(path.read_text())["cell"]
        before = found.setdefault(cell["method"], {}).setdefault(cell["seed"], cell["top1"])
        if before != cell["top1"]:
            raise ValueError(f"{path}: {cell['top1']} % here and {before} % in another folder")
    return {name: dict(sorted(seeds.items())) for name, seeds in found.items()}


def row(name: str, cells: dict[str, dict[int, float]]) -> dict[str, Any]:
    mine = cells[name]
    mean, std = mean_std(list(mine.values()))
    control = cells.get(name + CONTROL)
    shuffled = mean_std(list(control.values())) if control else (None, None)
    return {
        "method": name,
        "n": len(mine),
        "top1": mean,
        "std": std,
        "shuffled": shuffled[0],
        "shuffled_std": shuffled[1],
        "to_shuffled": difference(mine, control),
        "to_student": None if name == LONE else difference(mine, cells.get(LONE)),
    }


def difference(mine: dict[int, float], other: dict[int, float] | None) -> dict[str, Any] | None:
    seeds = [seed for seed in mine if other and seed in other]
    if not seeds:
        return None
    found: PairedDifference = paired_difference([mine[s] for s in seeds], [(other or {})[s] for s in seeds])
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def spread(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['mean']:+.2f}" + ("" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
