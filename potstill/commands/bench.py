"""`potstill bench` and `potstill train`: a grid of pairs, methods and seeds, or only its teachers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from potstill import bench, catalogue, checkpoint, registry, tune
from potstill.commands import train_texts
from potstill.commands.arguments import SHORT, adapted, flags, split, unknown, value
from potstill.console import Talk
from potstill.data import Data
from potstill.fanout import Cluster, Here, Processes, Workers
from potstill.grid import Grid
from potstill.job import Plan, register
from potstill.loop import Interrupted
from potstill.ranks import start, world_size
from potstill.recipe import Fit
from potstill.report.export import terminal

Off = tyro.conf.FlagCreatePairsOff
WIDE = 160
"""Columns of the tables where stdout is no terminal."""


@dataclass(frozen=True)
class Options:
    """What runs, where, and what of it."""

    out: Path | None = None
    """Folder of the grid; runs/<grid> when left out. Finished cells in it are never run again."""
    jobs: int = 1
    """Cells that run at once, in processes of this machine, one GPU each where there are GPUs."""
    ray: str | None = None
    """Run on a Ray cluster: its address, or "local". All its machines must see the data and --out."""
    pairs: tuple[str, ...] = ()
    """Only these pairs, by name or folder."""
    methods: tuple[str, ...] = ()
    """These methods instead of the grid's."""
    seeds: int | None = None
    """So many repetitions of every method."""
    tune: int | None = None
    """Besides the published settings, a tuned arm of every method: the best of so many trials on held-out training
    images. The test images are read once, at the end."""
    teachers: Path | None = None
    """Where trained teachers are kept and shared between grids; Potstill's cache folder when left out."""
    probe_root: Path | None = None
    """Where the data of the grid's linear probes lies, a folder for each by its name; from the hub when left out."""
    resume: Annotated[bool, Off] = False
    """Nothing more than without: a grid always goes on."""
    smoke: Annotated[bool, Off] = False
    """The grid at its smallest size, to see that everything works."""
    seed: int = 0
    """The first seed."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "auto"
    """auto, float32, float32-channels-last, bf16, bf16-channels-last. auto measures a few steps, once for the grid."""
    quiet: Annotated[bool, Off] = False
    """Say nothing."""
    json: Annotated[bool, Off] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class Bench:
    """Run a grid: pairs × methods × seeds become one table and one report.

    GRID is a Python file with `grid(smoke) -> Grid`, a recipe, or the name of one that ships (potstill list recipes). A
    grid that was stopped goes on with the same command. What is set under data and fit is set in every recipe of it.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    data: Data
    fit: Fit


@dataclass(frozen=True)
class Train(Bench):
    """Train the teachers of a recipe or grid, once, into the folder where bench finds them."""

    register: Path | None = None
    """Weights from elsewhere that stand in for the training of the one teacher: safetensors, or a .pth of tensors."""


def run(arguments: list[str]) -> int:
    """`potstill bench`; returns its exit status, 1 when a job failed."""
    given, grid, plan, workers, talk = _asked(arguments, Bench, "bench")

    def go() -> bench.Outcome:
        whole = grid if given.options.tune is None else tuned(grid, given.options.tune, plan, workers, talk)
        found = bench.run(whole, plan, workers, talk)
        if grid.transfer:
            workers.close()
            device = str(start(given.options.device))
            found.failed |= bench.probe(whole, plan, device, given.options.probe_root, talk)
            bench.written(whole, plan, found)
        return found

    outcome = _driven(go, workers)
    if outcome is None:
        sys.stderr.write("stopped; what is finished is kept: the same command goes on\n")
        return 130
    found = json.loads((plan.out / "summary.json").read_text())
    if given.options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif not given.options.quiet:
        console = Console()
        console = console if console.is_terminal else Console(width=WIDE)
        console.print(terminal(found, console.width))
        console.print(f"report: {plan.out / 'report.html'}", highlight=False, soft_wrap=True)
    return 1 if outcome.failed else 0


