"""How a causal network reads on while it writes: caches of keys and values that every row can take back for itself.

In speculative sampling the rows of a batch accept different numbers of tokens, so what a cache holds has to be taken
back by another amount in each row. A `Reader` reads `q` tokens of every row from that row's own position on and
forgets what it had read at that position and after it. Two do that exactly:

- `SlotReader` (slots.py): the slot in the cache *is* the position in the text, so a row overwrites what it takes back.
  No holes, no copying of the cache, one comparison for the mask. For networks with transformers' attention interface
  under `sdpa` or `eager` (Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX, OPT, Phi …), sliding windows included.
- `HoleReader` (holes.py): transformers' own growing cache, where a token that was taken back stays as a masked hole.
  For others that take position ids or count them from the mask (BLOOM, Falcon, GPT-J; flash attention).

B rows, q tokens read at once, P prompt width, V width of the logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

ATTENTION = ("full_attention", "sliding_attention")


class Reader(Protocol):
    """A network, and what it has read of every row."""

    def read(self, tokens: Tensor, start: Tensor, width: int, last: bool = False) -> Tensor:
        """Logits `[B, q, V]` after each of `tokens` `[B, q]`, which stand at positions `start` `[B]` and on.

        `width` is at least the largest `start + q`. With `last` only the last token's logits are wanted: the answer
        may be `[B, 1, V]` or `[B, q, V]`.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        ...


def reader(model: nn.Module, rows: int, slots: int) -> Reader:
    """The reader that is exact and fast for this network, for texts of up to `slots` tokens.

    Raises:
        ValueError: an encoder-decoder, layers whose state cannot be taken back (Mamba, linear attention), or positions
            that nothing can set (MPT).
    """
    from potstill.language.holes import HoleReader
    from potstill.language.slots import SlotReader

    config, types = text_config(model), layer_types(model)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{type(model).__name__} is an encoder-decoder; sampling takes a causal language model")
    inner = base(model)
    implementation = getattr(config, "_attn_implementation", None)
    takes = inspect.signature(type(inner).forward).parameters
    if (
        getattr(inner, "_supports_attention_backend", False)
        and implementation in ("sdpa", "eager")
        and "position_ids" in takes
        and set(types) <= set(ATTENTION)
    ):
        return SlotReader(model, rows, slots)
    other = sorted(set(types) - set(ATTENTION))
    if other:
        raise ValueError(
            f"{type(inner).__name__} has layers of type {', '.join(other)}, whose state cannot be taken back by rows; "
            "sampling here takes full_attention and sliding_attention"
        )
    window = getattr(config, "sliding_window", None) if "sliding_attention" in types else None
    if window and slots > window:
        raise ValueError(
            f"{type(inner).__name__} attends to the last {window} tokens and texts here have up to {slots}: under "
            f"attn_implementation={implementation!r} that window cannot be kept exact; load it with 'sdpa' or 'eager'"
        )
    if "position_ids" not in takes and getattr(config, "model_type", None) != "bloom":
        raise ValueError(
            f"{type(inner).__name__} takes no position_ids: it would count the tokens that were taken back as text"
        )
    return HoleReader(model)


def base(model: nn.Module) -> Any:
    """The causal model inside a peft wrapper, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model


def text_config(model: nn.Module) -> Any:
    config = base(model).config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def layer_types(model: nn.Module) -> tuple[str, ...]:
    """The kind of attention of each layer, as transformers' configurations name it."""
    config = text_config(model)
    types = getattr(config, "layer_types", None)
    if types is None:
        recurrent = getattr(config, "state_size", None) is not None or getattr(config, "ssm_cfg", None) is not None
        kind = "recurrent" if recurrent else "full_attention"
        types = ["sliding_attention" if getattr(config, "sliding_window", None) else kind]
    return tuple(types)


def left_aligned(prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A left-padded prompt `[B, P]` with its padding moved to the right, and the lengths `[B]`.

    >>> left_aligned(torch.tensor([[0, 0, 7], [4, 5, 6]]), torch.tensor([[False, False, True], [True, True, True]]))
    (tensor([[7, 0, 0],
            [4, 5, 6]]), tensor([1, 3]))
    """
    length = mask.sum(1)
    places = torch.arange(prompt.shape[1], device=prompt.device)
    tokens = prompt.gather(1, (places + (prompt.shape[1] - length)[:, None]).clamp(max=prompt.shape[1] - 1))
    return tokens.masked_fill(places >= length[:, None], 0), length


def checked_prompt(
    prompt: Tensor, mask: Tensor, new: int, networks: dict[str, nn.Module]
) -> tuple[Tensor, Tensor, int]:
    """`left_aligned` prompts, their lengths and the longest one, after the checks that sampling makes (one sync).

    Raises:
        ValueError: shapes that differ, padding that is not on the left, an empty prompt, a prompt longer than a
            network's context, or one that leaves no room for `new` tokens.
    """
    if prompt.ndim != 2 or prompt.shape != mask.shape or not prompt.numel():
        raise ValueError(
            f"prompt and prompt_mask must both be [B, P] with at least one token, got {tuple(prompt.shape)} and "
            f"{tuple(mask.shape)}"
        )
    mask = mask.bool()
    tokens, length = left_aligned(prompt, mask)
    ragged = (mask[:, :-1] & ~mask[:, 1:]).any()
    shortest, longest, padded_right = torch.stack([length.min(), length.max(), ragged.long()]).tolist()
    if padded_right:
        raise ValueError("prompts must be padded on the left: prompt_mask has a False after a True")
    if not shortest:
        row = int((length == 0).nonzero()[0, 0])
        raise ValueError(f"prompt {row} is empty: give it at least a beginning-of-text token")
    for name, network in networks.items():
        limit = context(network)
        if limit and longest > limit:
            raise ValueError(f"a prompt has {longest} tokens, more than the {name}'s context of {limit}")
        if limit and longest + new > limit:
            raise ValueError(
                f"the longest prompt has {longest} tokens and max_new_tokens is {new}: {longest + new} is more than "
                f"the {name}'s context of {limit} (max_position_embeddings); shorten the prompts to "
                f"{max(limit - new, 0)} or set max_new_tokens to at most {limit - longest}"
            )
    return tokens[:, :longest], length, longest


def context(model: nn.Module) -> int | None:
    """How many positions a network has; None where nothing says it."""
    return getattr(text_config(model), "max_position_embeddings", None)


def agreed(facts: Tensor, *networks: nn.Module) -> Tensor:
    """`facts`, or the largest of all ranks where a network is sharded over them.

    A sharded network gathers its weights in every forward, so no rank may stop reading before the last one does.
    """
    if dist.is_available() and dist.is_initialized() and any(sharded(network) for network in networks):
        dist.all_reduce(facts, dist.ReduceOp.MAX)
    return facts


def sharded(network: nn.Module) -> bool:
    return any(hasattr(weight, "placements") for weight in network.parameters())


@contextmanager
def quiet(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; every module comes back in the mode it was in."""
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
