"""`potstill cache`: what the recipe's teacher says, written once, for any number of students."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from potstill import catalogue
from potstill.cache import DTYPES, About
from potstill.caching import filled, needed, rows_at_once
from potstill.commands import cache_texts
from potstill.commands.arguments import SHORT, adapted, flags, split, unknown, value
from potstill.console import Talk
from potstill.data import load
from potstill.errors import did_you_mean
from potstill.methods import Method, parse
from potstill.models import check_name
from potstill.precision import Precision
from potstill.ranks import usable
from potstill.recipe import Recipe
from potstill.setting import Setting
from potstill.shares import Share, start, write_share
from potstill.tasks.classify import Classify
from potstill.teachers import examine
from potstill.unlabelled import check_unlabelled


@dataclass(frozen=True)
class Options:
    """What is stored, and where."""

    out: Path | None = None
    """Folder of the cache. One that was begun is finished, one that is finished may be given more views."""
    views: int | None = None
    """Augmented views of each training image; as many as the recipe has epochs when left out."""
    dtype: str | None = None
    """How numbers are stored: float32 or bf16; as they were computed when left out."""
    top_k: int | None = None
    """Store only so many of the largest logits, and the mass of the others at the method's temperature (kd only)."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing more than without: finished shards are always kept."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size."""
    jobs: int = 1
    """Processes that write at once, on one GPU after the other; under torchrun its own processes share the work."""
    seed: int = 0
    """Seed of the throw-away students that show which taps the methods read."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "float32"
    """How the teacher computes: float32, float32-channels-last, bf16, bf16-channels-last."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class Cache:
    """Write what the recipe's teacher says about every view of every training image: its answer, and the taps that the
    recipe's methods read. Then teach from it: potstill distill RECIPE --teacher.cache DIR.

    The teacher must have weights (--teacher.checkpoint). Every value of the recipe can be set below.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


def run(arguments: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with recipe, data or folder."""
    named, rest = split(arguments)
    recipe, _ = catalogue.recipe(named, smoke="--smoke" in rest, root=value(rest, "--data.root"))
    recipe = adapted(recipe, rest)
    if not isinstance(recipe, Recipe):
        return cache_texts.run(recipe, rest)
    if wrong := unknown(rest, flags(Options()) | flags(recipe) | set(SHORT) | {"--help"}):
        sys.stderr.write(f"error: {wrong}\n")
        return 2
    given = tyro.cli(
        Cache,
        default=Cache(Options(), recipe),
        args=rest,
        prog="potstill cache",
        config=(tyro.conf.AvoidSubcommands,),
    )
    options, share = given.options, Share.first(given.options.jobs)
    talk = Talk(quiet=options.quiet or share.number > 0)
    if options.out is None:
        raise ValueError("potstill cache needs --out DIR: the folder to write into")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
            about = fill(given.recipe, options.out, options, talk, share)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what is finished is kept: the same command goes on\n")
        return 130
    if share.number:
        return 0
    size = sum(path.stat().st_size for path in options.out.rglob("*.safetensors"))
    found = {"cache": str(options.out), "views": about.views, "samples": about.samples, "taps": list(about.taps)}
    if options.json:
        sys.stdout.write(json.dumps({**found, "bytes": size}) + "\n")
    elif not options.quiet:
        what = ", ".join(("output", *about.taps))
        sys.stdout.write(
            f"{options.out}: {about.views} view(s) of {about.samples:,} images ({what}), {size / 2**20:.1f} MiB\n"
        )
    return 0


def fill(recipe: Recipe, folder: Path, options: Options, talk: Talk, share: Share) -> About:
    """Look at the recipe, find out what must be stored, and store this process's share of what is not there yet."""
    setting = _setting(recipe, options, talk, share)
    methods, precision = _methods(recipe), Precision.named(options.precision)
    spec, data = setting.recipe.teacher, setting.recipe.data
    teacher = setting.teacher(setting.network(spec, "teacher", options.seed), precision)
    examples = setting.examples(recipe.fit, options.seed)
    taps, temperature = needed(
        [method for method in methods if method.needs_teacher],
        lambda method: setting.student(method, options.seed, teacher),
        teacher,
        lambda fit: setting.examples(fit, options.seed),
        recipe.fit,
        setting.preprocess(setting.recipe.student),
        options.top_k,
        precision=precision,
        **setting.others(options.seed, precision),
    )
    if share.number == 0:
        examine(teacher, Classify(), examples.held, setting.classes, talk)
    about = About(
        teacher=teacher.fingerprint,
        precision=precision.name,
        data=setting.train.digest,
        samples=len(setting.train),
        augment=data.augment,
        data_seed=data.data_seed,
        batch_size=rows_at_once(recipe.fit, examples.info.batch_size),
        names=tuple(sorted(teacher.names)),
        taps=taps,
        dtype=options.dtype,
        top_k=options.top_k,
        temperature=temperature,
        views=data.views or 1,
    )

    def others():
        helping = share.number == 0 and options.jobs > 1
        return start(_help, recipe, folder, options, jobs=options.jobs) if helping else []

    return filled(talk, partial(write_share, helpers=others), teacher, setting.train, folder, about, share)


def _help(recipe: Recipe, folder: Path, options: Options, share: Share) -> None:
    """What a process that `--jobs` started does."""
    fill(recipe, folder, options, Talk(quiet=True), share)


def _setting(recipe: Recipe, options: Options, talk: Talk, share: Share) -> Setting:
    check_name(recipe.teacher.name)
    if options.dtype is not None and options.dtype not in DTYPES:
        raise ValueError(f"--dtype {options.dtype!r} is unknown; {did_you_mean(options.dtype, DTYPES)}")
    for flag, count in (("--top-k", options.top_k), ("--views", options.views), ("--jobs", options.jobs)):
        if count is not None and count < 1:
            raise ValueError(f"{flag} must be at least 1, got {count}")
    if not recipe.teacher.taught:
        raise ValueError(
            f"the teacher {recipe.teacher.name!r} has no weights; give them with --teacher.checkpoint FILE (a run of "
            "potstill distill leaves its teacher's in teacher/student.safetensors)"
        )
    usual = 1 if recipe.data.augment == "none" else recipe.fit.epochs
    views = options.views or recipe.data.views or usual
    recipe = replace(recipe, data=replace(recipe.data, views=views), teacher=replace(recipe.teacher, cache=None))
    check_unlabelled(recipe, [method for method in _methods(recipe) if method.needs_teacher])
    device = usable(share.device(options.device))
    train, valid = (images.to(device) for images in load(recipe.data, quiet=talk.quiet))
    talk.say(f"data: {train.name}, {len(train):,} training images, {views} view(s) of each")
    return Setting(recipe, device, train, valid)


def _methods(recipe: Recipe) -> list[Method]:
    methods = [parse(text) for text in recipe.methods]
    if not any(method.needs_teacher for method in methods):
        raise ValueError(f"no method listens to the teacher: {', '.join(recipe.methods)}; give --methods")
    return methods
