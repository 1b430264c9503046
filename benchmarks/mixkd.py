r"""MixKD with little data: the recipe mixkd_small, with students that see 80, 800 and 8,000 sentences of SST-2.

The recipe says what the networks are (an encoder of 4 layers, trained here on 32,000 sentences, and its first 2) and
which methods are compared. Accuracy on the 872 validation sentences, last epoch, n seeds (which sentences a share has,
their order, dropout, pairs and shares of the mixing; all methods of a seed have the same sentences). A smaller share is
shown for more epochs. One run of `potstill distill` for each share, in `--out`, with one teacher for all; called again,
it goes on where it was stopped.

    python benchmarks/mixkd.py --json benchmarks/results/mixkd.json

Another data set is another folder; where labels are scores (STS-B: Pearson's correlation) the methods are named so:

    python benchmarks/mixkd.py --data ../shared/data/text/stsb --train-rows 5704 --shares 57 570 5700 \
        --out runs/mixkd_stsb --methods student logit_mse "mixkd(target=scores)" "mixkd(kd=1,target=scores)"
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from potstill import catalogue
from potstill.checkpoint import write_json
from potstill.comparison import Options
from potstill.console import Talk
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.labelled_run import run
from potstill.runs import environment

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "sst2"


@dataclass(frozen=True)
class Arguments:
    """The limited-data study."""

    data: Path = DATA
    methods: tuple[str, ...] = ()
    """The recipe's when left out."""
    shares: tuple[int, ...] = (80, 800, 8000)
    """Texts that students see."""
    epochs: tuple[int, ...] = (30, 10, 2)
    """Of each share."""
    train_rows: int = 32_000
    """Texts that the teacher sees."""
    seeds: int = 3
    out: Path = Path("runs/mixkd")
    """A run for each share, and the teacher."""
    json: Path | None = None
    """Also write the table here."""
    smoke: bool = False
    """A few sentences and steps: does it run?"""


def main(arguments: Arguments) -> None:
    if len(arguments.shares) != len(arguments.epochs):
        raise SystemExit(f"{len(arguments.shares)} shares and {len(arguments.epochs)} epochs: one of each, please")
    arguments = replace(arguments, shares=(16, 32), epochs=(2, 1), seeds=2) if arguments.smoke else arguments
    torch.set_num_threads(1)
    found = {
        share: run(recipe_of(arguments, share, epochs), options(arguments, share))
        for share, epochs in zip(arguments.shares, arguments.epochs, strict=True)
    }
    if arguments.json:
        about = {"date": time.strftime("%Y-%m-%d"), "data": arguments.data.name, "environment": environment()}
        keys = ("teacher", "measures", "rows")
        runs = {str(share): {key: one[key] for key in keys} for share, one in found.items()}
        write_json(arguments.json, {**about, "epochs": arguments.epochs, "runs": runs})
    print("\n".join(table(found)))


def recipe_of(arguments: Arguments, share: int, epochs: int) -> LabelledRecipe:
    """The recipe on that many texts. The teacher is trained alike for all."""
    recipe, _ = catalogue.recipe("mixkd_small", arguments.smoke)
    assert isinstance(recipe, LabelledRecipe)
    rows = recipe.data.train_rows if arguments.smoke else arguments.train_rows
    return replace(
        recipe,
        data=replace(recipe.data, name=arguments.data.name, root=arguments.data, share=share, train_rows=rows),
        methods=arguments.methods or recipe.methods,
        seeds=arguments.seeds,
        fit=replace(recipe.fit, epochs=epochs),
        teacher_fit=recipe.fit,
    )


def options(arguments: Arguments, share: int) -> Options:
    out = arguments.out / f"share{share}"
    teachers, device = arguments.out / "teachers", torch.device("cpu")
    return Options(out, device, Talk(), precision="float32", resume=(out / "recipe.json").exists(), teachers=teachers)


def table(found: dict[int, dict[str, Any]]) -> list[str]:
    """Markdown: methods down, shares across, the first measure."""
    one = next(iter(found.values()))
    measure = one["measures"][0]
    lines = [f"teacher: {measure['title']} {one['teacher']['scores'][measure['name']]:.2f}; mean ± std", ""]
    lines += ["| method | " + " | ".join(f"{share:,} texts" for share in found) + " |"]
    lines += ["| :-- |" + " --: |" * len(found)]
    for place, row in enumerate(one["rows"]):
        cells = [summary["rows"][place] for summary in found.values()]
        shown = [f"{cell['mean'][measure['name']]:.2f} ± {cell['std'][measure['name']]:.2f}" for cell in cells]
        lines.append(f"| {row['method']} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