def train(arguments: list[str]) -> int:
    """`potstill train`; returns its exit status, 1 when a job failed."""
    named, rest = split(arguments)
    if named is not None and (texts := catalogue.language(named, "--smoke" in rest)) is not None:
        return train_texts.run(adapted(texts, rest), rest, named)
    given, grid, plan, workers, talk = _asked(arguments, Train, "train")
    if given.register is not None:
        workers.close()
        if len(grid.pairs) > 1:
            raise ValueError(f"--register gives one teacher, the grid has {len(grid.pairs)} pairs; choose one: --pairs")
        recipe, device = next(iter(grid.pairs.values())), str(start(given.options.device))
        taken = register(recipe, given.register, plan, device, talk)
        sys.stdout.write(f"{json.dumps(taken) if given.options.json else taken['folder']}\n")
        return 0
    outcome = _driven(lambda: bench.run(grid, plan, workers, talk, only_teachers=True), workers)
    if outcome is None:
        sys.stderr.write("stopped; the same command goes on\n")
        return 130
    cards = {job.pair: card for job, card in outcome.done.items() if job.kind == "teacher"}
    for card in cards.values():
        card["folder"] = str(plan.teachers / card["key"]) if plan.teachers and "key" in card else None
    if given.options.json:
        sys.stdout.write(json.dumps(cards) + "\n")
    elif not given.options.quiet:
        for pair, card in cards.items():
            sys.stdout.write(f"{pair}: {card['model']} {card['top1']:.2f} %, {card['folder']}\n")
    return 1 if outcome.failed else 0


def tuned(grid: Grid, count: int, plan: Plan, workers: Workers, talk: Talk) -> Grid:
    """Run the trials, in a grid of their own beside the pairs, and return the grid with the tuned arms.

    What was chosen lies in `tuning.json`. Raises ValueError where all trials of a method failed.
    """
    place = replace(plan, out=plan.out / "tuning", seed=plan.seed + tune.SEED)
    bench.check(grid, plan, talk)
    bench.run(tune.grid_of_trials(grid, count, plan.seed), place, workers, talk)
    whole, found = tune.with_tuned(grid, json.loads((place.out / "summary.json").read_text()), count)
    checkpoint.write_json(plan.out / "tuning.json", found)
    return whole


def _driven(go: Callable[[], bench.Outcome], workers: Workers) -> bench.Outcome | None:
    try:
        return go()
    except (Interrupted, KeyboardInterrupt):
        return None
    finally:
        workers.close()


def _asked(arguments: list[str], kind: type[Bench], name: str) -> tuple[Any, Grid, Plan, Workers, Talk]:
    named, rest = split(arguments)
    if named is None and not {"-h", "--help"} & set(rest):
        raise ValueError(f"potstill {name} needs a grid or a recipe: a Python file, or a name (potstill list recipes)")
    grid, source = catalogue.grid(named, smoke="--smoke" in rest, root=value(rest, "--data.root"))
    first = next(iter(grid.pairs.values()))
    usual = kind(Options(), first.data, first.fit)
    known = flags(usual.options) | (flags(usual) - flags(usual.options, "--options.")) | set(SHORT) | {"--help"}
    if wrong := unknown(rest, known):
        raise ValueError(wrong.replace("distill", name))
    given = tyro.cli(kind, default=usual, args=rest, prog=f"potstill {name}", config=(tyro.conf.AvoidSubcommands,))
    options = given.options
    grid = _changed(grid.narrowed(options.pairs, options.methods, options.seeds), usual, given)
    device, talk = start(options.device), Talk(quiet=options.quiet)
    if world_size() > 1:
        raise ValueError(f"potstill {name} starts its own processes (--jobs, --ray); it is not for torchrun")
    workers = _workers(options, device)
    out = options.out or Path("runs") / (Path(named).stem if named else "grid")
    plan = Plan(
        out=out.absolute(),
        seed=options.seed,
        precision=options.precision,
        teachers=(options.teachers or (out / "teachers" if options.smoke else registry.default_folder())).absolute(),
        source=source,
        aloud=isinstance(workers, Here) and not options.quiet,
    )
    return given, grid, plan, workers, talk


def _workers(options: Options, device: torch.device) -> Workers:
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {options.jobs}")
    if options.ray is not None:
        return Cluster(options.ray, size=options.jobs if options.jobs > 1 else None)
    if options.jobs == 1:
        return Here(str(device))
    count = torch.cuda.device_count() if device.type == "cuda" and options.device in (None, "cuda") else 0
    return Processes([f"cuda:{n % count}" if count else str(device) for n in range(options.jobs)])


def _changed(grid: Grid, usual: Any, given: Any) -> Grid:
    """The grid with every leaf of data and fit that was set on the command line."""

    def different(name: str) -> dict[str, Any]:
        before, now = asdict(getattr(usual, name)), getattr(given, name)
        return {
            leaf.name: getattr(now, leaf.name) for leaf in fields(now) if before[leaf.name] != getattr(now, leaf.name)
        }

    data, fit = different("data"), different("fit")
    pairs = {
        pair: replace(recipe, data=replace(recipe.data, **data), fit=replace(recipe.fit, **fit))
        for pair, recipe in grid.pairs.items()
    }
    return replace(grid, pairs=pairs)
