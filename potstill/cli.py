"""The command line: `potstill distill`, `potstill bench`, `potstill list` and the others."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from potstill import catalogue, runs
from potstill.commands.arguments import SHORT, adapted, flags, split, unknown, value
from potstill.commands.asked import Common, Distill, DistillLabels, DistillText
from potstill.errors import did_you_mean
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.recipe import LanguageRecipe
from potstill.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

USAGE = """\
usage: potstill COMMAND [...]

commands:
  distill [RECIPE] [--leaf value ...]   train a teacher and its students, print one table, write a report
  bench GRID [--jobs N]                 pairs x methods x seeds: one table, from a grid that can be stopped and gone on
  train RECIPE|GRID                     only the teachers, into the folder where bench finds them
  check [RECIPE|GRID]                   what it will cost before it runs: time, memory, teacher, terms, data
  cache [RECIPE] --out DIR              write what the teacher says, to teach from with --teacher.cache DIR
  transfer RUN --data NAME|FOLDER       linear probes of a run's networks on other data, two arms
  evaluate RUN --suite NAME             retrieval or robustness of a run's networks on its own images: RUN/NAME.json
  list {methods,models,data,recipes}    what there is
  list methods --for TEACHER STUDENT    which methods two networks allow, and what they add
  report RUN [--figures DIR]            write report.html of a run folder again; its figures and tables as files

Try it now:      potstill distill                      (handwritten digits, about a minute on a laptop)
Your own data:   potstill distill --data.root ./photos --student resnet8 --teacher resnet20
Every option:    potstill distill --help
"""


@dataclass(frozen=True)
class ListWhat:
    """Show what Potstill has."""

    what: Annotated[Literal["methods", "models", "data", "recipes"], tyro.conf.Positional]
    """What to list."""
    pair: Annotated[tuple[str, str] | None, tyro.conf.arg(name="for", metavar="TEACHER STUDENT")] = None
    """Two models: which methods apply to them, what they add, and why others do not apply."""
    size: int = 32
    """With --for: pixels a side of the images."""
    classes: int = 100
    """With --for: classes of the data."""
    channels: int = 3
    """With --for: colour channels of the images."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""


ANSWER = ("dataset", "teacher", "rows", "run")
"""What --json prints of the summary; summary.json has all of it."""
WIDE = 160
"""Columns of the table where stdout is no terminal: nothing needs to be left out of a file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        name: globals()[f"_{name}"]
        for name in ("distill", "bench", "train", "check", "cache", "transfer", "evaluate", "list", "report")
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from potstill import __version__

        sys.stdout.write(f"potstill {__version__}\n")
        return 0
    if arguments[0] not in commands:
        sys.stderr.write(f"potstill: no command {arguments[0]!r}; {did_you_mean(arguments[0], commands)}\n\n{USAGE}")
        return 2
    try:
        return commands[arguments[0]](arguments[1:])
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _distill(arguments: list[str]) -> int:
    from potstill.compare import run
    from potstill.comparison import Options
    from potstill.console import Talk
    from potstill.language.labelled_run import run as run_labelled
    from potstill.language.run import run as run_texts
    from potstill.loop import Interrupted
    from potstill.ranks import rank, start

    named, rest = split(arguments)
    recipe, source = catalogue.recipe(named, smoke="--smoke" in rest, root=value(rest, "--data.root"))
    recipe = adapted(recipe, rest)
    if wrong := unknown(rest, flags(Common()) | flags(recipe) | set(SHORT) | {"--help"}):
        sys.stderr.write(f"error: {wrong}\n")
        return 2
    kinds: dict[type, tuple[Any, Any]] = {
        Recipe: (Distill, run),
        LanguageRecipe: (DistillText, run_texts),
        LabelledRecipe: (DistillLabels, run_labelled),
    }
    kind, started = kinds[type(recipe)]
    given = tyro.cli(
        kind,
        default=kind(Common(), recipe),
        args=rest,
        prog="potstill distill",
        config=(tyro.conf.AvoidSubcommands,),
    )
    common, recipe = given.common, given.recipe
    if common.out is None and common.resume:
        raise ValueError("--resume needs --out: which run should go on?")
    stem = Path(named).stem if named else recipe.data.name or "run"
    out = common.out or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    talk = Talk(quiet=common.quiet)
    device = start(common.device)
    talk.quiet = talk.quiet or rank() != 0
    options = Options(
        out=out,
        device=device,
        talk=talk,
        seed=common.seed,
        precision=common.precision,
        resume=common.resume,
        source=source,
    )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
            summary = started(recipe, options)
    except (Interrupted, KeyboardInterrupt):
        if rank() == 0:
            sys.stderr.write(_stopped(arguments, out))
        return 130
    if rank() == 0:
        _show(summary, out, common)
    return 0


def _stopped(arguments: list[str], out: Path) -> str:
    """One line: how to go on."""
    if not (out / runs.RECIPE).exists():
        return "stopped before the first step; nothing was written\n"
    words = [word for word in arguments if word != "--resume"]
    words += [] if value(words, "--out") else ["--out", str(out)]
    return f"stopped, checkpoint saved; go on with: potstill distill {shlex.join([*words, '--resume'])}\n"


def _show(summary: dict[str, Any], out: Path, common: Common) -> None:
    from potstill.evaluation.scores import KIND as SCORES
    from potstill.report.formats import rich_table
    from potstill.report.scores_table import scores_sheet
    from potstill.report.tables import comparison_table

    if common.json:
        sys.stdout.write(json.dumps({key: summary[key] for key in ANSWER}) + "\n")
    elif not common.quiet:
        console = _console()
        shown = rich_table(scores_sheet(summary), console.width) if summary.get("kind") == SCORES else None
        console.print(shown or comparison_table(summary, width=console.width))
        console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _list(arguments: list[str]) -> int:
    from potstill import methods_index
    from potstill.pairs import Pair, check_words
    from potstill.report import listing

    check_words(arguments)
    given = tyro.cli(ListWhat, args=arguments, prog="potstill list")
    shape = {name: getattr(given, name) for name in ("size", "classes", "channels")}
    if given.pair is None and shape != {name: getattr(ListWhat, name) for name in shape}:
        raise ValueError(f"{', '.join(f'--{name}' for name in shape)} belong to: list methods --for TEACHER STUDENT")
    if given.pair is not None and given.what != "methods":
        raise ValueError(f"--for asks which methods two networks allow: list methods --for, not list {given.what}")
    console = _console()
    if given.what == "methods":
        rows, counted = methods_index.look(Pair(*given.pair, **shape) if given.pair else None)
        table = listing.methods(rows, counted, console.width)
    else:
        rows = getattr(catalogue, given.what)()
        table = listing.listing(given.what, rows, console.width)
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        console.print(table)
    return 0


def _cache(arguments: list[str]) -> int:
    from potstill.commands.cache import run

    return run(arguments)


def _check(arguments: list[str]) -> int:
    from potstill.commands.check import run

    return run(arguments)


def _transfer(arguments: list[str]) -> int:
    from potstill.commands.transfer import run

    return run(arguments)


def _evaluate(arguments: list[str]) -> int:
    from potstill.commands.evaluate import run

    return run(arguments)


def _bench(arguments: list[str]) -> int:
    from potstill.commands.bench import run

    return run(arguments)


def _train(arguments: list[str]) -> int:
    from potstill.commands.bench import train

    return train(arguments)


def _report(arguments: list[str]) -> int:
    from potstill.commands.report import run

    return run(arguments)
