"""Low-rank additions to the linear maps of a network that is not edited (LoRA), and where they are put.

Letters in shapes: D width in, O width out, r rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.errors import did_you_mean
from potstill.hashing import hash_int

PLACES = ("auto", "attention", "linear", "head")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


class LowRank(nn.Module):
    r"""What a linear map's answer becomes: $y + B A x$, with A `[r, D]` and B `[O, r]`.

    B is zero at first, so nothing is added before the first step; A is uniform in $\pm 1 / \sqrt{D}$, as in PEFT with
    `lora_alpha` equal to the rank. The products run in the dtype of x, whatever that of A and B.

    Source: Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022. arXiv:2106.09685
    """

    def __init__(self, inputs: int, outputs: int, rank: int, generator: torch.Generator):
        super().__init__()
        self.down = nn.Parameter(_drawn((rank, inputs), inputs, generator))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def inner(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B r"]:
        """A x."""
        return F.linear(x, self.down.to(x.dtype))

    def forward(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B O"]) -> Float[Tensor, "*B O"]:
        return y + F.linear(self.inner(x), self.up.to(x.dtype)).to(y.dtype)


class LowRankConv(nn.Module):
    """The same for a convolution without groups: A is one with r filters of its size, B one of 1x1."""

    def __init__(self, layer: nn.Conv2d, rank: int, generator: torch.Generator):
        super().__init__()
        shape = (rank, *layer.weight.shape[1:])
        self.down = nn.Parameter(_drawn(shape, math.prod(shape[1:]), generator))
        self.up = nn.Parameter(torch.zeros(layer.out_channels, rank, 1, 1))
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Float[Tensor, "B C H W"], y: Float[Tensor, "B O I J"]) -> Float[Tensor, "B O I J"]:
        inner = F.conv2d(x, self.down.to(x.dtype), None, self.stride, self.padding, self.dilation)
        return y + F.conv2d(inner, self.up.to(inner.dtype)).to(y.dtype)


def low_rank(
    network: nn.Module, rank: int, place: str = "auto", head: str | None = None, seed: int = 0
) -> dict[str, nn.Module]:
    """A low-rank addition for each place of a network, by the path of its module, on the network's device.

    `place`: `attention`, the projections of queries, keys, values and what follows them; `linear`, every linear map
    (`nn.Linear`, `Conv1D` of transformers, convolutions without groups) but the one that answers; `head`, that one
    alone; `auto`, attention, or in a network without any, linear. `head` is the path of the module that answers.
    Initial values are a function of (seed, path).

    Raises:
        ValueError: an unknown place, a rank below 1, or a network that has no such place.

    >>> sorted(low_rank(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), 1, head="2"))
    ['0']
    """
    if rank < 1:
        raise ValueError(f"the rank of a low-rank addition must be at least 1, got {rank}")
    return {
        path: _addition(layer, rank, hash_int(seed, "low rank", path))
        for path, layer in _chosen(network, place, head).items()
    }


def head_of(network: nn.Module, names: Mapping[str, str]) -> str | None:
    """The path of the module that makes the answer: a language model's own word, or what the probe found."""
    own = getattr(network, "get_output_embeddings", None)
    layer = own() if callable(own) else None
    if layer is not None:
        return next((path for path, module in network.named_modules() if module is layer), None)
    return names.get("embedding", "").removesuffix(".input") or None


def _chosen(network: nn.Module, place: str, head: str | None) -> dict[str, nn.Module]:
    if place not in PLACES:
        raise ValueError(f"unknown place {place!r} for low-rank additions; {did_you_mean(place, PLACES)}")
    linear = {path: module for path, module in network.named_modules() if _takes(module)}
    # Its weights are read without a call, so there is nothing to add to.
    unread = [path for path, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linear = {path: module for path, module in linear.items() if not _inside(path, unread)}
    body = {path: module for path, module in linear.items() if path != head}
    attention = {path: module for path, module in body.items() if _ATTENTION.search(path)}
    found = {
        "auto": attention or body,
        "attention": attention,
        "linear": body,
        "head": {path: module for path, module in linear.items() if path == head},
    }[place]
    if not found:
        others = "linear or head" if place == "attention" else "attention or linear" if place == "head" else "head"
        raise ValueError(
            f"{type(network).__name__} has no place {place!r} for low-rank additions (its linear maps: "
            f"{', '.join(linear) or 'none'}); take {others}"
        )
    return found


def _inside(path: str, modules: Sequence[str]) -> bool:
    return any(not module or path.startswith(f"{module}.") for module in modules)


def _takes(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear) or _transposed(layer)


def _transposed(layer: nn.Module) -> bool:
    """The linear map of GPT-2, whose weight is `[D, O]`."""
    return type(layer).__name__ == "Conv1D" and isinstance(getattr(layer, "nf", None), int)


def _addition(layer: nn.Module, rank: int, seed: int) -> nn.Module:
    generator, weight = torch.Generator().manual_seed(seed), layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.Conv2d):
        return LowRankConv(layer, rank, generator).to(weight.device)
    # Not the shape of an nn.Linear's weight: a quantised one is packed.
    sizes = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else weight.shape
    return LowRank(*sizes, rank, generator).to(weight.device)


def _drawn(shape: Sequence[int], fan_in: int, generator: torch.Generator) -> Tensor:
    return torch.empty(*shape).uniform_(-1, 1, generator=generator) / math.sqrt(fan_in)
