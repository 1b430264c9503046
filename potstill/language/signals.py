"""Ask a teacher once about the response tokens of every text, and keep what it says (`stores.py`).

Letters in shapes: B samples, R response positions, T response tokens, D width, V vocabulary, k tokens that are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.language.encode import Encoded
from potstill.language.loader import batch_of
from potstill.language.stores import DTYPES, About, Plan, begin, part, write
from potstill.largest import top_logits
from potstill.lazy import LOGITS
from potstill.types import MAIN, Answer, LazyLogits, Source, Task, TopLogits

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Signals:
    """What is kept of every response token.

    With `k`, the k most probable tokens and their log-probabilities at `temperature`, as `TopLogits`; the others' mass
    is what is missing to 1. Without, the hidden state in front of the last layer, which is kept once: every logit can
    be made of it, at any temperature. `dtype` is how numbers are stored (float32, float16, bfloat16); left out, float32
    for log-probabilities and what the teacher computes in for hidden states. A batch has up to `budget` tokens, padding
    included, a part of the store about `part_bytes` bytes.
    """

    k: int | None = None
    temperature: float = 1.0
    dtype: str | None = None
    budget: int = 8192
    part_bytes: int = 2**28

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown; {did_you_mean(self.dtype, DTYPES)}")
        for name in ("k", "budget", "part_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


def capture(
    source: Source,
    task: Task,
    encoded: Encoded,
    folder: Path,
    signals: Signals,
    *,
    tokenizer: str,
    device: torch.device | str = "cpu",
    on_texts: Callable[[int], Any] = lambda count: None,
) -> About:
    """Run the source on every text and write what it says; parts that are there already are kept.

    Which texts run together depends on lengths alone, so a capture that was killed goes on to the same bits.
    `tokenizer` is the fingerprint of the one that made the ids. `on_texts` is told how many texts are done.

    Raises:
        ValueError: the folder holds something else, the disk is too small, an answer is not finite, the texts have no
            responses, or the source cannot give what is to be kept.
    """
    if not encoded.answered:
        raise ValueError(
            f"{encoded.texts.name} {encoded.texts.split} has prompts only: there are no response tokens that a teacher "
            "could be asked about; methods in which networks write need the live teacher"
        )
    answer = _asked(source, task, encoded, np.array([0]), device)[0]
    about = _about(source, answer, encoded, signals, tokenizer)
    plan = Plan(encoded, about.budget, about.part_tokens)
    head = _head(answer) if about.kind == "hidden" else None
    begin(about, folder, plan.rows, head)
    for number, batches in enumerate(plan.parts):
        if not part(folder, number).exists():
            pieces: dict[str, list[Tensor]] = {}
            for rows in batches:
                for name, value in _packed(*_asked(source, task, encoded, rows, device), about).items():
                    pieces.setdefault(name, []).append(value.cpu())
                on_texts(len(rows))
            write(about, part(folder, number), {name: torch.cat(some) for name, some in pieces.items()})
        else:
            on_texts(sum(map(len, batches)))
    return about


def _asked(
    source: Source, task: Task, encoded: Encoded, rows: np.ndarray, device: torch.device | str
) -> tuple[Answer, Tensor]:
    """What the source says of these texts, and which positions count."""
    batch = batch_of(encoded, rows, device)
    with torch.no_grad():
        answer = source(task, batch, MAIN, ()).output
    assert batch.main.mask is not None
    return answer, batch.main.mask


def _about(source: Source, answer: Answer, encoded: Encoded, signals: Signals, tokenizer: str) -> About:
    same: dict[str, Any] = {
        "teacher": source.fingerprint,
        "precision": getattr(getattr(source, "precision", None), "name", "float32"),
        "tokenizer": tokenizer,
        "texts": encoded.digest,
        "samples": len(encoded),
        "tokens": int(encoded.responses.sum()),
        "vocabulary": answer.shape[-1],
        "budget": signals.budget,
        "part_tokens": 1,
        "served": getattr(source, "served", None),
    }
    if signals.k is not None:
        dtype = signals.dtype or "float32"
        about = About("top-k", **same, dtype=dtype, k=signals.k, temperature=signals.temperature)
    elif isinstance(answer, LazyLogits):
        computed = NAMES[answer.hidden.dtype]
        dtype = signals.dtype or computed
        about = About("hidden", **same, dtype=dtype, width=answer.hidden.shape[-1], computed=computed)
    else:
        raise ValueError(
            "hidden states cannot be kept: of this teacher no last layer is known that makes its logits of them (it "
            "caps or scales them, or is only served); keep the most probable tokens, --top-k 64"
        )
    return replace(about, part_tokens=max(1, signals.part_bytes // about.token_bytes))


def _head(answer: Answer) -> dict[str, Tensor]:
    assert isinstance(answer, LazyLogits)
    found = {"weight": answer.weight.detach()}
    return found if answer.bias is None else {**found, "bias": answer.bias.detach()}


def _packed(answer: Answer, mask: Tensor, about: About) -> dict[str, Tensor]:
    """What is stored of an answer `[B, R]`: the tokens that count `[T]`, sample by sample."""
    kept = mask.flatten()
    if about.kind == "hidden":
        assert isinstance(answer, LazyLogits)
        found = {"hidden": answer.hidden.flatten(0, -2)[kept]}
    else:
        top = _largest(answer, kept, about)
        found = {"log_probs": top.log_probs, "indices": top.indices.to(torch.int32)}
    ready = {
        name: value.to(DTYPES[about.dtype]) if value.is_floating_point() else value for name, value in found.items()
    }
    _check_finite(found, ready, about)
    return ready


def _largest(answer: Answer, kept: Tensor, about: About) -> TopLogits:
    k, temperature = about.k or 0, about.temperature or 1.0
    if isinstance(answer, TopLogits):
        flat = answer.flat()
        if flat.log_probs.shape[1] != k or flat.temperature != temperature:
            raise ValueError(
                f"the source knows {flat.log_probs.shape[1]} tokens at temperature {flat.temperature:g}, and {k} at "
                f"{temperature:g} are to be kept"
            )
        return replace(flat, log_probs=flat.log_probs[kept], indices=flat.indices[kept])
    if isinstance(answer, LazyLogits):
        lazy = replace(answer, hidden=answer.hidden.flatten(0, -2)[kept]).cast()
        rows, count = lazy.rows, len(lazy.hidden)
    else:
        whole = answer.flatten(0, -2)[kept]
        rows, count = whole.__getitem__, len(whole)
    step = max(1, LOGITS // about.vocabulary)
    pieces = [top_logits(rows(slice(start, start + step)), k, temperature) for start in range(0, count, step)]
    log_probs, indices = (torch.cat([getattr(one, name) for one in pieces]) for name in ("log_probs", "indices"))
    return TopLogits(log_probs, indices, about.vocabulary, temperature)


def _check_finite(found: dict[str, Tensor], ready: dict[str, Tensor], about: About) -> None:
    """A token of probability 0 is no mistake: its log-probability is -inf, or as low as can be written."""
    for name, value in found.items():
        bad = value.isnan() | (value > 0.01) if name == "log_probs" else ~value.isfinite()
        if bool(bad.any()):
            raise ValueError(f"the teacher answers with NaN or infinity ({name}); check its weights and its precision")
        if name == "hidden" and not bool(ready[name].isfinite().all()):
            raise ValueError(
                f"hidden states of up to {value.abs().max():.3g} do not fit into {about.dtype}; take --dtype bfloat16"
            )
