"""What `distill_text` learns from: networks and texts that are there already, perhaps of two tokenizers."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from potstill.cell import assemble
from potstill.errors import did_you_mean
from potstill.examples import Examples, source
from potstill.language import texts, tokenizers, vocabulary
from potstill.language.crossing import TEACHER, CrossTokenizer
from potstill.language.encode import Encoded, encode
from potstill.language.generation import Ends
from potstill.language.known import MESSAGES, RESPONSES
from potstill.language.reading import context
from potstill.language.recipe import LanguageRecipe
from potstill.language.setting import TextSetting
from potstill.language.spec import NONE, Text
from potstill.language.tables import MISSING, Table, kind_of, one_file
from potstill.methods import Method
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.schemes.seqkd import SeqKD
from potstill.schemes.skd import SKD
from potstill.sources import Network
from potstill.tasks.language import Language
from potstill.types import MAIN, Batch, Progress, Source

NAME = "your data"


@dataclass(frozen=True)
class Given(TextSetting):
    """A setting of networks and texts that are there already, perhaps of two tokenizers."""

    crossing: CrossTokenizer | None = None

    @property
    def learnt(self) -> Language:
        """The kind of example that the student learns from."""
        if self.crossing is None:
            return self.task
        crossed = Language(self.crossing, lazy=False, vocabulary=self.crossing.vocabulary)
        crossed.ends, crossed.longest, crossed.tokenizer = self.ends, self.longest, self.tokenizer
        return crossed

    def lessons_of(self, fit: Fit, seed: int, evaluated: bool) -> Examples:
        """Loader, and validation data if there is some."""
        found = replace(self.examples(fit, seed), task=self.learnt)
        if self.crossing is not None:
            found = replace(found, info=self.crossing.info(found.info))
        return found if evaluated else replace(found, valid=None)

    def check_plan(self, plan: Method, student: nn.Module, teacher: Source, examples: Examples, fit: Fit) -> None:
        """Raises ValueError for a method that does not fit the data, on a throw-away copy of the student."""
        for stage in plan.stages:
            heard = teacher if plan.needs_teacher else None
            engine = assemble(copy.deepcopy(student), heard, plan, examples, fit, stage=stage)
            self.check_answered(plan, engine)

    def guide(self, teacher: nn.Module, examples: Examples, precision: Precision) -> Network:
        """The teacher as a source, probed on texts in its own tokens."""
        if self.crossing is None:
            return self.teacher(teacher, precision)
        made = self.crossing(examples.probe, {}, Progress(0, 0, 1), 0).views[TEACHER]
        task = Language(lazy=False, vocabulary=self.crossing.vocabulary[TEACHER])
        return source(teacher, Batch({MAIN: made}), trained=False, preprocess=None, precision=precision, task=task)


def given(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    valid: Any,
    plan: Method,
    fit: Fit,
    tokenizer: Any,
    teacher_tokenizer: Any,
    device: torch.device,
) -> Given:
    """The setting of two networks and texts in any form. Raises ValueError where they do not fit each other."""
    tokenizer = tokenizers.checked(tokenizer)
    crossing = _crossing(plan, tokenizer, teacher_tokenizer)
    sides = {"student": (student, tokenizer), "teacher": (teacher, teacher_tokenizer if crossing else tokenizer)}
    for role, (module, own) in sides.items():
        rows, tokens = module.get_input_embeddings().num_embeddings, vocabulary.real(own)  # ty: ignore[not-callable]
        if rows < tokens:
            raise ValueError(f"the {role} knows {rows:,} tokens, and its tokenizer has {tokens:,}: it is another one's")
    limit = min(context(module) or sys.maxsize for module in ((student,) if crossing else (student, teacher)))
    train = _encoded(data, tokenizer, "train", limit)
    held = train if valid is None else _encoded(valid, tokenizer, "valid", limit)
    if not held.answered and valid is not None:
        raise ValueError("valid has prompts only, so that nothing tells how good the student is; give it responses")
    recipe = LanguageRecipe(data=Text(NAME, Path(NAME)), fit=fit)
    longest = min(int(train.responses.max()) or limit // 2, limit - int(train.prompts.max()))
    notes = [*train.notes, *(held.notes if valid is not None else ())]
    ends, known = Ends((train.end,), train.pad), tokenizers.fingerprint(tokenizer)
    return Given(recipe, device, tokenizer, train, held, ends, longest, None, notes, known, crossing=crossing)


def _crossing(plan: Method, tokenizer: Any, teacher_tokenizer: Any) -> CrossTokenizer | None:
    """None for one vocabulary."""
    if teacher_tokenizer is None or vocabulary.same_tokenizer(tokenizer, teacher_tokenizer) is None:
        return None
    sides = [term.addresses[1] for stage in plan.stages for term in stage.terms]
    compares = any(side is not None and side.source == "teacher" and side.view != TEACHER for side in sides)
    if compares or any(isinstance(scheme, SKD | SeqKD) for scheme in plan.schemes):
        vocabulary.common_vocabulary(tokenizer, teacher_tokenizer)
    return CrossTokenizer(tokenizer, tokenizers.checked(teacher_tokenizer, "the teacher's tokenizer"))


def _encoded(data: Any, tokenizer: Any, split: str, limit: int) -> Encoded:
    table = _table(data, split)
    answered = MESSAGES in table.names or any(name in table.names for name in RESPONSES)
    spec = Text(NAME, Path(NAME), response=None if answered else NONE)
    return encode(texts.of_table(spec, table, split, tokenizer), tokenizer, spec, context=limit)


def _table(data: Any, split: str) -> Table:
    """Columns of a file, of a `datasets.Dataset`, or of a list of dictionaries."""
    if isinstance(data, str | Path):
        return one_file(Path(data).expanduser())
    start = np.zeros(1, np.int64)
    if hasattr(data, "column_names"):
        if not isinstance(data.column_names, list):
            raise ValueError(
                f"{split} data holds several splits; give one of them: {did_you_mean(split, data.column_names)}"
            )
        return Table(tuple(data.column_names), lambda name: list(data[name]), (f"{split} data",), start, len(data))
    if not isinstance(data, list | tuple):
        raise ValueError(
            f"data is a {type(data).__name__}; expected the path of a .jsonl or .parquet file, a datasets.Dataset, or "
            'a list of {"prompt": …, "response": …} or {"messages": […]}'
        )
    for number, row in enumerate(data):
        if not isinstance(row, dict):
            raise ValueError(f"{split} data, row {number}: {kind_of(row)} where a dictionary was expected")
    if not data:
        raise ValueError(f"{split} data is empty")
    names = tuple(dict.fromkeys(name for row in data for name in row))
    return Table(names, lambda name: [row.get(name, MISSING) for row in data], (f"{split} data",), start, len(data))
