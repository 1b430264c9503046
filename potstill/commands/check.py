"""`potstill check`: what a recipe or a grid will cost, before it runs."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from potstill import catalogue, registry
from potstill.check import check
from potstill.commands import check_texts
from potstill.commands.arguments import SHORT, adapted, flags, split, unknown, value
from potstill.comparison import Options as Run
from potstill.console import Talk, spanned
from potstill.grid import Grid
from potstill.methods import parse
from potstill.precision import Precision
from potstill.ranks import start, world_size
from potstill.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """How it is looked at. Nothing is written."""

    rounds: int = 5
    """So many steps of each method are timed; the median counts."""
    pairs: tuple[str, ...] = ()
    """Of a grid only these pairs, by name or folder."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size."""
    seed: int = 0
    """Seed of the throw-away networks."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "auto"
    """auto, float32, float32-channels-last, bf16, bf16-channels-last. auto measures a few steps."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only the answer: no lines on the way."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class Check:
    """Look at a recipe before it runs: parameters and multiply-adds, predicted memory, steps a second, time to the end,
    what the teacher, the terms and the data cost, settings without effect, and what would make it cheaper.

    RECIPE may be a grid too. Every value of a recipe can be set below; of a grid, the options in front.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


def run(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with recipe, data or options."""
    named, rest = split(arguments)
    smoke, root = "--smoke" in rest, value(rest, "--data.root")
    if (texts := catalogue.language(named, smoke, root)) is not None:
        return check_texts.run(adapted(texts, rest), rest)
    grid, _ = catalogue.grid(named, smoke=smoke, root=root)
    single = len(grid.pairs) == 1
    recipe = adapted(next(iter(grid.pairs.values())), rest)
    known = flags(Options()) | (flags(recipe) | set(SHORT) if single else set()) | {"--help"}
    if wrong := unknown(rest, known):
        raise ValueError(wrong.replace("distill", "check"))
    given = tyro.cli(
        Check,
        default=Check(Options(), recipe),
        args=rest,
        prog="potstill check",
        config=(tyro.conf.AvoidSubcommands,),
    )
    options = given.options
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {options.rounds}")
    grid = replace(grid, pairs={next(iter(grid.pairs)): given.recipe}) if single else grid.narrowed(options.pairs)
    talk, device = Talk(quiet=options.quiet), start(options.device)
    if world_size() > 1:
        raise ValueError(f"potstill check looks at one process, not at {world_size()}; leave torchrun out")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
        found = _pairs(grid, options, device, talk, bench=not single)
    if options.json:
        sys.stdout.write(json.dumps(found[0] if single else {"pairs": found, "eta_seconds": _sum(found)}) + "\n")
    else:
        _show(found, single)
    return 0


def _pairs(grid: Grid, options: Options, device: torch.device, talk: Talk, bench: bool) -> list[dict[str, Any]]:
    """One answer for each pair; all compute in the first one's precision, as `potstill bench` does."""
    answers: list[dict[str, Any]] = []
    for pair, recipe in grid.pairs.items():
        run = Run(Path(), device, talk, options.seed, options.precision)
        run.teachers = registry.default_folder() if bench else None
        seeds = {parse(text).name: grid.seeds.get(parse(text).name, recipe.seeds) for text in recipe.methods}
        chosen = Precision.named(answers[0]["precision"]) if answers else None
        answers.append({"pair": pair, **check(recipe, run, rounds=options.rounds, precision=chosen, seeds=seeds)})
    return answers


def _sum(found: list[dict[str, Any]]) -> float | None:
    spent = [answer["eta_seconds"] for answer in found]
    return None if None in spent else round(sum(spent), 3)


def _show(found: list[dict[str, Any]], single: bool) -> None:
    from rich.console import Console

    from potstill.report.costs import costs

    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for answer in found:
        if not single:
            console.print(f"\n{answer['pair']}", style="bold", highlight=False)
        console.print(costs(answer))
    total = _sum(found)
    if not single and total is not None:
        console.print(f"\nthe whole grid, one cell after the other: {spanned(total)}", highlight=False)
