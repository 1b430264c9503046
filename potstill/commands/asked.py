"""What `potstill distill` can be told: options of every command that runs, and the leaves of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.recipe import LanguageRecipe
from potstill.recipe import Recipe


@dataclass(frozen=True)
class Common:
    """Every command that runs knows these."""

    out: Path | None = None
    """Folder of the run; runs/<recipe>-<date> when left out."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out; finished parts are kept."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size, to see that everything works."""
    seed: int = 0
    """Seed of the first repetition: initial weights, order of the data, random draws."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "auto"
    """auto, float32, float32-channels-last, bf16, bf16-channels-last. auto measures a few steps."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class Distill:
    """Train a teacher (or load one), then every method from the same seeds; print one table and write a report.

    RECIPE is a Python file with `recipe(smoke) -> Recipe`, or the name of one that ships (potstill list recipes).
    Every value of the recipe can be set below; what the recipe itself says is the default.
    """

    common: Annotated[Common, tyro.conf.arg(name="")]
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class DistillText:
    """Train a language model (or load one), then every method from the same seeds; print one table and write a report.

    RECIPE is a Python file with `recipe(smoke) -> LanguageRecipe`, or the name of one that ships (potstill list
    recipes); --data.root FILE.jsonl alone starts with texts of your own. Every value of the recipe can be set below;
    what the recipe itself says is the default.
    """

    common: Annotated[Common, tyro.conf.arg(name="")]
    recipe: Annotated[LanguageRecipe, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class DistillLabels:
    """Train a network that classifies or rates texts (or load one), then every method from the same seeds; print one
    table and write a report.

    RECIPE is a Python file with `recipe(smoke) -> LabelledRecipe`, or the name of one that ships (potstill list
    recipes). Every value of the recipe can be set below; what the recipe itself says is the default.
    """

    common: Annotated[Common, tyro.conf.arg(name="")]
    recipe: Annotated[LabelledRecipe, tyro.conf.arg(name="")]
