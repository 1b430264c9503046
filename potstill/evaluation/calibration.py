"""Temperature scaling, and the Brier score. ECE and NLL are `potstill.evaluation.fidelity.calibration`'s."""

from __future__ import annotations

import math

from jaxtyping import Float, Int64
from scipy import optimize
from torch import Tensor

HOTTEST = 100.0
"""Temperatures are looked for from 1 / HOTTEST to HOTTEST."""


def temperature(logits: Float[Tensor, "N K"], labels: Int64[Tensor, " N"]) -> float:
    r"""The T that minimises the negative log-likelihood of softmax(z / T).

    In $\beta = 1/T$ it is convex, with the derivative $\frac1N \sum_i (\sum_k p_{ik} z_{ik} - z_{i y_i})$, whose root
    is found. Where all answers are right the loss falls for ever, and where logits point away from the labels it rises
    from the start: then T is 1/100 or 100.
    Source: Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017, §4.2. arXiv:1706.04599.

    Raises ValueError for no samples and for logits that are not finite.

    >>> import torch
    >>> logits = torch.tensor([[3.0, 0.0]] * 4)
    >>> round(temperature(logits, torch.tensor([0, 0, 0, 1])), 4) == round(3 / math.log(3), 4)
    True
    """
    if len(logits) == 0:
        raise ValueError("a temperature is fitted to at least one sample, got none")
    z = logits.detach().cpu().double()
    if not bool(z.isfinite().all()):
        raise ValueError(f"{int((~z.isfinite()).sum())} of {z.numel()} logits are not finite")
    z = z - z.gather(1, labels.detach().cpu()[:, None])  # relative to the label's, which stands at 0

    def slope(log_beta: float) -> float:
        return ((math.exp(log_beta) * z).softmax(1) * z).sum(1).mean().item()

    end = math.log(HOTTEST)
    if slope(end) <= 0:
        return 1 / HOTTEST
    if slope(-end) >= 0:
        return HOTTEST
    return math.exp(-float(optimize.brentq(slope, -end, end, xtol=1e-10)))


def brier(logits: Float[Tensor, "N K"], labels: Int64[Tensor, " N"]) -> float:
    r"""$\frac1N \sum_i \sum_k (p_{ik} - [k = y_i])^2$, from 0 to 2.

    Source: Brier: *Verification of Forecasts Expressed in Terms of Probability*, Monthly Weather Review 78, 1950.

    >>> import torch
    >>> brier(torch.zeros(1, 2), torch.tensor([1]))
    0.5
    """
    p = logits.detach().double().softmax(1)
    own = p.gather(1, labels[:, None].to(p.device))
    return (p.square().sum(1, keepdim=True) + 1 - 2 * own).mean().item()


def split(samples: int, fraction: float, order: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to fit a temperature to, and those to be measured: the first part of a permutation `order`, and the rest.

    Raises ValueError for a fraction that leaves nothing on one side.
    """
    fitted = round(fraction * samples)
    if not 0 < fitted < samples:
        raise ValueError(
            f"{fraction:g} of {samples} validation images is {fitted}: expected a part that leaves some on both sides"
        )
    return order[:fitted], order[fitted:]
