"""How hard each training image is, and strata of equal mass from easy to hard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int16, Int64
from torch import Tensor

from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Source


def probability(logits: Float64[Tensor, "B K"], label: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    r"""$\log((1 - p_y) / p_y)$: the order of $1 - p_y$, which itself is rounded to 0 or 1 where a teacher is sure."""
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    return others - logits.gather(1, label[:, None]).squeeze(1)


def cross_entropy(logits: Float64[Tensor, "B K"], label: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    r"""$-\log p_y$."""
    return F.softplus(probability(logits, label))


def margin(logits: Float64[Tensor, "B K"], label: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """The largest probability of a wrong class minus that of the right one."""
    chances = logits.softmax(1)
    wrong = chances.scatter(1, label[:, None], -1.0).amax(1)
    return wrong - chances.gather(1, label[:, None]).squeeze(1)


def entropy(logits: Float64[Tensor, "B K"], label: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Of the answer; the label plays no part."""
    return torch.special.entr(logits.softmax(1)).sum(1)


MEASURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": probability,
    "ce": cross_entropy,
    "margin": margin,
    "entropy": entropy,
    "mean_ce": cross_entropy,
}
"""By the strongest expert, but `mean_ce`: the mean over all of them. `ce` orders images as `probability` does."""


def measured(name: str, experts: Sequence[Source], samples: Iterable[Batch]) -> Float64[Tensor, "N"]:
    """The difficulty of every sample, in the order of their indices, on the host.

    `experts` are given from weak to strong. Raises ValueError for samples without labels, and for answers of NaN.
    """
    asked = experts if name == "mean_ce" else experts[-1:]
    index, found = [], []
    for batch in samples:
        label = batch.main.label
        if label is None:
            raise ValueError("the difficulty of an image is that of its label, and the data gives no labels")
        said = [MEASURES[name](one(Classify(), batch, MAIN, ()).dense().double(), label) for one in asked]
        index.append(batch.main.index)
        found.append(torch.stack(said).mean(0))
    values, places = torch.cat(found).cpu(), torch.cat(index).cpu()
    if not values.isfinite().all():
        sample = int(places[~values.isfinite()][0])
        raise ValueError(f"the difficulty of sample {sample} is NaN or infinite; check the experts and the data")
    table = torch.empty_like(values)
    table[places] = values
    return table


def strata(difficulty: Float64[Tensor, "N"], count: int) -> Int16[Tensor, "N"]:
    """0 (the easiest) to `count` - 1, of equal mass; equal difficulties share a stratum.

    Raises ValueError for a stratum without samples.

    >>> strata(torch.tensor([0.9, 0.1, 0.2, 0.5], dtype=torch.float64), 2).tolist()
    [1, 0, 0, 1]
    """
    ordered, total = difficulty.sort().values, len(difficulty)
    # A teacher is quite sure of many images: equals go down, so that easy ones share the easiest stratum.
    edges = ordered[[-(-total * number // count) - 1 for number in range(1, count)]]
    found = torch.searchsorted(edges, difficulty)
    sizes = torch.bincount(found, minlength=count).tolist()
    if 0 in sizes:
        raise ValueError(
            f"of {count} strata of difficulty one is empty (sizes {sizes}, easiest first): {total} samples with "
            f"{len(ordered.unique())} different difficulties, from {ordered[0]:.3g} to {ordered[-1]:.3g}; take another "
            "measure of difficulty, fewer assistants or more data"
        )
    return found.to(torch.int16)
