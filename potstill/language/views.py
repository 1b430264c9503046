"""How a text to learn from lies in a batch: prompt, response, and where the response is predicted.

Letters in shapes: B samples, P prompt tokens, R response tokens, L tokens of a whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from potstill.types import MAIN, Batch, View

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
    length: int | None = None,
    **extras: Any,
) -> View:
    """A view in which every response token is a label, predicted by the token in front of it.

    The prompt is padded on the left and the response anywhere; what is padding is masked, and positions are counted
    without it. The shift by one token is made here and nowhere else: `at[:, r]` is the place of the last token that
    counts before response token r.

    With `length`, the most tokens that any of the sequences has, known on the host, they are moved together: prompt,
    response, then padding, in so many columns instead of P + R.

    Raises ValueError for a prompt without a token: nothing would predict the first of the response.
    """
    if not prompt.shape[1]:
        raise ValueError("an empty prompt predicts nothing; begin it with the tokenizer's beginning-of-text token")
    mask = torch.cat([prompt_mask, response_mask], 1)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).cummax(1).values  # the last real token up to each place
    at = last[:, prompt.shape[1] - 1 : -1] if response.shape[1] else last[:, :0]
    tokens, positions = torch.cat([prompt, response], 1) * mask, (mask.cumsum(1) - 1).clamp(min=0)
    if length is not None:
        # A real token's position is its new place; padding goes to one more column, which is cut off.
        place = torch.where(mask, positions, length)
        tokens = tokens.new_zeros(len(tokens), length + 1).scatter(1, place, tokens)[:, :length]
        at = positions.gather(1, at)
        mask = torch.arange(length, device=mask.device) < mask.sum(1, keepdim=True)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
    return View(
        inputs,
        index,
        label=response * response_mask,
        mask=response_mask,
        extras={AT: at * response_mask, PROMPT: prompt, PROMPT_MASK: prompt_mask, **extras},
    )


def rewritten(batch: Batch, tokens: Int64[Tensor, "B R"], mask: Bool[Tensor, "B R"], **extras: Any) -> Batch:
    """The batch with responses that somebody else has written to the same prompts."""
    main = batch.main
    view = teaching(main.extras[PROMPT], main.extras[PROMPT_MASK], tokens, mask, main.index, **extras)
    return batch.with_view(MAIN, view)


def chosen(first: Bool[Tensor, "B"], one: View, other: View) -> View:
    """Row by row the one view or the other, of the same samples; both are filled up to the longer on the right."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        width = max(a.shape[1], b.shape[1])
        a, b = (F.pad(value, (0, width - value.shape[1])) for value in (a, b))
        return torch.where(first[:, None], a, b)

    assert one.label is not None
    assert other.label is not None
    assert one.mask is not None
    assert other.mask is not None
    sides = [_placed(view) for view in (one, other)]
    inputs = {name: pick(sides[0][name], sides[1][name]) for name in ("input_ids", "attention_mask", "position_ids")}
    extras = {name: value for name, value in one.extras.items() if name in (PROMPT, PROMPT_MASK)}
    return View(
        inputs,
        one.index,
        label=pick(one.label, other.label),
        mask=pick(one.mask, other.mask),
        extras={AT: pick(one.extras[AT], other.extras[AT]), **extras},
    )


def _placed(view: View) -> dict[str, Tensor]:
    """The input with its positions, as the network would count them."""
    mask = view.input["attention_mask"]
    counted = (mask.long().cumsum(1) - 1).clamp(min=0)
    return {"position_ids": counted, **view.input, "attention_mask": mask.bool()}


def padded(rows: Sequence[Sequence[int] | np.ndarray], *, left: bool = False, pad: int = 0) -> tuple[Tensor, Tensor]:
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
