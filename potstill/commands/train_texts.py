"""`potstill train` of a recipe of language models: its teacher, into the folder where teachers are shared."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from potstill import registry
from potstill.commands.arguments import SHORT, flags, unknown
from potstill.comparison import Options as Run
from potstill.console import Talk
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import teacher
from potstill.loop import Interrupted
from potstill.ranks import start, world_size


@dataclass(frozen=True)
class Options:
    """Where the teacher is kept."""

    teachers: Path | None = None
    """Where trained teachers are kept; Potstill's cache folder when left out."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing more than without: a training that was stopped always goes on."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size."""
    seed: int = 0
    """Seed of the teacher: initial weights and order of the texts."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "auto"
    """auto, float32 or bf16. auto measures a few steps."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class TrainText:
    """Train the teacher of a recipe of language models, once. Then teach with it: --teacher.name FOLDER.

    Every value of the recipe can be set below.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    recipe: Annotated[LanguageRecipe, tyro.conf.arg(name="")]


def run(recipe: LanguageRecipe, rest: list[str], named: str) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with recipe, data or options."""
    if wrong := unknown(rest, flags(Options()) | flags(recipe) | set(SHORT) | {"--help"}):
        raise ValueError(wrong.replace("distill", "train"))
    given = tyro.cli(
        TrainText,
        default=TrainText(Options(), recipe),
        args=rest,
        prog="potstill train",
        config=(tyro.conf.AvoidSubcommands,),
    )
    options, talk = given.options, Talk(quiet=given.options.quiet)
    place = options.teachers or registry.default_folder()
    device = torch.device(start(options.device))
    if world_size() > 1:
        raise ValueError(f"potstill train runs in one process, not in {world_size()}; potstill distill trains on ranks")
    asked = Run(place, device, talk, options.seed, options.precision, source=named)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
            found = teacher(given.recipe, asked)
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("stopped; the same command goes on\n")
        return 130
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif not options.quiet:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in found["scores"].items())
        sys.stdout.write(f"{found['model']}: {scores}\n{found['folder']}\n")
    return 0
