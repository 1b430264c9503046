"""A copy of a network without its smallest weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from potstill.precision import lay_out

LAYERS = (nn.Conv2d, nn.Linear)
"""What is pruned."""
STATISTICS = ("running", "batch")
"""What the copy's batch norms normalise with."""


def pruned(module: nn.Module, amount: float, statistics: str = "running") -> nn.Module:
    """A copy in which, in every Conv2d and Linear by itself, the share `amount` of smallest |weight| is zero.

    Biases and batch norms stay, and nothing is tuned afterwards. With `statistics="batch"` its batch norms normalise
    with each batch's own mean and variance, as in training, and remember nothing.

    Raises:
        ValueError: an `amount` outside [0, 1), other statistics, or a network without such layers.
    """
    if not 0 <= amount < 1:
        raise ValueError(f"the share of weights to prune must lie in [0, 1), got {amount}")
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be {' or '.join(STATISTICS)}, got {statistics!r}")
    thin = copy.deepcopy(module)
    channels_last = any(p.ndim == 4 and not p.is_contiguous() for p in thin.parameters())
    lay_out(thin, torch.contiguous_format)  # torch's pruning ranks weights by a flat view of them
    layers = [layer for layer in thin.modules() if isinstance(layer, LAYERS)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no Conv2d and no Linear whose weights could be pruned")
    for layer in layers:
        prune.l1_unstructured(layer, "weight", amount=amount)
        prune.remove(layer, "weight")
    if statistics == "batch":
        for layer in thin.modules():
            if isinstance(layer, _BatchNorm):
                # Without running statistics a batch norm takes the batch's in evaluation mode too.
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
                layer.track_running_stats = False
    if channels_last:
        lay_out(thin, torch.channels_last)
    return thin
