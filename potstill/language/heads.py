"""A causal language model as a backbone and the parameters of its head, for losses on `LazyLogits`.

Letters in shapes: B samples, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PROBE = 100.0
"""Size of the logits of the probe: a soft cap of 30 or 50 is felt there, as it is not at the logits of a new model."""
INPUTS = 4
"""Tokens of the probe."""


@dataclass(frozen=True)
class Split:
    """`backbone(**inputs).last_hidden_state @ weight.T + bias` are the model's logits.

    `weight` `[V, D]` and `bias` `[V]` or None are looked up in the model when they are asked for: where the model is
    sharded (FSDP2) they are whole only inside the forward pass of the wrapper.
    """

    backbone: Callable[..., Any]
    """Takes what the model takes (`input_ids`, `attention_mask`, `position_ids` …) and answers with hidden states."""
    head: nn.Linear

    @property
    def weight(self) -> Tensor:
        return self.head.weight

    @property
    def bias(self) -> Tensor | None:
        return self.head.bias

    def hidden(self, **inputs: Any) -> Tensor:
        """The input of the head `[B, L, D]`, without a key-value cache."""
        return self.backbone(**inputs, use_cache=False).last_hidden_state


def unwrapped(model: nn.Module) -> Any:
    """The network inside the wrappers of data parallelism and torch.compile."""
    inner: Any = model
    while True:
        if isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif type(inner).__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
            inner = inner.module
        else:
            return inner


def plain(model: nn.Module) -> Any:
    """The network of transformers inside those wrappers and peft's; adapters stay in its layers."""
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model") else inner


def split(model: nn.Module) -> Split | None:
    """Backbone and head of a causal language model; None where the logits are more than hidden states times a matrix.

    Whether they are is found by one small forward pass of each: the head must read what the backbone answers with,
    and the model must answer with what the head says, for logits of ±100 as well. So a soft cap (Gemma 2), a factor
    on the logits (Cohere, Granite) and a layer in front of the head (BERT) give None, and the caller computes dense
    logits. So do a head that carries an adapter, and prompts that peft learns. The model comes back as it was. Call it
    once for a model and before it is sharded (FSDP2), not in a step: it runs the model, and compares on the host.
    """
    adapters = getattr(unwrapped(model), "peft_config", None)
    if isinstance(adapters, dict) and any(getattr(one, "is_prompt_learning", False) for one in adapters.values()):
        return None
    network = plain(model)
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    if type(head) is not nn.Linear:  # a subclass may do more: peft's adds an adapter, which the weight does not show
        return None
    with _looking(network):
        for backbone in _backbones(network):
            if _agree(network, backbone, head):
                return Split(backbone, head)
    return None


def _backbones(network: Any) -> Iterator[nn.Module]:
    """Where the hidden states may come from: the decoder, or all that the model's own prefix names."""
    seen: list[nn.Module] = [network]
    decoder = network.get_decoder() if hasattr(network, "get_decoder") else None
    for found in (decoder, getattr(network, "base_model", None)):
        if isinstance(found, nn.Module) and not any(found is one for one in seen):
            seen.append(found)
            yield found


def _agree(network: Any, backbone: nn.Module, head: nn.Linear) -> bool:
    rows = getattr(network.get_input_embeddings(), "num_embeddings", len(head.weight))
    ids = torch.arange(1, INPUTS + 1, device=head.weight.device)[None] % rows
    read: list[Tensor] = []
    said: list[Tensor] = []

    def replace(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        spread = torch.linspace(-PROBE, PROBE, output.numel(), device=output.device).to(output.dtype)
        read.append(inputs[0])
        said.append(spread.view_as(output))
        return said[-1]

    handle = head.register_forward_hook(replace)
    try:
        logits = network(input_ids=ids, use_cache=False).logits
        hidden = getattr(backbone(input_ids=ids, use_cache=False), "last_hidden_state", None)
    except TypeError:  # a backbone with other arguments
        return False
    finally:
        handle.remove()
    if len(read) != 1 or hidden is None or hidden.shape != read[0].shape or logits.shape != said[0].shape:
        return False
    scale = hidden.abs().amax().clamp(min=1e-30)
    near = torch.allclose(read[0] / scale, hidden.to(read[0].dtype) / scale, rtol=0, atol=1e-3)
    return near and torch.equal(logits.to(said[0].dtype), said[0])


@contextmanager
def _looking(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient, and every module's own mode again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
