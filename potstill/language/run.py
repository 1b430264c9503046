"""Run a language recipe: a teacher, then every method from the same seeds, one table."""

from __future__ import annotations

import sys
from typing import Any

from potstill.compare import check_methods, completed
from potstill.comparison import Options
from potstill.idle import unused
from potstill.language import models, texts, tokenizers
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
from potstill.methods import Method, parse
from potstill.precision import Precision

COMPUTED = ("loss", "perplexity")
"""Measures that need no text of the network's own."""


def run(recipe: LanguageRecipe, options: Options) -> dict[str, Any]:
    """Train everything of a recipe that is not trained yet; returns the summary that it also writes.

    Raises ValueError for whatever is wrong with the recipe, the data, the networks or the output folder. Before the
    first step that leaves nothing behind.
    """
    return completed(*checked(recipe, options), options, opened, TextComparison)


def checked(recipe: LanguageRecipe, options: Options) -> tuple[LanguageRecipe, list[Method]]:
    """A recipe whose mistakes were looked for, as far as they can be told before any data is read, and its methods."""
    methods = [parse(text) for text in recipe.methods]
    check_methods(methods, "student forward_kl skd")
    if recipe.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {recipe.seeds}")
    if recipe.teacher.derived:
        raise ValueError("teacher.name: only a student can be made from the teacher; name an architecture or a folder")
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


def opened(recipe: LanguageRecipe, options: Options) -> TextSetting:
    """The recipe with its texts as tokens."""
    talk, spec = options.talk, recipe.data.settled()
    named = recipe.tokenizer or next((str(one.name) for one in (recipe.teacher, recipe.student) if one.taught), None)
    tokenizer = None if named is None else tokenizers.load(named, ends=spec.end is None)
    train, valid = texts.load(spec, tokenizer, quiet=talk.quiet)
    if tokenizer is None:
        tokenizer = tokenizers.train(
            [*train.prompts, *(train.responses or [])], recipe.vocabulary, digits="exact" in spec.measures
        )
        talk.say(f"tokenizer: {len(tokenizer):,} tokens, byte-level BPE trained on the training texts")
    context = min(context_of(one) for one in (recipe.teacher, recipe.student))
    sides = [encode(one, tokenizer, spec, context=context) for one in (train, valid)]
    if not sides[1].answered:
        raise ValueError(
            f"{spec.name}: the texts to validate on have prompts only, so that nothing tells how good a student is; "
            "give them responses (a validation file beside the training file), and put further prompts in data.extra"
        )
    talk.say(f"data: {spec.name}, {len(train):,} training and {len(valid):,} validation texts")
    notes = [note for side in sides for note in side.notes]
    for note in notes:
        talk.say(f"  {note}")
    ends = Ends((sides[0].end,), sides[0].pad)
    longest = min(int(sides[0].responses.max()) or context // 2, context - int(sides[0].prompts.max()))
    judge = _judge(recipe, spec, sides[1], tokenizer, ends, longest)
    fingerprint = tokenizers.fingerprint(tokenizer)
    return TextSetting(recipe, options.device, tokenizer, sides[0], sides[1], ends, longest, judge, notes, fingerprint)


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
