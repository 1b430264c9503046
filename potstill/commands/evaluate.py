"""`potstill evaluate`: a suite of measurements over a run's networks, on the run's own images."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from potstill.commands.arguments import SHORT, flags, split, unknown, value
from potstill.console import Talk
from potstill.data import Data
from potstill.errors import did_you_mean
from potstill.precision import Precision
from potstill.ranks import start, world_size
from potstill.report import formats
from potstill.report.evaluation import sheets
from potstill.suites import SUITES
from potstill.suites.run import Options as Asked
from potstill.suites.run import data_of, evaluate

Off = tyro.conf.FlagCreatePairsOff
WIDE = 160


@dataclass(frozen=True)
class Options:
    """What is measured, and of which networks."""

    suite: str = ""
    """What to measure. Every suite has options of its own."""
    methods: tuple[str, ...] = ()
    """Only these methods of the run."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "float32"
    """How the networks compute: float32, float32-channels-last, bf16, bf16-channels-last."""
    smoke: Annotated[bool, Off] = False
    """The suite at its smallest size, to see that everything works."""
    quiet: Annotated[bool, Off] = False
    """Say nothing."""
    json: Annotated[bool, Off] = False
    """Print one JSON object on stdout, and nothing else there."""


def run(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with run, data or settings."""
    named, rest = split(arguments)
    chosen = value(rest, "--suite")
    if chosen is None and not {"-h", "--help"} & {*rest}:
        raise ValueError(f"which suite? potstill evaluate RUN --suite {'|'.join(SUITES)}")
    chosen = chosen or next(iter(SUITES))
    if chosen not in SUITES:
        raise ValueError(f"no suite {chosen!r}; {did_you_mean(chosen, SUITES)}")
    suite, data = SUITES[chosen](), Data()
    if named is not None and value(rest, "--data.name") is None:
        data = data_of(Path(named), moved=value(rest, "--data.root") is not None)
    known = flags(Options()) | flags(suite) | flags(data, "--data.") | set(SHORT) | {"-h", "--help"}
    if wrong := unknown(rest, known):
        raise ValueError(wrong.replace("distill", f"evaluate --suite {chosen}"))
    given = tyro.cli(
        _call(type(suite)),
        default=_call(type(suite))(Options(suite=chosen), suite, data),
        args=rest,
        prog="potstill evaluate",
        config=(tyro.conf.AvoidSubcommands,),
    )
    if named is None:
        raise ValueError(f"potstill evaluate needs a run folder: potstill evaluate RUN --suite {chosen}")
    options, talk = given.options, Talk(quiet=given.options.quiet)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
        found = evaluate(named, chosen, given.suite, given.data, _asked(options, talk))
    _show(found, named, options)
    return 0


def _call(suite: Any) -> Any:
    """What tyro reads: common options, the suite's own, the data."""
    parts = [
        ("options", Annotated[Options, tyro.conf.arg(name="")]),
        ("suite", Annotated[suite, tyro.conf.arg(name="")]),
        ("data", Data),
    ]
    found = make_dataclass("Evaluate", parts, frozen=True)
    found.__doc__ = """Measure the teacher, the assistants and every student of RUN on the run's own images.

    RUN is the folder of a run or of a grid. The table is printed and written to RUN/SUITE.json.
    """
    return found


def _asked(options: Options, talk: Talk) -> Asked:
    device = start(options.device)
    if world_size() > 1:
        raise ValueError(f"potstill evaluate runs in one process, not in {world_size()}")
    return Asked(options.methods, torch.device(device), Precision.named(options.precision), options.smoke, talk)


def _show(found: list[dict[str, Any]], named: str, options: Options) -> None:
    from rich.console import Console

    if options.json:
        sys.stdout.write(json.dumps(found[0] if "pair" not in found[0] else {"run": named, "pairs": found}) + "\n")
    elif not options.quiet:
        console = Console()
        console = console if console.is_terminal else Console(width=WIDE)
        for table in found:
            if "pair" in table:
                console.print(table["pair"])
            for sheet in sheets(table):
                console.print(formats.rich_table(sheet, console.width))
