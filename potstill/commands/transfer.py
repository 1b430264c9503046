"""`potstill transfer`: linear probes of a run's networks on other data."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from potstill.commands.arguments import SHORT, flags, split, unknown, value
from potstill.console import Talk
from potstill.data import Data
from potstill.errors import did_you_mean
from potstill.loop import Interrupted
from potstill.precision import Precision
from potstill.ranks import start, world_size
from potstill.transfer import Protocol, transfer
from potstill.transfer.protocol import VIEWS, Arm
from potstill.transfer.run import Options as Asked

Off = tyro.conf.FlagCreatePairsOff
SIZE = 32
"""Pixels a side that the protocol brings images to."""
SMOKE_EPOCHS, SMOKE_ROWS = 2, 400
PLAIN, FRESH = "plain", "fresh"


@dataclass(frozen=True)
class Options:
    """How the networks are probed."""

    arm: Arm = "frozen"
    """frozen: the network in evaluation mode, features computed once. drifting: as released, in training mode, its
    batch-norm statistics drifting to the new data."""
    methods: tuple[str, ...] = ()
    """Only these methods of the run."""
    epochs: int = 120
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    lr: float | None = None
    """Learning rate; 0.05, or 0.01 for MobileNet and ShuffleNet, when left out."""
    weight_decay: float = 5e-4
    """Weight decay of the new classifier."""
    tag: str = ""
    """A word behind the name of the results, so that those of other settings stand beside."""
    resume: Annotated[bool, Off] = False
    """Nothing more than without: finished probes are always kept."""
    smoke: Annotated[bool, Off] = False
    """Two epochs on 400 images, to see that everything works."""
    seed: int = 0
    """Added to each student's own seed: the classifier's first weights and the order of the images."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "float32"
    """How the networks compute: float32, float32-channels-last, bf16, bf16-channels-last."""
    quiet: Annotated[bool, Off] = False
    """Say nothing."""
    json: Annotated[bool, Off] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class Transfer:
    """Train a new linear classifier on the frozen embedding of each network of RUN, on other data; print one table.

    RUN is the folder of a run, of a grid, or of one student. The data: --data tiny_imagenet, stl10, or a FOLDER. With
    --views N the networks are shown N fixed views of each image (the frozen arm: 8), with --views fresh a new one in
    every epoch (as released; the drifting arm), with --views plain the images as they are.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    data: Data


def run(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with run, data or settings."""
    named, rest = split(arguments)
    rest = _views(rest)
    views = VIEWS if value(rest, "--arm") in (None, "frozen") else None
    epochs = SMOKE_EPOCHS if "--smoke" in rest else Options.epochs
    usual = Transfer(Options(epochs=epochs), Data(size=SIZE, views=views))
    known = flags(usual.options) | flags(usual.data, "--data.") | set(SHORT) | {"--help", "--views"}
    if wrong := unknown(rest, known):
        raise ValueError(wrong.replace("distill", "transfer"))
    given = tyro.cli(Transfer, default=usual, args=rest, prog="potstill transfer", config=(tyro.conf.AvoidSubcommands,))
    options, talk = given.options, Talk(quiet=given.options.quiet)
    if named is None:
        raise ValueError("potstill transfer needs a run folder: potstill transfer RUN --data tiny_imagenet")
    if value(rest, "--data.name") is None and value(rest, "--data.root") is None:
        raise ValueError("which data? e.g. --data tiny_imagenet, --data stl10, --data FOLDER")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
            found = transfer(named, _folder(given.data), _protocol(given), _asked(options, talk))
    except (Interrupted, KeyboardInterrupt):
        words = shlex.join(["potstill", "transfer", *arguments])
        sys.stderr.write(f"stopped; finished probes are kept; go on with: {words}\n")
        return 130
    _show(found, named, options)
    return 0


def _views(arguments: list[str]) -> list[str]:
    """`--views 8`, `--views fresh` and `--views plain`, written as leaves of the data."""
    asked = value(arguments, "--views")
    if asked is None:
        return arguments
    place = next(n for n, word in enumerate(arguments) if word.partition("=")[0] == "--views")
    width = 1 if "=" in arguments[place] else 2
    if not asked.isdecimal() and asked not in (FRESH, PLAIN):
        raise ValueError(f"--views {asked!r} is no number; {did_you_mean(asked, (FRESH, PLAIN))}")
    if asked.isdecimal() and int(asked) < 1:
        raise ValueError(f"--views must be at least 1, got {asked}; {FRESH} gives every epoch a view of its own")
    leaf = ["--data.augment", "none"] if asked == PLAIN else ["--data.views", "None" if asked == FRESH else asked]
    return [*arguments[:place], *leaf, *arguments[place + width :]]


def _folder(data: Data) -> Data:
    """`--data FOLDER` means the folder."""
    place = Path(data.name).expanduser()
    if data.root is None and place.exists() and ("/" in data.name or place.is_dir()):
        return replace(data, name=place.resolve().stem, root=place)
    return data


def _protocol(given: Transfer) -> Protocol:
    options, data = given.options, given.data
    return Protocol(
        arm=options.arm,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=Protocol.lr if options.lr is None else options.lr,
        weight_decay=options.weight_decay,
        augment=data.augment,
        views=data.views,
        data_seed=data.data_seed,
    )


def _asked(options: Options, talk: Talk) -> Asked:
    device = start(options.device)
    if world_size() > 1:
        raise ValueError(f"potstill transfer runs in one process, not in {world_size()}")
    return Asked(
        methods=options.methods,
        seed=options.seed,
        slower=options.lr is None,
        tag="-".join(filter(None, (options.tag, "smoke" if options.smoke else ""))),
        most=SMOKE_ROWS if options.smoke else None,
        device=torch.device(device),
        precision=Precision.named(options.precision),
        talk=talk,
    )


def _show(found: list[dict[str, Any]], named: str, options: Options) -> None:
    from rich.console import Console

    from potstill.report.tables import comparison_table

    kept = ("run", "pair", "name", "dataset", "data", "arm", "views", "teacher", "rows", "drift")
    if options.json:
        tables = [{key: summary[key] for key in kept if key in summary} for summary in found]
        sys.stdout.write(json.dumps(tables[0] if "pair" not in tables[0] else {"run": named, "pairs": tables}) + "\n")
    elif not options.quiet:
        console = Console()
        console = console if console.is_terminal else Console(width=160)
        for summary in found:
            if "pair" in summary:
                console.print(summary["pair"])
            console.print(comparison_table(summary, width=console.width))
