"""The command line: `potstill distill`, `potstill list`, `potstill report`."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from potstill import catalogue
from potstill.errors import did_you_mean
from potstill.recipe import Recipe

USAGE = """\
usage: potstill COMMAND [...]

commands:
  distill [RECIPE] [--leaf value ...]   train a teacher and its students, print one table, write a report
  list {methods,models,data,recipes}    what there is
  report RUN                            write report.html of a run folder again

Try it now:      potstill distill                      (handwritten digits, about a minute on a laptop)
Your own data:   potstill distill --data.root ./photos --student resnet8 --teacher resnet20
Every option:    potstill distill --help
"""


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
class ListWhat:
    """Show what Potstill has."""

    what: Annotated[Literal["methods", "models", "data", "recipes"], tyro.conf.Positional]
    """What to list."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""


@dataclass(frozen=True)
class Report:
    """Write report.html of a run folder again, from its files alone."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""


SHORT = {
    "--data": "--data.name",
    "--method": "--methods",
    "--student": "--student.name",
    "--teacher": "--teacher.name",
}
"""Short for the leaf that people mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"distill": _distill, "list": _list, "report": _report}
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
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _distill(arguments: list[str]) -> int:
    from potstill.compare import Options, run
    from potstill.console import Talk
    from potstill.engine import Interrupted
    from potstill.ranks import rank, start

    named, rest = _split(arguments)
    recipe, source = catalogue.recipe(named, smoke="--smoke" in rest, root=_value(rest, "--data.root"))
    given = tyro.cli(
        Distill,
        default=Distill(Common(), recipe),
        args=rest,
        prog="potstill distill",
        config=(tyro.conf.AvoidSubcommands,),
    )
    common, recipe = given.common, given.recipe
    if common.out is None and common.resume:
        raise ValueError("--resume needs --out: which run should go on?")
    stem = Path(named).stem if named else recipe.data.name or "run"
    out = common.out or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    talk = Talk(quiet=common.quiet or common.json)
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
            warnings.showwarning = lambda message, *_: talk.warn(str(message))
            summary = run(recipe, options)
    except Interrupted:
        words = [word for word in arguments if word != "--resume"]
        words += [] if "--out" in words else ["--out", str(out)]
        sys.stderr.write(f"stopped, checkpoint saved; go on with: potstill distill {' '.join(words)} --resume\n")
        return 130
    if rank() == 0:
        _show(summary, out, common)
    return 0


def _show(summary: dict[str, Any], out: Path, common: Common) -> None:
    from rich.console import Console

    from potstill.report.tables import comparison_table

    if common.json:
        sys.stdout.write(json.dumps(summary, default=str) + "\n")
    elif not common.quiet:
        console = Console()
        console.print(comparison_table(summary))
        console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _list(arguments: list[str]) -> int:
    given = tyro.cli(ListWhat, args=arguments, prog="potstill list")
    rows = getattr(catalogue, given.what)()
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"potstill {given.what}", title_justify="left", box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    return 0


def _report(arguments: list[str]) -> int:
    from potstill.report.page import write_report

    given = tyro.cli(Report, args=arguments, prog="potstill report")
    sys.stdout.write(f"{write_report(given.run)}\n")
    return 0


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The recipe, if one is named first, and the rest with short names spelled out."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    rest = arguments[1:] if named else arguments
    spelled = []
    for word in rest:
        flag, equals, value = word.partition("=")
        spelled.append(SHORT.get(flag, flag) + equals + value)
    return named, spelled


def _value(arguments: list[str], flag: str) -> str | None:
    for number, word in enumerate(arguments):
        if word == flag and number + 1 < len(arguments):
            return arguments[number + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None
