"""What a network's texts look like while it trains on them: length, endings, repetition, entropy, replacements.

On-policy training can collapse without the loss showing it: texts become empty, never end, repeat themselves or lose
all variety. These numbers are summed on the device and read once an epoch.

B rows, R response positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from potstill.language.generation import Rollout

SHORT = 1.5
"""Tokens a text, end-of-text included: below this the texts are empty."""
NEVER = 0.01
"""Share of texts that end: below this, at nearly full length, they do not end any more."""
FULL = 0.99
"""Share of the maximum length that counts as full."""
REPETITIVE = 0.2
"""Distinct bigrams over bigrams: ordinary text of a hundred tokens lies above 0.8, a loop below 0.1."""
CERTAIN = 0.01
"""Nats: below this entropy the sampler has one choice left."""

SUMS = (
    "rows",
    "tokens",
    "ended",
    "bigrams",
    "distinct",
    "replaced",
    "replaceable",
    "entropy",
    "measured",
    "overlap",
    "compared",
)


def distinct_bigrams(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """How many different pairs of neighbours each row `[B]` has, and how many pairs.

    >>> distinct_bigrams(torch.tensor([[5, 6, 5, 6, 9]]), torch.tensor([[True, True, True, True, False]]))
    (tensor([2]), tensor([3]))
    """
    pair = mask[:, :-1] & mask[:, 1:]
    # Two ids in one number: a vocabulary has far less than 2**31 entries.
    code = (tokens[:, :-1] * 2**31 + tokens[:, 1:]).masked_fill(~pair, -1).sort(1).values
    first = torch.ones_like(code, dtype=torch.bool)
    first[:, 1:] = code[:, 1:] != code[:, :-1]
    return (first & (code >= 0)).sum(1), pair.sum(1)


class Tally:
    """Sums over rollouts, on their device and without waiting for it; `report` reads them once and starts anew.

    >>> tally = Tally()
    >>> mask = torch.tensor([[True, True, True, False]])
    >>> tally.add(Rollout(torch.tensor([[4, 5, 2, 0]]), mask, ended=torch.tensor([True])))
    >>> tally.report()
    {'length': 3.0, 'end_of_text_rate': 1.0, 'distinct_2': 1.0, 'repetition': 0.0}
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, rollout: Rollout) -> None:
        mask = rollout.mask
        distinct, bigrams = distinct_bigrams(rollout.tokens, mask)
        tokens, none = mask.sum(), mask.new_zeros((), dtype=torch.int64)
        found = {"rows": none + len(mask), "tokens": tokens, "ended": rollout.ended.sum()}
        found |= {"bigrams": bigrams.sum(), "distinct": distinct.sum()}
        notes = (("replaced", "replaceable"), ("entropy", "measured"), ("overlap", "compared"))
        for name, over in notes:
            values = getattr(rollout, name)
            if values is not None:
                found |= {name: (values * mask).sum(), over: tokens}
        # float64 counts exactly, so that a resumed run reports the same digits.
        row = torch.stack([found.get(name, none).double() for name in SUMS])
        self._sums = row if self._sums is None else self._sums.to(row.device) + row

    def report(self) -> dict[str, float]:
        """Means since the last report; {} if nothing was added. A mean that was never measured is left out."""
        if self._sums is None:
            return {}
        sums = dict(zip(SUMS, self._sums.tolist(), strict=True))
        self._sums = None
        means = {
            "length": ("tokens", "rows"),
            "end_of_text_rate": ("ended", "rows"),
            "distinct_2": ("distinct", "bigrams"),
            "replaced": ("replaced", "replaceable"),
            "entropy": ("entropy", "measured"),
            "top_k_overlap": ("overlap", "compared"),
        }
        shown = {name: sums[over] / sums[per] for name, (over, per) in means.items() if sums[per]}
        if "distinct_2" in shown:
            shown["repetition"] = 1 - shown["distinct_2"]
        return shown

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._sums is None else {"sums": self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._sums = state["sums"].clone() if "sums" in state else None


def collapse(report: Mapping[str, float], max_new_tokens: int) -> str | None:
    """A sentence for a warning if the texts behind a `Tally.report` have collapsed, else None.

    >>> collapse({"length": 1.0, "end_of_text_rate": 1.0}, 128)
    'the texts have collapsed: they are empty (1.0 tokens on average, end-of-text included)'
    """
    signs = []
    length = report.get("length")
    if length is not None and length < SHORT:
        signs.append(f"they are empty ({length:.1f} tokens on average, end-of-text included)")
    if length is not None and length >= FULL * max_new_tokens and report["end_of_text_rate"] < NEVER:
        signs.append(f"they never end within max_new_tokens={max_new_tokens}")
    if report.get("distinct_2", 1.0) < REPETITIVE:
        signs.append(f"they repeat themselves (only {report['distinct_2']:.0%} of their bigrams are distinct)")
    if report.get("entropy", 1.0) < CERTAIN:
        signs.append(f"every token is certain (entropy {report['entropy']:.4f} nats)")
    return "the texts have collapsed: " + "; ".join(signs) if signs else None
