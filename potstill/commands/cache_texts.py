"""`potstill cache` of a language recipe: what its teacher says of the response tokens of all training texts."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from potstill import comparison
from potstill.commands.arguments import SHORT, flags, unknown
from potstill.console import Talk
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import checked, opened
from potstill.language.served import Dialect, Served
from potstill.language.setting import TextSetting
from potstill.language.signals import Signals, capture
from potstill.language.stores import About
from potstill.precision import Precision
from potstill.ranks import usable
from potstill.shares import Share
from potstill.types import Source

KEY = "OPENAI_API_KEY"
"""Environment variable that holds the key of a server that wants one."""


@dataclass(frozen=True)
class Options:
    """What is stored, and where."""

    out: Path | None = None
    """Folder of the cache. One that was begun is finished."""
    top_k: int | None = None
    """Keep so many of the most probable tokens of every position, and the mass of all others."""
    hidden: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep hidden states and the last layer: exact logits of the whole vocabulary, at any temperature."""
    temperature: float = 1.0
    """Of the log-probabilities (top-k only): that of the losses which will read them."""
    dtype: str | None = None
    """How numbers are stored: float32, float16 or bfloat16. Left out: float32, and hidden states as computed."""
    at_once: int = 8192
    """Most tokens that run at once, padding included."""
    served: str | None = None
    """Ask a server with OpenAI's completions API instead of the recipe's teacher, e.g. http://localhost:8000/v1 (vLLM,
    started with --max-logprobs K). A key is read from OPENAI_API_KEY."""
    served_model: str | None = None
    """Which of the server's models; its only one when left out."""
    served_dialect: Dialect = "vllm"
    """How it is asked: vllm (prompt_logprobs), or openai (echo and logprobs)."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing more than without: finished parts are always kept."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The recipe at its smallest size."""
    device: str | None = None
    """cpu, cuda or cuda:N; the GPU when there is one."""
    precision: str = "float32"
    """How the teacher computes: float32 or bf16."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True)
class CacheText:
    """Write what the recipe's teacher says of every response token of the training texts: its most probable tokens
    (--top-k K) or its hidden states (--hidden). Then teach from it: potstill distill RECIPE --teacher.cache DIR.

    The teacher must have weights (--teacher ./RUN/teacher/model), or be served. Every value of the recipe can be set
    below.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    recipe: Annotated[LanguageRecipe, tyro.conf.arg(name="")]


def run(recipe: LanguageRecipe, rest: list[str]) -> int:
    """The command; returns its exit status. Raises ValueError for whatever is wrong with recipe, data or folder."""
    if wrong := unknown(rest, flags(Options()) | flags(recipe) | set(SHORT) | {"--help"}):
        sys.stderr.write(f"error: {wrong}\n")
        return 2
    given = tyro.cli(
        CacheText,
        default=CacheText(Options(), recipe),
        args=rest,
        prog="potstill cache",
        config=(tyro.conf.AvoidSubcommands,),
    )
    options, talk = given.options, Talk(quiet=given.options.quiet)
    if options.out is None:
        raise ValueError("potstill cache needs --out DIR: the folder to write into")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: talk.warn(str(message))  # ty: ignore[invalid-assignment]
            about = fill(given.recipe, options.out, options, talk)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what is finished is kept: the same command goes on\n")
        return 130
    size = sum(path.stat().st_size for path in options.out.rglob("*.safetensors"))
    found = {"cache": str(options.out), "kind": about.kind, "texts": about.samples, "tokens": about.tokens}
    if options.json:
        sys.stdout.write(json.dumps({**found, "bytes": size}) + "\n")
    elif not options.quiet:
        what = f"the {about.k} most probable tokens" if about.kind == "top-k" else f"{about.width} hidden numbers"
        sys.stdout.write(
            f"{options.out}: {what} of each of {about.tokens:,} response tokens ({about.samples:,} texts), "
            f"{size / 2**20:.1f} MiB\n"
        )
    return 0


def fill(recipe: LanguageRecipe, folder: Path, options: Options, talk: Talk) -> About:
    """Store of the recipe's training texts what is not there yet."""
    if options.hidden == (options.top_k is not None):
        raise ValueError("say what is kept: --top-k K (the most probable tokens), or --hidden (hidden states)")
    if options.hidden and options.temperature != 1:
        raise ValueError("--temperature has no effect on hidden states, of which logits at any temperature are made")
    precision = Precision.named(options.precision)
    signals = Signals(options.top_k, options.temperature, options.dtype, options.at_once)
    _check_teacher(recipe, options)
    recipe = replace(recipe, teacher=replace(recipe.teacher, cache=None))
    asked = comparison.Options(folder, usable(Share().device(options.device)), talk, precision=options.precision)
    setting = opened(checked(recipe, asked)[0], asked)
    source = _served(setting, options) if options.served else _live(setting, options, precision)
    with talk.counted("texts", len(setting.train)) as on_texts:
        return capture(
            source,
            setting.task,
            setting.train,
            folder,
            signals,
            tokenizer=setting.fingerprint,
            device=setting.device,
            on_texts=on_texts,
        )


def _check_teacher(recipe: LanguageRecipe, options: Options) -> None:
    if options.served is None:
        for flag, set_ in (("--served-model", options.served_model), ("--served-dialect", options.served_dialect)):
            if set_ not in (None, "vllm"):
                raise ValueError(f"{flag} has no effect without --served, the server's address")
        if not recipe.teacher.taught:
            raise ValueError(
                f"the teacher {recipe.teacher.name!r} has no weights; name a folder of transformers that has, e.g. "
                "--teacher ./RUN/teacher/model (potstill distill leaves its teacher there)"
            )
        return
    if options.top_k is None or options.temperature != 1:
        raise ValueError("a server names its most probable tokens at temperature 1: --top-k K without --temperature")
    if recipe.tokenizer is None and not recipe.teacher.taught:
        raise ValueError("--served: which tokens does the model have? Name its tokenizer, --tokenizer NAME_OR_FOLDER")


def _live(setting: TextSetting, options: Options, precision: Precision) -> Source:
    return setting.teacher(setting.network(setting.recipe.teacher, "teacher", 0), precision)


def _served(setting: TextSetting, options: Options) -> Source:
    assert options.served is not None
    assert options.top_k is not None
    return Served(
        options.served,
        options.served_model,
        options.top_k,
        vocabulary=len(setting.tokenizer),
        dialect=options.served_dialect,
        tokenizer=setting.tokenizer if options.served_dialect == "openai" else None,
        key=os.environ.get(KEY),
    )
