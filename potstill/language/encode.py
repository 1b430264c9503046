"""Texts to token ids: one flat store with offsets, so that a batch is made by index arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from potstill.errors import did_you_mean
from potstill.language.spec import Text
from potstill.language.texts import Texts

AT_ONCE = 10_000
"""Texts that the tokenizer is given in one call."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One split as token ids. Sample i is `tokens[offsets[i] : offsets[i + 1]]`, the first `prompts[i]` of them its
    prompt, the rest its response.

    `tokens` int32, `offsets` int64 `[N + 1]`, `prompts` int64 `[N]`. `end` is the end-of-text token, which every
    response that was not cut ends with, and `pad` fills what is masked. `texts` are the strings of the same samples.
    """

    tokens: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    prompts: np.ndarray = field(repr=False)
    texts: Texts = field(repr=False)
    end: int
    pad: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def responses(self) -> np.ndarray:
        """Tokens of each response, int64 `[N]`; zeros where there are prompts only."""
        return self.lengths - self.prompts

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 `[N]`."""
        return np.diff(self.offsets)

    @property
    def answered(self) -> bool:
        """There are responses to learn from."""
        return self.texts.responses is not None

    @cached_property
    def digest(self) -> str:
        """A hash of the ids and of where prompts end."""
        digest = hashlib.blake2b(repr((len(self), self.end)).encode(), digest_size=8)
        for part in (self.tokens, self.offsets, self.prompts):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def prompt(self, index: int) -> np.ndarray:
        """Token ids of one prompt."""
        return self.tokens[self.offsets[index] : self.offsets[index] + self.prompts[index]]

    def response(self, index: int) -> np.ndarray:
        """Token ids of one response, the end-of-text token included."""
        return self.tokens[self.offsets[index] + self.prompts[index] : self.offsets[index + 1]]

    def answering(self, responses: Sequence[Sequence[int] | np.ndarray], texts: Sequence[str]) -> Encoded:
        """The same prompts with other responses (a teacher's), as ids and as text; the ids are taken as they are.

        Raises:
            ValueError: not as many as there are prompts, or an empty one.
        """
        if not len(responses) == len(texts) == len(self):
            raise ValueError(f"{len(responses)} responses and {len(texts)} texts for {len(self)} prompts")
        count = np.array([len(one) for one in responses], dtype=np.int64)
        if len(empty := np.flatnonzero(count == 0)):
            raise ValueError(f"{self.texts.place(empty[0])}: the new response has no token ({len(empty)} such)")
        flat = np.fromiter(chain.from_iterable(responses), np.int32, int(count.sum()))
        tokens, offsets = _woven(
            [(self.tokens, self.offsets[:-1], self.prompts), (flat, np.cumsum(count) - count, count)]
        )
        return replace(self, tokens=tokens, offsets=offsets, texts=replace(self.texts, responses=list(texts)))


