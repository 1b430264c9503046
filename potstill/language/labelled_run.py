"""Run a recipe on labelled texts: a teacher, then every method from the same seeds, one table."""

from __future__ import annotations

from typing import Any

from potstill.compare import check_methods, completed
from potstill.comparison import Options
from potstill.idle import unused
from potstill.language import tokenizers, word_pieces
from potstill.language.comparison import TextComparison
from potstill.language.labelled import Labelled
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.labelled_setting import LabelledSetting
from potstill.language.labelled_texts import keys, load
from potstill.language.run import context_of
from potstill.language.scored import for_scores
from potstill.methods import Method, parse
from potstill.precision import Precision


def run(recipe: LabelledRecipe, options: Options) -> dict[str, Any]:
    """Train everything of a recipe that is not trained yet; returns the summary that it also writes.

    Raises ValueError for whatever is wrong with the recipe, the data, the networks or the output folder. Before the
    first step that leaves nothing behind.
    """
    methods = checked(recipe, options)
    # What a method is depends on whether labels are classes, so texts are read before the run begins.
    texts = load(recipe.data, quiet=options.talk.quiet)
    if not texts[0].names:
        methods = [for_scores(method) for method in methods]
    return completed(recipe, methods, options, lambda recipe, options: opened(recipe, options, *texts), TextComparison)


def checked(recipe: LabelledRecipe, options: Options) -> list[Method]:
    """The methods of a recipe whose mistakes were looked for, as far as they can be told before any data is read."""
    methods = [parse(text) for text in recipe.methods]
    check_methods(methods, "student kd mixkd")
    if recipe.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {recipe.seeds}")
    if recipe.teacher.derived:
        raise ValueError("teacher.name: only a student can be made from the teacher; name an architecture or a folder")
    if options.precision != "auto" and Precision.named(options.precision).compiled:
        raise ValueError(f"precision {options.precision!r} compiles networks, which texts of many lengths make slow")
    for role in ("teacher", "student"):
        if (context := context_of(getattr(recipe, role))) < recipe.data.max_length:
            raise ValueError(
                f"data.max_length is {recipe.data.max_length} tokens, and the {role} reads {context}; lower it, or "
                f"raise {role}.context"
            )
    notes = unused(recipe.fit, "fit")
    if not recipe.data.copies:
        usual = type(recipe.data)
        idle = [name for name in ("deletion", "swap") if getattr(recipe.data, name) != getattr(usual, name)]
        notes += [f"data.{name} has no effect: data.copies is 0" for name in idle]
    for note in notes:
        options.talk.warn(note)
    return methods


def opened(
    recipe: LabelledRecipe, options: Options, train: Labelled, valid: Labelled, notes: list[str]
) -> LabelledSetting:
    """The recipe with its texts read and its tokenizer."""
    talk = options.talk
    named = recipe.tokenizer or next((str(one.name) for one in (recipe.teacher, recipe.student) if one.taught), None)
    if named is not None:
        tokenizer = tokenizers.load(named, ends=False)
    elif recipe.pieces == "wordpiece":
        tokenizer = word_pieces.train(keys(train), recipe.vocabulary)
    else:
        tokenizer = tokenizers.train(keys(train), recipe.vocabulary)
    setting = LabelledSetting(recipe, options.device, tokenizer, train, valid, notes, tokenizers.fingerprint(tokenizer))
    if named is None:
        kind = "WordPiece" if recipe.pieces == "wordpiece" else "byte-level BPE"
        talk.say(f"tokenizer: {len(tokenizer):,} tokens, {kind} trained on the training texts")
    shown = f"classes {', '.join(setting.classes)}" if train.names else "scores"
    talk.say(f"data: {recipe.data.title}, {len(train):,} training and {len(valid):,} validation texts, {shown}")
    if recipe.data.share != 1 or recipe.data.copies:
        held, copies = len(train.part(recipe.data.share)), recipe.data.copies
        more = f", and {copies} edited of each" if copies else ""
        notes.append(f"students see {held:,} of the {len(train):,} training texts{more}; the teacher all")
    for note in notes:
        talk.say(f"  {note}")
    if recipe.teacher_fit is not None and setting.taught(recipe.teacher):
        talk.warn("teacher_fit has no effect: the teacher has weights and is not trained")
    return setting
