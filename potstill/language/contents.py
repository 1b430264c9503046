"""A text as one number, so that what was said of it is found again, and never taken for what was said of another.

Letters in shapes: N samples, B samples of a batch, L tokens of a whole sequence, R response positions.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from potstill.hashing import hash_index
from potstill.language.encode import Encoded
from potstill.types import View

AT_ONCE = 2**14
"""Texts whose tokens are hashed together."""


def contents(encoded: Encoded) -> Int64[Tensor, "N"]:
    """A number for every text: of all its tokens in order, and of which of them are the response.

    It is `of_view` of a batch that holds the text, however that is padded.
    """
    found = torch.empty(len(encoded), dtype=torch.int64)
    for start in range(0, len(encoded), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(encoded)))
        first, lengths = encoded.offsets[rows.start], encoded.lengths[rows]
        tokens = torch.from_numpy(encoded.tokens[first : encoded.offsets[rows.stop]]).long()
        row = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        before = np.repeat(encoded.offsets[rows] - first, lengths)
        place = torch.arange(len(tokens)) - torch.from_numpy(before)
        answered = place - torch.from_numpy(encoded.prompts[rows])[row]
        mixed = _mixed(tokens, place, "text") + _mixed(tokens, answered, "response") * (answered >= 0)
        found[rows] = torch.zeros(len(lengths), dtype=torch.int64).index_add_(0, row, mixed)
    return found


def of_view(view: View) -> Int64[Tensor, "B"]:
    """The same of the texts of a batch, computed where they lie."""
    assert view.label is not None
    assert view.mask is not None
    whole = _summed(view.input["input_ids"], view.input["attention_mask"].bool(), "text")
    return whole + _summed(view.label, view.mask, "response")


def _summed(tokens: Int64[Tensor, "B L"], real: Bool[Tensor, "B L"], salt: str) -> Int64[Tensor, "B"]:
    return (_mixed(tokens, real.cumsum(1) - 1, salt) * real).sum(1)  # int64 sums wrap modulo 2**64


def _mixed(tokens: Tensor, place: Tensor, salt: str) -> Tensor:
    return hash_index(tokens + (place << 32), salt)
