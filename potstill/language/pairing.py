"""Teacher and student who may each bring a tokenizer: which these are, what they can teach, the texts in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from potstill.language import tokenizers
from potstill.language.crossing import CrossTokenizer
from potstill.language.encode import Encoded, encode
from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text
from potstill.language.texts import Texts
from potstill.language.vocabulary import common_vocabulary, same_tokenizer
from potstill.methods import Method
from potstill.objectives import GOLD, ULD
from potstill.schemes import SCHEMES

NEW = "new"
"""As a tokenizer: one is trained on the training texts."""
CROSSING = (GOLD, ULD)
"""What compares answers in different tokens."""
WRITTEN_BY_STUDENT = ("on_policy", "gkd", "imitkd")
"""Schemes in which nobody but the student writes, so that the teacher can read it in tokens of its own."""


def tokenizers_of(recipe: LanguageRecipe, ends: bool = True) -> tuple[Any | None, Any | None]:
    """The student's tokenizer, None where one is to be trained, and the teacher's, None where it is the student's.

    `ends`: each must name a token that ends a text. Two that cut texts into the same tokens count as one.

    Raises ValueError for one that is not there, and for two where the student is made from the teacher.
    """
    teacher = recipe.teacher_tokenizer or _own(recipe.teacher, needed=recipe.tokenizer in (None, NEW))
    student = recipe.tokenizer or _own(recipe.student, needed=teacher is None) or teacher
    if student is None or (student == NEW and not recipe.student.derived):
        return None, None if teacher is None else tokenizers.load(teacher, ends=ends)
    if student == NEW:
        raise ValueError("tokenizer=new: a student that is made from the teacher has the teacher's tokenizer")
    mine = tokenizers.load(student, ends=ends)
    if teacher is None or teacher == student:
        return mine, None
    theirs = tokenizers.load(teacher, ends=ends)
    difference = same_tokenizer(mine, theirs)
    if difference is None:
        return mine if recipe.tokenizer else theirs, None
    if recipe.student.derived:
        raise ValueError(
            f"a student that is made from the teacher has the teacher's tokenizer, and {student} is another: "
            f"{difference}; leave tokenizer out"
        )
    return mine, theirs


def check(methods: Sequence[Method], tokenizer: Any, teacher_tokenizer: Any) -> str:
    """The first difference between two tokenizers, once it is sure that these methods can teach across it.

    Raises ValueError for a method that compares tokens one by one, or shows the teacher the student's tokens; it names
    the difference and what there is instead.
    """
    try:
        common_vocabulary(tokenizer, teacher_tokenizer)
    except ValueError as error:
        why = str(error)
    else:
        return ""
    names = {kind: name for name, kind in SCHEMES.items()}
    for method in methods:
        asked = [names[type(scheme)] for scheme in method.schemes if names[type(scheme)] not in WRITTEN_BY_STUDENT]
        if asked:
            raise ValueError(
                f"{method.name}: {' and '.join(asked)} shows the teacher tokens of the student or teaches tokens of "
                f"the teacher; {why}, also on the student's own texts (on_policy+gold, gkd+gold, imitkd+uld)"
            )
        taught = [term for stage in method.stages for term in stage.terms if term.addresses[1] is not None]
        if any(term.kind not in CROSSING for term in taught):
            raise ValueError(f"{method.name}: {why}")
    return str(same_tokenizer(tokenizer, teacher_tokenizer))


def both(
    texts: Texts,
    spec: Text,
    tokenizer: Any,
    teacher_tokenizer: Any,
    context: int | None = None,
    teacher_context: int | None = None,
) -> tuple[Encoded, Encoded]:
    """The same samples in the student's tokens and in the teacher's, prompts in each one's own chat template.

    `spec.max_prompt` and `max_response` count the student's tokens. A sample that is too long for one side and left
    out is left out of both.

    Raises ValueError as `encode` does, for either side.
    """
    end = spec.end if spec.end in teacher_tokenizer.get_vocab() else None
    own = replace(spec, max_prompt=None, max_response=None, end=end)
    theirs = encode(texts.asked_by(teacher_tokenizer), teacher_tokenizer, own, context=teacher_context)
    kept = np.flatnonzero(np.isin(texts.rows, theirs.texts.rows))
    mine = encode(texts.take(kept), tokenizer, spec, context=context)
    if len(mine) < len(theirs):
        some = texts.take(np.flatnonzero(np.isin(texts.rows, mine.texts.rows)))
        theirs = encode(some.asked_by(teacher_tokenizer), teacher_tokenizer, own, context=teacher_context)
    return mine, theirs


def crossed(
    tokenizer: Any, train: Encoded, teacher_tokenizer: Any, teacher_train: Encoded, teacher_context: int | None = None
) -> CrossTokenizer:
    """Who shows the teacher what the student learns on: the samples of `both`, or what is written to their prompts."""
    return CrossTokenizer(
        tokenizer,
        teacher_tokenizer,
        prompts=teacher_train.prompt,
        stop=(train.end,),
        teacher_stop=(teacher_train.end,),
        context=teacher_context,
    )


def _own(spec: LanguageModel, needed: bool) -> str | None:
    """The tokenizer that comes with a network's weights; `needed`: that there is none in its folder is an error."""
    if not spec.taught:
        return None
    files = ("tokenizer.json", "tokenizer_config.json")
    there = spec.folder is None or any((spec.folder / file).is_file() for file in files)
    return str(spec.name) if there or needed else None
