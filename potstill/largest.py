"""The k largest logits of an answer, and one more number for all the others.

An image cache spreads the others' mass evenly (`keep_largest`, `spread`), and kd reads whole logits again. Over a large
vocabulary the others stay one class (`top_logits`), which every divergence can read.

Letters in shapes: B batch, K classes, k classes that are kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32, log_probabilities
from potstill.types import Objective, TopLogits


def keep_largest(
    logits: Float[Tensor, "B K"], k: int, temperature: float
) -> tuple[Float[Tensor, "B k"], Tensor, Float[Tensor, "B"]]:
    r"""The k largest logits, their classes, and the one logit $c$ that stands for every other class.

    $c = T \log \frac{1}{K-k} \sum_{rest} e^{z/T}$: at temperature T, and only there, the k classes keep their exact
    probabilities and the rest its exact mass, spread evenly; the probabilities sum to one.
    """
    values, classes = logits.topk(k, 1)
    rest = at_least_float32(logits).scatter(1, classes, -torch.inf)
    tail = temperature * ((rest / temperature).logsumexp(1) - torch.tensor(logits.shape[1] - k).log())
    return values, classes.to(torch.int32), tail


def spread(values: Float[Tensor, "B k"], classes: Tensor, tail: Float[Tensor, "B"], count: int) -> Tensor:
    """Logits `[B, count]` again, from what `keep_largest` kept.

    >>> values, classes, tail = keep_largest(torch.tensor([[3.0, 0.0, 1.0, 2.0]]), 2, 4.0)
    >>> spread(values, classes, tail, 4).round(decimals=2)
    tensor([[3.0000, 0.5300, 0.5300, 2.0000]])
    """
    whole = tail.to(values.dtype)[:, None].repeat(1, count)
    return whole.scatter(1, classes.long(), values)


def check_tail(name: str, objective: Objective, k: int, temperature: float | None) -> None:
    """Raises ValueError where the k largest logits, with the rest spread evenly, are not what a loss is about."""
    if not objective.tail_spread:
        raise ValueError(
            f"term {name!r} reads all of the teacher's logits, and the cache would hold the {k} largest; kd can do "
            "with these, for other methods leave out top-k"
        )
    own = getattr(objective, "temperature", None)
    if own != temperature:
        raise ValueError(
            f"term {name!r} has temperature {own}, and the mass of the classes that the cache does not hold is that at "
            f"temperature {temperature}; write one cache for each temperature"
        )


def top_logits(logits: Float[Tensor, "*B K"], k: int, temperature: float = 1.0) -> TopLogits:
    """The k most probable classes at a temperature, most probable first, with their exact log-probabilities.

    >>> top_logits(torch.tensor([[3.0, 0.0, 1.0, 2.0]]), 2).indices
    tensor([[0, 3]])
    """
    values, classes = log_probabilities(logits, temperature).topk(k, -1)
    return TopLogits(values, classes, logits.shape[-1], temperature)
