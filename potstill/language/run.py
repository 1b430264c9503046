"""Run a language recipe: a teacher, then every method from the same seeds, one table."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from potstill import registry, runs
from potstill.assistants import teach
from potstill.compare import check_methods, completed
from potstill.comparison import Options
from potstill.idle import unused
from potstill.language import models, pairing, texts, tokenizers
from potstill.language.comparison import TextComparison
from potstill.language.encode import Encoded, encode
from potstill.language.generation import Ends
from potstill.language.judge import Judge
from potstill.language.models import LanguageModel
from potstill.language.networks import configuration
from potstill.language.recipe import LanguageRecipe
from potstill.language.scores import MEASURES
from potstill.language.setting import TextSetting
from potstill.language.spec import Text
from potstill.language.stores import read_about
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.precision import Precision
from potstill.together import Trainee

COMPUTED = ("loss", "perplexity")
"""Measures that need no text of the network's own."""


def run(recipe: LanguageRecipe, options: Options) -> dict[str, Any]:
    """Train everything of a recipe that is not trained yet; returns the summary that it also writes.

    Raises ValueError for whatever is wrong with the recipe, the data, the networks or the output folder. Before the
    first step that leaves nothing behind.
    """
    return completed(*checked(recipe, options), options, opened, TextComparison)


def teacher(recipe: LanguageRecipe, options: Options) -> dict[str, Any]:
    """Train only the teacher, into a folder of `options.out` that is named after all it depends on, if it is not there.

    Returns its `model`, the `folder` that transformers loads, its `scores` and the `seconds` that it took. One that was
    stopped goes on.

    Raises ValueError as `run` does, and for a teacher that has weights.
    """
    recipe, _ = checked(recipe, options)
    spec: Any = recipe.teacher
    seed = options.seed
    if spec.taught:
        raise ValueError(
            f"the teacher {spec.name} has weights: there is nothing to train; to fine-tune it, make it the student: "
            f"potstill distill RECIPE --student.name {spec.name} --methods {LONE_STUDENT}"
        )
    alone = parse(LONE_STUDENT)
    setting: Any = opened(recipe, options)
    place = options.out / registry.key(setting, seed)
    pupil = Trainee(spec, alone, recipe.training_of(), seed, place)
    pupil.module = setting.network(spec, "teacher", seed)
    # Under another student's name: the fastest precision is that of the network that trains.
    like = replace(setting, recipe=replace(recipe, student=spec))
    precision, why = runs.settle_precision(None, options.precision, lambda: like.measure([alone], seed))
    options.talk.say(f"precision: {why}")
    own = replace(options, out=place, teachers=None, resume=True)
    with registry.locked(place), options.talk.bars(1) as begin:
        teach(TextComparison(setting, own, [alone], precision, begin), pupil, place.name, "teacher")
    kept = json.loads((place / registry.RESULT).read_text())
    found = {"model": spec.name, "folder": str(place / registry.MODEL)}
    return {**found, "scores": kept["scores"], "seconds": kept["seconds"]}


def checked(recipe: LanguageRecipe, options: Options) -> tuple[LanguageRecipe, list[Method]]:
    """A recipe whose mistakes were looked for, as far as they can be told before any data is read, and its methods."""
    methods = [parse(text) for text in recipe.methods]
    check_methods(methods, "student forward_kl skd")
    if recipe.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {recipe.seeds}")
    if recipe.teacher.derived:
        raise ValueError("teacher.name: only a student can be made from the teacher; name an architecture or a folder")
    _check_cache(recipe)
    if options.precision != "auto" and Precision.named(options.precision).compiled:
        raise ValueError(f"precision {options.precision!r} compiles networks, which texts of many lengths make slow")
    notes = unused(recipe.fit, "fit")
    if recipe.tokens is not None and recipe.fit.batch_size != LanguageRecipe().fit.batch_size:
        notes.append("fit.batch_size has no effect: tokens says how large batches are")
    if recipe.teacher_fit is not None and recipe.teacher.taught:
        notes.append("teacher_fit has no effect: the teacher has weights and is not trained")
    for note in notes:
        options.talk.warn(note)
    return recipe, methods


def _check_cache(recipe: LanguageRecipe) -> None:
    if recipe.student.cache is not None:
        raise ValueError("student.cache: the student is trained, so it cannot be cached; set teacher.cache")
    folder = recipe.teacher.cache
    if folder is not None and read_about(folder).served is None and not recipe.teacher.taught:
        raise ValueError(
            f"teacher.cache: the teacher {recipe.teacher.name!r} has no weights that the cache could be checked "
            "against; name the folder of those that it was written from, e.g. --teacher ./RUN/teacher/model"
        )


