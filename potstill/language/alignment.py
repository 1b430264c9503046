"""Which tokens of two tokenizers cover the same bytes of a text.

All work on tokens is done on whole arrays, in time linear in tokens and bytes; strings are handled a text at a time.
Letters in shapes: B texts, R tokens of the longest text by the student's tokenizer, Q by the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from potstill.language.pieces import Pieces
from potstill.language.views import padded


@dataclass(frozen=True)
class Cut:
    """Texts cut into tokens: `ids` and `mask` `[B, R]`, on the host.

    `ends[b, r]` is the number of bytes of text b that tokens up to and including r cover; the end-of-text token covers
    one more, behind them. `whole` is False where a token ends inside a character and it is not known where.
    """

    ids: Int64[Tensor, "B R"]
    mask: Bool[Tensor, "B R"]
    ends: Int64[Tensor, "B R"]
    whole: Bool[Tensor, "B R"]

    def within(self, room: Sequence[int]) -> Cut:
        """Only so many tokens of each text."""
        if not (self.mask.sum(1) > torch.as_tensor(room)).any():
            return self
        width = max(1, *room)
        kept = torch.arange(self.ids.shape[1]) < torch.as_tensor(room)[:, None]
        return Cut(*(part[:, :width] for part in (self.ids, self.mask & kept, self.ends, self.whole & kept)))


@dataclass(frozen=True)
class Aligned:
    """The same texts cut by two tokenizers, and the numbers of their groups: tokens that cover the same bytes.

    Numbers ascend from 0 along a text; -1 is a token in no group (padding, or what follows the last common boundary).
    """

    student: Cut
    teacher: Cut
    group: Int64[Tensor, "B R"]
    teacher_group: Int64[Tensor, "B Q"]

    @property
    def extras(self) -> dict[str, Tensor]:
        """What `gold` and `uld` ask the student's view for, beside `label` and `mask`."""
        return {
            "group": self.group,
            "teacher_group": self.teacher_group,
            "teacher_label": self.teacher.ids * self.teacher.mask,
            "teacher_mask": self.teacher.mask,
        }


class Cutter:
    """Cuts texts with one tokenizer, and knows where the tokens end, in bytes of the text.

    Byte-level and SentencePiece tokens say their bytes, so tokens that end inside a character are exact. Others
    (WordPiece), and texts that the tokenizer normalises, go by the offsets of a fast tokenizer, in characters.

    `stop` are the ids that end a text, the first one ends what is cut here (None: the tokenizer's end-of-text token).
    Raises ValueError for a tokenizer that gives neither bytes nor offsets.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[int] | None = None):
        self.tokenizer = tokenizer
        known = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.stop = known if stop is None else tuple(stop)
        self.pieces = Pieces.of(tokenizer)
        if self.pieces is None and not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} tells neither the bytes of its tokens nor their offsets, so they cannot "
                "be aligned with another tokenizer's; load the fast one (AutoTokenizer, use_fast=True)"
            )
        # SentencePiece puts a space in front of a text that begins with none.
        self.space = self.pieces is not None and self.pieces.joined(self._plain(["a"])[0]) == b" a"

    def cut(self, texts: Sequence[str], ended: Sequence[bool] | None = None) -> Cut:
        """Texts as the tokenizer cuts them; an end-of-text token behind those that are `ended` (None: behind all)."""
        ended = [True] * len(texts) if ended is None else ended
        rows: list[Any] = self._plain(texts)
        ends: list[Any] = self._ends(rows)
        whole: list[Any] = [np.ones(len(row), dtype=bool) for row in rows]
        raw = [text.encode() for text in texts]
        unfit = [n for n, row in enumerate(rows) if not self._fit(row, ends, n, raw[n])]
        if unfit:
            for n, offsets in zip(unfit, self._offsets([texts[n] for n in unfit]), strict=True):
                ends[n], whole[n] = _by_offsets(texts[n], offsets)
        if self.stop:
            for n in np.flatnonzero(np.asarray(ended, dtype=bool)):
                rows[n] = np.append(rows[n], self.stop[0])
                ends[n], whole[n] = np.append(ends[n], len(raw[n]) + 1), np.append(whole[n], True)
        if not any(map(len, rows)):  # a place that does not count, so that losses have a row to read
            nothing = torch.zeros(len(rows), 1, dtype=torch.int64)
            return Cut(nothing, nothing.bool(), nothing, nothing.bool())
        ids, mask = padded(rows)
        return Cut(ids, mask, padded(ends)[0], padded(whole)[0].bool() & mask)

    def read(self, ids: Int64[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> tuple[list[str], list[bool], Cut]:
        """What tokens say, however a network chose them: their texts, which of these are ended, and the cut.

        A text goes as far as bytes are characters and tokens are known; what follows is in no group. Raises ValueError
        where a tokenizer that goes by offsets would cut the text otherwise.
        """
        ids, mask = ids.cpu(), mask.cpu()
        every, real = ids.numpy(), mask.numpy()
        rows = [row[kept] for row, kept in zip(every, real, strict=True)]
        ended = [len(row) > 0 and int(row[-1]) in self.stop for row in rows]
        said = [row[:-1] if end else row for row, end in zip(rows, ended, strict=True)]
        if self.pieces is None:
            return self._read_by_offsets(said, ended, ids, mask)
        ends, texts = self._ends(said), []
        for n, row in enumerate(said):
            unknown = np.flatnonzero(~self.pieces.known_ids(row))
            raw = self.pieces.joined(row[: unknown[0]] if len(unknown) else row)
            if self.space and raw.startswith(b" "):
                raw, ends[n] = raw[1:], np.maximum(ends[n] - 1, 0)
            text = _characters(raw)
            size = len(text.encode())
            if len(unknown):
                ends[n][unknown[0] :] = size + 2  # beyond all that the other side can cover
            ended[n] = ended[n] and size == len(raw) and not len(unknown)
            if len(row) < len(rows[n]):
                ends[n] = np.append(ends[n], size + (1 if ended[n] else 2))
            texts.append(text)
        return texts, ended, Cut(ids, mask, _spread(ends, real), mask)

    def _read_by_offsets(
        self, said: list[np.ndarray], ended: list[bool], ids: Tensor, mask: Tensor
    ) -> tuple[list[str], list[bool], Cut]:
        texts = self.tokenizer.batch_decode([row.tolist() for row in said], skip_special_tokens=True)
        again = self.cut(texts, ended)
        found, real = again.ids.numpy(), again.mask.numpy()
        for n, (row, end) in enumerate(zip(said, ended, strict=True)):
            kept = found[n][real[n]][: -1 if end else None]
            if not np.array_equal(row, kept):
                raise ValueError(
                    f"text {n} of the batch, {texts[n]!r}: {type(self.tokenizer).__name__} would cut it into other "
                    "tokens than it was given, and its tokens do not say their bytes; distil it on texts that it cuts "
                    "itself, or take a byte-level or SentencePiece tokenizer"
                )
        spread = [_spread([row[kept] for row, kept in zip(one.numpy(), real, strict=True)], mask.numpy()) for one in
                  (again.ends, again.whole)]  # fmt: skip
        return texts, ended, Cut(ids, mask, spread[0], spread[1].bool())

    def _plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in found]

    def _offsets(self, texts: list[str]) -> list[np.ndarray]:
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} changes {texts[0]!r} before it cuts it, and gives no offsets; load "
                "the fast one (AutoTokenizer, use_fast=True)"
            )
        found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in found]

    def _ends(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        if self.pieces is None:
            return [np.zeros(len(row), dtype=np.int64) for row in rows]
        return [np.cumsum(self.pieces.lengths(row)) for row in rows]

    def _fit(self, row: np.ndarray, ends: list[np.ndarray], n: int, raw: bytes) -> bool:
        """Whether the tokens' bytes are those of the text; a space that was put in front is taken off."""
        if self.pieces is None or not self.pieces.known_ids(row).all():
            return False
        said = self.pieces.joined(row)
        if self.space and said == b" " + raw:
            ends[n] = np.maximum(ends[n] - 1, 0)
            return True
        return said == raw


