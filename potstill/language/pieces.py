"""The bytes that tokens stand for: what tokenizers of different families have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

SPACE = "▁"
"""How SentencePiece writes a space."""


@dataclass(frozen=True)
class Pieces:
    """The bytes of every token of a vocabulary of V tokens.

    `flat` are all bytes one after the other, `starts` `[V + 2]` where those of each token begin. `known` `[V + 1]`:
    False for a token that stands for any text (unknown), and for the last entry, ids that no token has. Control tokens
    stand for no bytes.
    """

    flat: np.ndarray
    starts: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any) -> Pieces | None:
        """None where tokens do not say their bytes (WordPiece leaves out spaces, and often case and accents)."""
        written = _writing(tokenizer)
        if written is None:
            return None
        vocabulary = tokenizer.get_vocab()
        size = max(vocabulary.values(), default=-1) + 1
        strings: list[str | None] = [None] * size
        for string, number in vocabulary.items():
            strings[number] = string
        added = tokenizer.added_tokens_decoder
        found: list[bytes | None] = [None if string is None else written(string) for string in strings]
        for number, token in added.items():
            found[number] = b"" if token.special else token.content.encode()
        if tokenizer.unk_token_id is not None:
            found[tokenizer.unk_token_id] = None
        parts = [piece or b"" for piece in found]
        starts = np.zeros(size + 2, dtype=np.int64)
        starts[1:-1] = np.cumsum([len(part) for part in parts])
        starts[-1] = starts[-2]
        known = np.array([*(piece is not None for piece in found), False])
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), starts, known)

    def known_ids(self, ids: np.ndarray) -> np.ndarray:
        """Whether each of these ids `[N]` stands for certain bytes."""
        return self.known[self._inside(ids)]

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """How many bytes each of these ids `[N]` stands for."""
        ids = self._inside(ids)
        return self.starts[ids + 1] - self.starts[ids]

    def joined(self, ids: np.ndarray) -> bytes:
        """The bytes of all of these ids `[N]`, one after the other."""
        lengths = self.lengths(ids)
        before = np.cumsum(lengths) - lengths
        return self.flat[
            np.repeat(self.starts[self._inside(ids)] - before, lengths) + np.arange(lengths.sum())
        ].tobytes()

    def _inside(self, ids: np.ndarray) -> np.ndarray:
        return np.minimum(ids, len(self.known) - 1)  # a network may say a column that no token has

    @cached_property
    def each(self) -> tuple[bytes, ...]:
        """Token by token."""
        whole = self.flat.tobytes()
        edges = self.starts.tolist()
        return tuple(whole[a:b] for a, b in zip(edges[:-2], edges[1:-1], strict=True))


def matched(student_tokenizer: Any, teacher_tokenizer: Any) -> Int64[Tensor, "2 M"]:
    """Ids of the tokens that both vocabularies have, the student's and the teacher's, each at most once.

    The same string with the same bytes first, then the same bytes written otherwise (`Ġthe`, `▁the`), then
    end-of-text tokens. Where bytes are not known, strings alone.
    """
    mine, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    one, other = Pieces.of(student_tokenizer), Pieces.of(teacher_tokenizer)
    told = None if one is None or other is None else (one.each, other.each)
    pairs: dict[int, int] = {}
    for string, number in mine.items():
        if string in theirs and (told is None or told[0][number] == told[1][theirs[string]]):
            pairs[number] = theirs[string]
    if told is not None:
        taken = set(pairs.values())
        left = {piece: n for n, piece in reversed(list(enumerate(told[1]))) if piece and n not in taken}
        for number, piece in enumerate(told[0]):
            if number not in pairs and piece in left:
                pairs[number] = left.pop(piece)
    ends = student_tokenizer.eos_token_id, teacher_tokenizer.eos_token_id
    if None not in ends and ends[0] not in pairs and ends[1] not in set(pairs.values()):
        pairs[ends[0]] = ends[1]
    return torch.tensor(sorted(pairs.items()), dtype=torch.int64).reshape(-1, 2).T.contiguous()


def _writing(tokenizer: Any):
    """From a token's string to its bytes (None: any text), or None for a family whose strings do not say."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    kinds = set(_types(json.loads(backend.decoder.__getstate__())))
    if "ByteLevel" in kinds:
        table = _byte_level()
        return lambda string: bytes(table[c] for c in string) if all(c in table for c in string) else None
    if kinds & {"Metaspace", "Replace"} and "WordPiece" not in kinds:
        fallback = "ByteFallback" in kinds

        def written(string: str) -> bytes:
            if fallback and len(string) == 6 and string.startswith("<0x") and string.endswith(">"):
                return bytes([int(string[3:5], 16)])
            return string.replace(SPACE, " ").encode()

        return written
    return None


def _types(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from ([part["type"]] if isinstance(part.get("type"), str) else [])
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
