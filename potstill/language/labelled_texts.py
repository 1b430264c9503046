"""From a `LabelledText` to texts with labels: training and validation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np

from potstill.language.edits import edited
from potstill.language.labelled import ENDINGS, Labelled, labelled, table_of
from potstill.language.labelled_spec import LabelledText
from potstill.language.tables import held_out, one_split, splits, validation


def load(spec: LabelledText, *, quiet: bool = False) -> tuple[Labelled, Labelled, list[str]]:
    """Training and validation texts, and sentences that a user should see.

    Raises:
        ValueError: the data cannot be found or understood, a row has no text or label, or validation has a label that
            training has not. The message says where.
    """
    there = splits(spec, quiet, table_of, ENDINGS)
    kind = spec.known.kind if spec.kind == "auto" and spec.known else spec.kind
    how = {"text": spec.text, "pair": spec.pair, "label": spec.label, "classes": kind == "classes"}
    names = () if kind == "scores" else None
    train = labelled(one_split(there, spec.train_split, spec.title), spec.title, names=names, **how)
    notes = []
    if (held := validation(spec, there)) is None:
        apart = held_out(keys(train), spec.title, spec.held_out, spec.data_seed)
        train, valid = (train.take(np.flatnonzero(side).tolist()) for side in (~apart, apart))
        notes.append(
            f"{spec.title} has no split to validate on: {len(valid):,} of {len(apart):,} texts were set aside, by a "
            f"hash of the text (data.held_out={spec.held_out})"
        )
    else:
        valid = labelled(one_split(there, held, spec.title), spec.title, names=train.names, **how)
        if (train.second is None) != (valid.second is None):
            shown = ["single texts" if side.second is None else "pairs" for side in (train, valid)]
            raise ValueError(f"{spec.title}: training has {shown[0]} and validation {shown[1]}; name data.pair")
    return _some(train, spec.train_rows, spec, "training"), _some(valid, spec.valid_rows, spec, "validation"), notes


def seen(train: Labelled, spec: LabelledText, seed: int) -> Labelled:
    """The part of the training texts that the students of a seed see, and its edited copies."""
    found = train if spec.share == 1 else replace(train.part(spec.share, seed), name=train.name)
    if spec.copies:
        found = found.with_rows(edited(found, spec.copies, deletion=spec.deletion, swap=spec.swap, seed=seed))
    return found


def keys(texts: Labelled) -> list[str]:
    """What tells one text, or pair, from another."""
    if texts.second is None:
        return list(texts.first)
    return [f"{one}\n{other}" for one, other in zip(texts.first, texts.second, strict=True)]


def digest(texts: Labelled) -> str:
    """A hash of texts and labels, whatever files they came from."""
    found = hashlib.blake2b(digest_size=8)
    found.update(json.dumps([keys(texts), texts.names]).encode())
    found.update(texts.labels.numpy().tobytes())
    return found.hexdigest()


def _some(texts: Labelled, rows: int | None, spec: LabelledText, what: str) -> Labelled:
    if rows is not None and rows > len(texts):
        raise ValueError(f"{spec.title} has {len(texts):,} {what} texts, fewer than the {rows:,} asked for")
    return texts if rows is None else replace(texts.part(rows, spec.data_seed), name=texts.name)
