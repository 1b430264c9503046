"""Students of which only low-rank adapters train (peft): the weights below them keep their bits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from potstill.errors import did_you_mean
from potstill.language.extra import need, told


def with_lora(
    model: nn.Module, rank: int, *, alpha: float | None = None, targets: Sequence[str] = (), seed: int = 0
) -> nn.Module:
    r"""The model with $W + \frac{\alpha}{r} BA$ in place of $W$; A and B train, and all else is frozen.

    `A` `[r, in]` is random, `B` `[out, r]` begins at zero, so that the answers are the model's own at first. `targets`
    are names of linear layers (`q_proj v_proj`, the paper's choice); left out, all of them but the output layer.
    `alpha` is twice the rank where it is left out. A new classifier trains as well. The layers are put into `model`
    itself; `merged` gives a plain network back.

    Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022. arXiv:2106.09685

    Raises ValueError where peft is missing, and for targets that the model does not have.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, got {rank}")
    peft = need("peft", "a LoRA student")
    layers = linear_layers(model)
    known = sorted({name.rpartition(".")[2] for name in layers})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise ValueError(f"{type(model).__name__} has no linear layer {target!r}: {did_you_mean(target, known)}")
    kinds = {"SequenceClassification": "SEQ_CLS", "CausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
    task = next((kind for end, kind in kinds.items() if type(model).__name__.endswith(end)), None)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=list(targets) or "all-linear",
        task_type=task,
        fan_in_fan_out=any(type(layer).__name__ == "Conv1D" for layer in layers.values()),
    )
    with torch.random.fork_rng(devices=[]), told(f"LoRA on {type(model).__name__}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that multiplies by a matrix, by module path."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"  # GPT-2's, of transformers
    }


def adapted(model: nn.Module) -> bool:
    """It carries adapters of peft."""
    return hasattr(model, "merge_and_unload")


def merged(model: nn.Module) -> nn.Module:
    """A plain network with the adapters added to its weights; the model itself stays as it is.

    Without adapters that is the model. The copy is of the whole network, where the network is.
    """
    if not adapted(model):
        return model
    twin: Any = copy.deepcopy(model)
    return twin.merge_and_unload(safe_merge=True)