def encode(
    texts: Texts, tokenizer: Any, spec: Text | None = None, *, context: int | None = None, end: int | None = None
) -> Encoded:
    """Tokenise a split.

    A prompt begins with what the tokenizer itself puts in front of a text (a beginning-of-text token, or nothing), a
    response ends with the end-of-text token. Both are tokenised apart, so that the ids of a prompt are the same with
    any response. `spec` says how long they may be and what is done about longer ones; `context` is how many tokens the
    network can read; `end` the end-of-text token of the model's configuration, for tokenizers that name none.

    A tokenizer without a padding token is as good: what is padded is masked.

    Raises:
        ValueError: texts that are too long, prompts or responses without a token, or no end-of-text token.
    """
    spec = spec or Text()
    stop = end_of_text(tokenizer, spec.end, end)
    pad = getattr(tokenizer, "pad_token_id", None)
    before = np.array(prefix(tokenizer), dtype=np.int32)
    ids, count = _tokenised(texts.prompts, tokenizer)
    asked = (ids, np.cumsum(count) - count, count)
    # A chat template may have written the beginning of the text itself.
    bare = np.full(len(texts), len(before) > 0)
    if len(before) and len(ids):
        bare &= (count == 0) | (ids[np.minimum(asked[1], len(ids) - 1)] != before[0])
    fronts = (before, np.zeros(len(texts), np.int64), np.where(bare, len(before), 0))
    _check_tokens(texts, fronts[2] + count, "prompt", "and the tokenizer puts nothing in front of a text")
    if texts.responses is None:
        zeros = np.zeros(len(texts), np.int64)
        answers, ends = (ids, zeros, zeros), zeros
    else:
        ids, count = _tokenised(texts.responses, tokenizer)
        answers = (ids, np.cumsum(count) - count, count)
        _check_tokens(texts, count, "response", "after the tokenizer's normalisation")
        ends = (ids[answers[1] + count - 1] != stop).astype(np.int64)
    if spec.max_prompt is not None and spec.max_prompt <= len(before):
        raise ValueError(
            f"data.max_prompt {spec.max_prompt} leaves no place for a prompt: the tokenizer begins with "
            f"{len(before)} tokens"
        )
    kept, prompts, responses, notes = _lengths(texts, spec, context, fronts[2] + asked[2], answers[2] + ends)
    if len(kept) < len(texts):
        texts, ends = texts.take(kept), ends[kept]
        fronts, asked, answers = ((flat, start[kept], size[kept]) for flat, start, size in (fronts, asked, answers))
    kept_of_prompt = prompts - fronts[2]
    body = np.minimum(answers[2], responses)
    parts = [
        fronts,
        (asked[0], asked[1] + asked[2] - kept_of_prompt, kept_of_prompt),
        (answers[0], answers[1], body),
        (np.array([stop], np.int32), np.zeros(len(texts), np.int64), responses - body),
    ]
    tokens, offsets = _woven(parts)
    unknown = getattr(tokenizer, "unk_token_id", None)
    share = 0.0 if unknown in (None, stop) else float((tokens == unknown).mean())
    if share > 0.001:
        notes.append(f"{texts.name} {texts.split}: {share:.1%} of the tokens are unknown to the tokenizer")
    said = f"{len(texts):,} texts, {prompts.sum():,} tokens of prompts (longest {prompts.max():,})"
    if texts.responses is not None:
        said += f", {responses.sum():,} of responses (longest {responses.max():,})"
    notes = (*texts.notes, *notes, f"{texts.name} {texts.split}: {said}")
    return Encoded(tokens, offsets, prompts, texts, stop, stop if pad is None else pad, notes)


def end_of_text(tokenizer: Any, named: str | None = None, configured: int | Sequence[int] | None = None) -> int:
    """The id of the token that ends a text: of the token that the user named, else the tokenizer's own, else the model
    configuration's (the first of several).

    Raises:
        ValueError: the named token is none of the vocabulary, or there is none at all.
    """
    if named is not None:
        vocabulary = tokenizer.get_vocab()
        if named not in vocabulary:
            near = did_you_mean(named, tokenizer.get_added_vocab() or vocabulary)
            raise ValueError(f"data.end: the tokenizer has no token {named!r}; {near}")
        return vocabulary[named]
    own = getattr(tokenizer, "eos_token_id", None)
    if own is None and configured is not None:
        own = configured if isinstance(configured, int) else next(iter(configured), None)
    if own is None:
        special = sorted(map(str, getattr(tokenizer, "all_special_tokens", ())))
        raise ValueError(
            "the tokenizer names no end-of-text token, nor does the model's configuration, so no text would ever end; "
            f"name one with --data.end (special tokens: {', '.join(special) or 'none'})"
        )
    return own


