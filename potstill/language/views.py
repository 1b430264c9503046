"""How a text to learn from lies in a batch: prompt, response, and where the response is predicted.

Letters in shapes: B samples, P prompt tokens, R response tokens, L tokens of a whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from potstill.types import View

AT = "at"
"""`View.extras` `[B, R]`: the token whose output predicts the label. Without it the answer covers all tokens."""
PROMPT, PROMPT_MASK = "prompt", "prompt_mask"
"""`View.extras` `[B, P]`: the prompt, padded on the left, for whoever writes a response of its own."""


def teaching(
    prompt: Int64[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    response: Int64[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    index: Int64[Tensor, "B"],
    **extras: Any,
) -> View:
    """A view in which every response token is a label, predicted by the token in front of it.

    The prompt is padded on the left and the response anywhere; what is padding is masked, and positions are counted
    without it. The shift by one token is made here and nowhere else: `at[:, r]` is the place of the last token that
    counts before response token r.

    Raises ValueError for a prompt without a token: nothing would predict the first of the response.
    """
    if not prompt.shape[1]:
        raise ValueError("an empty prompt predicts nothing; begin it with the tokenizer's beginning-of-text token")
    mask = torch.cat([prompt_mask, response_mask], 1)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).cummax(1).values  # the last real token up to each place
    at = last[:, prompt.shape[1] - 1 : -1] if response.shape[1] else last[:, :0]
    inputs = {
        "input_ids": torch.cat([prompt, response], 1) * mask,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }
    return View(
        inputs,
        index,
        label=response * response_mask,
        mask=response_mask,
        extras={AT: at * response_mask, PROMPT: prompt, PROMPT_MASK: prompt_mask, **extras},
    )


def padded(rows: Sequence[Sequence[int]], *, left: bool = False, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as `[B, longest]` int64, and which entries are real.

    >>> padded([[5, 6], [7]], left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    width = int(lengths.max(initial=0))
    place = np.arange(width)
    real = place >= (width - lengths)[:, None] if left else place < lengths[:, None]
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    ids[real] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) if lengths.sum() else []
    return torch.from_numpy(ids), torch.from_numpy(real)