def opened(recipe: LanguageRecipe, options: Options) -> TextSetting:
    """The recipe with its texts as tokens, and the cache of its teacher, if it has one."""
    talk, spec = options.talk, recipe.data.settled()
    tokenizer, theirs = pairing.tokenizers_of(recipe, ends=spec.end is None)
    train, valid = texts.load(spec, tokenizer, quiet=talk.quiet)
    if tokenizer is None:
        tokenizer = tokenizers.train(
            [*train.prompts, *(train.responses or [])], recipe.vocabulary, digits="exact" in spec.measures
        )
        talk.say(f"tokenizer: {len(tokenizer):,} tokens, byte-level BPE trained on the training texts")
    reads, context = context_of(recipe.teacher), context_of(recipe.student)
    if theirs is None:
        reads = context = min(reads, context)
        sides = [encode(one, tokenizer, spec, context=context) for one in (train, valid)]
    else:
        difference = pairing.check([parse(text) for text in recipe.methods], tokenizer, theirs)
        both = [pairing.both(one, spec, tokenizer, theirs, context, reads) for one in (train, valid)]
        sides = [one for one, _ in both]
    if not sides[1].answered:
        raise ValueError(
            f"{spec.name}: the texts to validate on have prompts only, so that nothing tells how good a student is; "
            "give them responses (a validation file beside the training file), and put further prompts in data.extra"
        )
    talk.say(f"data: {spec.name}, {len(train):,} training and {len(valid):,} validation texts")
    notes = [note for side in sides for note in side.notes]
    for note in notes:
        talk.say(f"  {note}")
    mine = _setting(recipe, options, tokenizer, sides, context, notes)
    if theirs is None:
        return _cached(mine, options)
    if recipe.teacher.cache is not None:
        raise ValueError(
            f"teacher.cache: teacher and student have two tokenizers ({difference}), and a cache says what the teacher "
            "said of its own tokens; leave it out"
        )
    other = _setting(recipe, options, theirs, [one for _, one in both], reads, [])
    notes.append(f"two tokenizers: {difference}; the teacher's loss and next token % are of its own tokens")
    talk.say(f"  {notes[-1]}")
    return replace(mine, other=other, crossing=pairing.crossed(tokenizer, sides[0], theirs, other.train, reads))


def _setting(
    recipe: LanguageRecipe, options: Options, tokenizer: Any, sides: list[Encoded], context: int, notes: list[str]
) -> TextSetting:
    """Texts in the tokens of one tokenizer."""
    ends = Ends((sides[0].end,), sides[0].pad)
    longest = min(int(sides[0].responses.max()) or context // 2, context - int(sides[0].prompts.max()))
    judge = _judge(recipe, recipe.data.settled(), sides[1], tokenizer, ends, longest)
    fingerprint = tokenizers.fingerprint(tokenizer)
    return TextSetting(recipe, options.device, tokenizer, sides[0], sides[1], ends, longest, judge, notes, fingerprint)


def _cached(setting: TextSetting, options: Options) -> TextSetting:
    setting = setting.with_cache(options.seed)
    if (cached := setting.cached) is not None:
        about = cached.about
        what = f"the {about.k} most probable tokens" if about.kind == "top-k" else "hidden states"
        said = f"{what} of {about.tokens:,} response tokens"
        options.talk.say(f"teacher: students learn from the cache {cached.folder}, {said}")
    return setting


def context_of(spec: LanguageModel) -> int:
    """How many tokens a network reads."""
    if spec.derived:
        return spec.context or sys.maxsize
    if not spec.stored:
        return spec.context or models.CONTEXT
    config = configuration(spec).get_text_config()
    return getattr(config, "max_position_embeddings", None) or sys.maxsize


def _judge(
    recipe: LanguageRecipe, spec: Text, valid: Encoded, tokenizer: Any, ends: Ends, longest: int
) -> Judge | None:
    names = [name for name in spec.measures if name not in COMPUTED]
    if not names or not recipe.judged:
        return None
    rows = range(min(recipe.judged, len(valid)))
    return Judge(
        tokenizer,
        [valid.prompt(row) for row in rows],
        valid.texts.prompts[: len(rows)],
        valid.texts.references[: len(rows)],
        {name: MEASURES[name] for name in names},
        ends,
        longest,
        spec.stop or (),
    )
