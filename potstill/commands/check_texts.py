"""`potstill check` of a recipe of language models."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from potstill.commands.arguments import SHORT, flags, unknown
from potstill.comparison import Options as Run
from potstill.console import Talk
from potstill.language.check import check_texts
from potstill.language.recipe import LanguageRecipe
from potstill.ranks import start, world_size


@dataclass(frozen=True)
class Options:
    """How it is looked at. Nothing is written."""

    rounds: int = 5
    """So many steps of each method are timed; the median counts."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size."""
    seed: int = 0
    """Seed of the throw-away networks."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "auto"
    """auto, float32 or bf16. auto measures a few steps."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only the answer: no lines on the way."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class CheckText:
    """Look at a recipe of language models before it runs: a few real steps of every method on this device, their time,
    who it is spent on, response tokens a second, peak memory, and the time to the end.

    The networks are loaded, or drawn at random where they are new. Every value of the recipe can be set below.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    recipe: Annotated[LanguageRecipe, tyro.conf.arg(name="")]


def run(recipe: LanguageRecipe, rest: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with recipe, data or options."""
    if wrong := unknown(rest, flags(Options()) | flags(recipe) | set(SHORT) | {"--help"}):
        raise ValueError(wrong.replace("distill", "check"))
    given = tyro.cli(
        CheckText,
        default=CheckText(Options(), recipe),
        args=rest,
        prog="potstill check",
        config=(tyro.conf.AvoidSubcommands,),
    )
    options = given.options
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {options.rounds}")
    talk, device = Talk(quiet=options.quiet), torch.device(start(options.device))
    if world_size() > 1:
        raise ValueError(f"potstill check looks at one process, not at {world_size()}; leave torchrun out")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
        found = check_texts(given.recipe, Run(Path(), device, talk, options.seed, options.precision), options.rounds)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _show(found)
    return 0


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console

    from potstill.report.text_costs import text_costs

    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(text_costs(found))
