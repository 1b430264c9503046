"""From a `Text` to strings: prompts, responses and references of one split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from potstill.language.rows import templated, written
from potstill.language.spec import Text
from potstill.language.tables import Table, held_out, one_file, one_split, splits, validation


@dataclass(frozen=True, eq=False)
class Texts:
    """One split as strings.

    `responses` is None where there are prompts only; what an example is scored against are its `references`, one or
    several. `where(rows[i])` says where example i stands in the data; `notes` are sentences that a user should see.
    """

    prompts: list[str] = field(repr=False)
    responses: list[str] | None = field(repr=False)
    references: list[list[str]] = field(repr=False)
    name: str
    split: str
    rows: np.ndarray = field(repr=False)
    where: Callable[[int], str] = field(repr=False)
    notes: tuple[str, ...] = ()
    render: Callable[[Any], list[str]] | None = field(default=None, repr=False)
    """Prompts of all rows of the data as a tokenizer's chat template writes them; None where none was asked."""

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def digest(self) -> str:
        """A hash of the strings themselves, whatever files they came from."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.prompts, self.responses, self.references):
            digest.update(json.dumps(part).encode())
        return digest.hexdigest()

    def place(self, index: int | np.integer) -> str:
        """Where an example stands in the data, in words."""
        return self.where(int(self.rows[index]))

    def asked_by(self, tokenizer: Any) -> Texts:
        """The same examples, their prompts in this tokenizer's chat template where they are in another's."""
        if self.render is None:
            return self
        prompts = self.render(tokenizer)
        return replace(self, prompts=[prompts[row] for row in self.rows.tolist()])

    def take(self, rows: Sequence[int] | np.ndarray) -> Texts:
        """Only these examples, in this order."""
        rows = np.asarray(rows).tolist()
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            responses=None if self.responses is None else [self.responses[row] for row in rows],
            references=[self.references[row] for row in rows],
            rows=self.rows[rows],
        )


def load(spec: Text, tokenizer: Any = None, *, quiet: bool = False) -> tuple[Texts, Texts]:
    """Training and validation texts. `tokenizer` is asked for its chat template, where there is a conversation.

    Where there is no split to validate on, a part of the training rows is set aside and `notes` say so.

    Raises:
        ValueError: the data cannot be found or understood, or a row has no text. The message says where, what was
            found and what would mend it.
    """
    spec = spec.settled()
    there = splits(spec, quiet)
    train = _split(spec, there, spec.train_split, tokenizer)
    if (held := validation(spec, there)) is None:
        train, valid = _set_aside(train, spec)
    else:
        valid = _split(spec, there, held, tokenizer)
    if spec.several_references:
        valid = _grouped(valid)
    train, valid = _first(train, spec.train_rows), _first(valid, spec.valid_rows)
    if spec.extra:
        train = _with_extra(train, spec, tokenizer)
    return train, valid


def of_table(spec: Text, table: Table, split: str, tokenizer: Any = None) -> Texts:
    """The texts of a table that is there already. Raises ValueError as `load` does."""
    if not len(table):
        raise ValueError(f"{table.files[0]} has no rows")
    return _texts(spec.settled(), table, split, tokenizer)


def _split(spec: Text, there: Mapping[str, Callable[[], Table]], split: str, tokenizer: Any) -> Texts:
    table = one_split(there, split, spec.title)
    return _texts(spec, table, split, tokenizer)


def _texts(spec: Text, table: Table, split: str, tokenizer: Any, answered: bool = True) -> Texts:
    prompts, responses = written(table, spec, tokenizer, answered)
    references = [[] for _ in prompts] if responses is None else [[response] for response in responses]
    texts = Texts(prompts, responses, references, spec.title, split, np.arange(len(table)), table.where)
    if templated(table, spec):
        texts = replace(texts, render=lambda tokenizer: written(table, spec, tokenizer, answered=False)[0])
    return _without_empty(texts, spec)


def _without_empty(texts: Texts, spec: Text) -> Texts:
    sides = [("prompt", texts.prompts), *([] if texts.responses is None else [("response", texts.responses)])]
    empty = {what: [row for row, text in enumerate(side) if not text.strip()] for what, side in sides}
    gone = sorted({row for rows in empty.values() for row in rows})
    if not gone:
        return texts
    if not spec.skip_empty:
        what = next(what for what, rows in empty.items() if gone[0] in rows)
        raise ValueError(
            f"{texts.place(gone[0])}: the {what} is empty ({len(gone)} such rows of {len(texts)}); fill it, or "
            "leave such rows out with --data.skip_empty"
        )
    if len(gone) == len(texts):
        raise ValueError(f"{texts.name} {texts.split}: every row has an empty prompt or response")
    kept = np.delete(np.arange(len(texts)), gone)
    note = (
        f"{texts.name} {texts.split}: {len(gone):,} of {len(texts):,} rows have an empty prompt or response, left out"
    )
    return replace(texts.take(kept), notes=(*texts.notes, note))


def _grouped(texts: Texts) -> Texts:
    """Rows with the same prompt are one example, in the place of the first, with the references of all."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(texts.prompts):
        rows.setdefault(prompt, []).append(row)
    several = [[one for row in same for one in texts.references[row]] for same in rows.values()]
    return replace(texts.take([same[0] for same in rows.values()]), references=several)