def prefix(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of a text by itself; nothing, for many that know a beginning-of-text token."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    place = next((at for at in range(len(whole)) if whole[at : at + len(inner)] == inner), 0) if inner else 0
    return list(whole[:place])


def _tokenised(texts: Sequence[str], tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one array, and how many each text has."""
    ids, count = [], []
    for start in range(0, len(texts), AT_ONCE):
        # Lengths are checked here: the tokenizer's own remark on them would be about another limit.
        part = tokenizer(texts[start : start + AT_ONCE], add_special_tokens=False, verbose=False)["input_ids"]
        count.append(np.fromiter(map(len, part), np.int64, len(part)))
        ids.append(np.fromiter(chain.from_iterable(part), np.int32, int(count[-1].sum())))
    return np.concatenate(ids), np.concatenate(count)


def _check_tokens(texts: Texts, count: np.ndarray, what: str, why: str) -> None:
    if len(empty := np.flatnonzero(count == 0)):
        text = (texts.prompts if what == "prompt" else texts.responses or [])[empty[0]]
        raise ValueError(
            f"{texts.place(empty[0])}: the {what} {text[:40]!r} has no token ({len(empty)} such of {len(texts)}), "
            f"{why}; change it, or take the row out"
        )


def _lengths(
    texts: Texts, spec: Text, context: int | None, prompts: np.ndarray, responses: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Which samples are kept, how many tokens of their prompts and responses, and notes."""
    room = context or 2**31
    most_prompt = min(spec.max_prompt or room, room - 1)  # the response needs a place, too
    most_response = spec.max_response or room
    long_prompt, long_response = prompts > most_prompt, responses > most_response
    long = long_prompt | long_response | (prompts + responses > room)
    rows = np.arange(len(texts))
    if not long.any():
        return rows, prompts, responses, []
    if spec.too_long == "error":
        row = int(np.flatnonzero(long)[0])
        limits = [
            (f"data.max_prompt {spec.max_prompt}", spec.max_prompt),
            (f"data.max_response {spec.max_response}", spec.max_response),
        ]
        limits = [words for words, limit in limits if limit] + (
            [f"the {context} tokens that the network reads"] if context else []
        )
        raise ValueError(
            f"{texts.place(row)}: a prompt of {prompts[row]:,} and a response of {responses[row]:,} tokens are longer "
            f"than {' and '.join(limits)} allow ({long.sum():,} such of {len(texts):,}); set data.too_long to drop "
            "(leave them out) or cut (keep the end of prompts and the beginning of responses)"
        )
    about = f"{texts.name} {texts.split}: {long.sum():,} of {len(texts):,} texts are too long"
    if spec.too_long == "drop":
        if long.all():
            raise ValueError(
                f"{about}: none is left; raise data.max_prompt and data.max_response, or set data.too_long cut"
            )
        return rows[~long], prompts[~long], responses[~long], [f"{about} and left out"]
    answers = np.minimum(responses, most_response)
    # Where both do not fit, the response has what it needs up to half of the context.
    asked = np.minimum(np.minimum(prompts, most_prompt), room - np.minimum(answers, room // 2))
    answers = np.minimum(answers, room - asked)
    note = f"{about} and were cut: {(asked < prompts).sum():,} prompts, {(answers < responses).sum():,} responses"
    return rows, asked, answers, [note]


Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Flat ids, and of each sample where its span begins and how long it is."""


def _woven(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's spans of all parts one after the other, in one flat array; and the samples' offsets `[N + 1]`."""
    sizes = np.stack([size for _, _, size in parts])
    offsets = np.concatenate([[0], np.cumsum(sizes.sum(0))])
    begins = offsets[:-1] + np.cumsum(sizes, 0) - sizes
    woven = np.empty(offsets[-1], np.int32)
    for (flat, start, size), begin in zip(parts, begins, strict=True):
        woven[_spans(begin, size)] = flat[_spans(start, size)]
    return woven, offsets


def _spans(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The ranges [start, start + size), one after the other.

    >>> _spans(np.array([5, 9]), np.array([2, 1])).tolist()
    [5, 6, 9]
    """
    return np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