def aligned(student: Cutter, teacher: Cutter, texts: Sequence[str], ended: Sequence[bool] | None = None) -> Aligned:
    """Texts cut by two tokenizers, and the groups of tokens that cover the same bytes of them.

    A text is what follows the prompt, so that its first byte is the same for both however they write the prompt.
    """
    mine, theirs = student.cut(texts, ended), teacher.cut(texts, ended)
    return Aligned(mine, theirs, *groups(mine, theirs))


def groups(student: Cut, teacher: Cut) -> tuple[Int64[Tensor, "B R"], Int64[Tensor, "B Q"]]:
    """The number of each token's group. A group closes wherever both sides have covered the same bytes.

    A token without bytes belongs to what follows it.
    """
    size = int(max(side.ends.max() if side.ends.numel() else 0 for side in (student, teacher))) + 1
    common = _boundaries(student, size) & _boundaries(teacher, size)
    number = common.cumsum(1)  # of the group that begins at each byte
    total = number[:, -1:]
    found = []
    for side in (student, teacher):
        start = torch.where(side.mask, side.ends, 0).cummax(1).values.roll(1, 1)
        start[:, :1] = 0
        group = number.gather(1, start)
        found.append(torch.where(side.mask & (group < total), group, -1))
    return found[0], found[1]


def _boundaries(side: Cut, size: int) -> Bool[Tensor, "B N"]:
    """Where tokens end; at byte 0 nothing does."""
    found = torch.zeros(len(side.ends), size, dtype=torch.bool)
    found.scatter_(1, torch.where(side.mask & side.whole, side.ends, 0), True)
    found[:, 0] = False
    return found


def _by_offsets(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many bytes are covered after each token, and where that is exact."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    byte = np.concatenate([[0], np.cumsum(widths)])
    start, end = offsets[:, 0], offsets[:, 1]
    inside = np.append(start[1:], end[-1:]) < end  # the next token has a part of the same character
    return np.maximum.accumulate(byte[end - inside]), ~inside


def _characters(raw: bytes) -> str:
    """As far as they are valid UTF-8: a network may say half a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return raw[: error.start].decode()


def _spread(rows: list[np.ndarray], real: np.ndarray) -> Tensor:
    """Rows of unequal length at the places that are real."""
    found = np.zeros(real.shape, dtype=np.int64)
    found[real] = np.concatenate(rows) if len(rows) else []
    return torch.from_numpy(found)