def _set_aside(texts: Texts, spec: Text) -> tuple[Texts, Texts]:
    """By a hash of the prompt, so that a prompt that occurs twice is on one side."""
    held = held_out(texts.prompts, texts.name, spec.held_out, spec.data_seed)
    note = (
        f"{texts.name} has no split to validate on: {held.sum():,} of {len(texts):,} rows were set aside, by a hash of "
        f"their prompts (data.held_out={spec.held_out})"
    )
    train, valid = texts.take(np.flatnonzero(~held)), texts.take(np.flatnonzero(held))
    return replace(train, notes=(*train.notes, note)), replace(valid, split="held out", notes=())


def _first(texts: Texts, rows: int | None) -> Texts:
    if rows is not None and rows > len(texts):
        raise ValueError(f"{texts.name} {texts.split} has {len(texts):,} rows, fewer than the {rows:,} asked for")
    return texts if rows is None or rows == len(texts) else texts.take(np.arange(rows))


def _with_extra(texts: Texts, spec: Text, tokenizer: Any) -> Texts:
    more = [_texts(spec, one_file(path.expanduser()), "extra", tokenizer, answered=False) for path in spec.extra]
    prompts = [*texts.prompts, *(prompt for one in more for prompt in one.prompts)]
    # Rows of all files are numbered one after the other.
    all_of, before = [texts, *more], np.cumsum([0, *(int(one.rows.max()) + 1 for one in (texts, *more))])

    def where(row: int) -> str:
        part = int(np.searchsorted(before, row, "right")) - 1
        return all_of[part].where(row - int(before[part]))

    def render(tokenizer: Any) -> list[str]:
        found = []
        for part, size in zip(all_of, np.diff(before).tolist(), strict=True):
            if part.render is None:  # of this part, prompts are the same for every tokenizer
                known = dict(zip(part.rows.tolist(), part.prompts, strict=True))
                found += [known.get(row, "") for row in range(size)]
            else:
                found += part.render(tokenizer)[:size]
        return found

    note = (
        f"{len(prompts) - len(texts):,} further prompts without responses: the training data counts as prompts only, "
        "for texts that networks write"
    )
    return replace(
        texts,
        prompts=prompts,
        responses=None,
        references=[[] for _ in prompts],
        rows=np.concatenate([one.rows + start for one, start in zip(all_of, before[:-1], strict=True)]),
        where=where,
        render=None if all(one.render is None for one in all_of) else render,
        notes=(*texts.notes, *(note for one in more for note in one.notes), note),
    )
