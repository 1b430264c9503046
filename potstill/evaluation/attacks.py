r"""Adversarial images within $\|x' - x\|_\infty \le \epsilon$ of an image, in pixels of [0, 1].

Both attacks go up the sign of the gradient of the cross-entropy $\log(1 + e^m)$, with the margin
$m = \log \sum_{k \ne y} e^{z_k} - z_y$. The derivative by m is positive, so the sign is that of m's gradient, which is
what is computed: the gradient of the cross-entropy vanishes in float32 where a network is sure of its answer, and
such a network would look robust.

FGSM: Goodfellow, Shlens, Szegedy: *Explaining and Harnessing Adversarial Examples*, ICLR 2015, arXiv:1412.6572.
PGD: Madry, Makelov, Schmidt, Tsipras, Vladu: *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR
2018, arXiv:1706.06083.

Letters in shapes: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.evaluation.warps import Draws
from potstill.functional import at_least_float32

Answer = Callable[[Tensor], Tensor]
"""From pixels in [0, 1], `[B, C, H, W]`, to logits `[B, K]`, with the network's own preprocessing."""


def margin(logits: Float[Tensor, "B K"], label: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log Σ exp of the other classes' logits, less the label's: the cross-entropy is log(1 + e^margin).

    >>> margin(torch.tensor([[2.0, 0.5]]), torch.tensor([0]))
    tensor([-1.5000])
    """
    if logits.shape[1] < 2:
        raise ValueError(f"an attack needs at least 2 classes, got logits of shape {list(logits.shape)}")
    logits = at_least_float32(logits)
    own = logits.gather(1, label[:, None])
    others = logits.scatter(1, label[:, None], -torch.inf)
    return others.logsumexp(1) - own[:, 0]


def fgsm(
    answer: Answer, pixels: Float[Tensor, "B C H W"], label: Int64[Tensor, " B"], epsilon: float
) -> Float[Tensor, "B C H W"]:
    """One step of length `epsilon` from the image itself.

    Raises ValueError for an `epsilon` outside (0, 1].
    """
    return (pixels + check(epsilon) * _uphill(answer, pixels, label)).clamp(0, 1)


def pgd(
    answer: Answer,
    pixels: Float[Tensor, "B C H W"],
    label: Int64[Tensor, " B"],
    epsilon: float,
    *,
    index: Int64[Tensor, " B"],
    steps: int = 20,
    step_size: float | None = None,
    seed: int = 0,
) -> Float[Tensor, "B C H W"]:
    """`steps` steps of `step_size` (2.5 ε / steps when left out) from a random start in the ball; the last one counts.

    The start is a function of (seed, index): the same images are attacked from the same place whoever answers, in
    batches of any size.

    Raises ValueError for an `epsilon` outside (0, 1], fewer than 1 step, and a step that is not positive.
    """
    check(epsilon)
    step_size = 2.5 * epsilon / max(steps, 1) if step_size is None else step_size
    if steps < 1 or not step_size > 0:
        raise ValueError(f"PGD takes at least 1 step of positive size, got {steps} of {step_size}")
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    start = Draws(index, (seed, "pgd")).uniform("start", *pixels.shape[1:], low=-epsilon, high=epsilon)
    found = (pixels + start.to(pixels)).clamp(0, 1)
    for _ in range(steps):
        found = (found + step_size * _uphill(answer, found, label)).clamp(low, high)
    return found


def check(epsilon: float) -> float:
    """Raises ValueError for an `epsilon` outside (0, 1]."""
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must lie in (0, 1], in pixels of [0, 1] (8/255, say), got {epsilon:g}")
    return epsilon


def _uphill(answer: Answer, pixels: Tensor, label: Tensor) -> Tensor:
    with torch.enable_grad():
        x = pixels.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(answer(x), label).sum(), x)
    return gradient.sign()
