"""Networks of transformers by architecture, by folder and from the hub. No code of theirs is run, nothing unpickled."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from potstill.errors import did_you_mean
from potstill.language.extra import need, silent, told
from potstill.language.narrowing import INNER

if TYPE_CHECKING:
    from potstill.language.models import LanguageModel

HEADS = {
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "classify": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "masked": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
}
SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"


def new(spec: LanguageModel, count: int, marks: dict[str, int], context: int) -> nn.Module:
    """A network of an architecture with random weights and the sizes of `spec`."""
    transformers = need("transformers", f"the language model {spec.name}")
    known = _known(spec.head)
    if spec.name not in known:
        kinds = [kind for kind in HEADS if spec.name in _known(kind)]
        if kinds:
            raise ValueError(f"{spec.name} has no head {spec.head!r}; it has {' and '.join(kinds)}")
        raise ValueError(
            f"{spec.name!r} is no architecture of transformers ({did_you_mean(spec.name, known)}); a folder is written "
            f"./{spec.name}, a network of the hub OWNER/NAME, e.g. openai-community/gpt2"
        )
    width = spec.width or 256
    heads = spec.heads or max(1, width // 64)
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}")
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": spec.layers or 4,
        "num_attention_heads": heads,
        "max_position_embeddings": spec.context or context,
        "vocab_size": -(-count // spec.pad_to) * spec.pad_to,
        "tie_word_embeddings": spec.tied is not False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **marks,
    }
    with told(f"a new {spec.name}"), silent():
        plain = transformers.AutoConfig.for_model(spec.name)
        inner = next((name for name in INNER if hasattr(plain, name)), None)
        sizes |= {} if inner is None else {inner: spec.inner or 4 * width}
        if hasattr(plain, "num_key_value_heads"):
            sizes["num_key_value_heads"] = spec.kv_heads or heads
        elif spec.kv_heads is not None:
            raise ValueError(f"kv_heads={spec.kv_heads} has no effect: its heads do not share keys and values")
        if plain.to_dict().get("head_dim") is not None:  # falcon has it as a property
            sizes["head_dim"] = width // heads
        if spec.head == "classify":
            sizes["num_labels"] = spec.labels
        config = transformers.AutoConfig.for_model(spec.name, **sizes)
        _check_causal(spec, config)
        return class_of(spec).from_config(without_dropout(spec, config), **_how(spec, stored=False))


def stored(spec: LanguageModel) -> nn.Module:
    """A network of a folder or of the hub, with its weights; at random where a folder holds only a configuration."""
    folder, place = spec.folder, spec.name
    config = configuration(spec)
    with told(place), silent():
        if spec.head == "classify" and (not spec.taught or config.num_labels != spec.labels):
            config.num_labels = spec.labels
        _check_causal(spec, without_dropout(spec, config))
        if not spec.taught:
            return class_of(spec).from_config(config, **_how(spec, stored=False))
        safe = folder is None or any(folder.glob(SAFE))
        model, info = class_of(spec).from_pretrained(
            str(folder or place),
            config=config,
            trust_remote_code=False,
            use_safetensors=safe,
            weights_only=True,
            ignore_mismatched_sizes=False,
            output_loading_info=True,
            **_how(spec, stored=True),
        )
    base = f"{model.base_model_prefix}."
    absent = sorted(name for name in info["missing_keys"] if name.startswith(base) and ".pooler." not in name)
    head = sorted(name for name in info["missing_keys"] if name not in absent)
    if absent or (head and spec.head != "classify"):
        lacking = absent or head
        shown = ", ".join(lacking[:3]) + (" …" if len(lacking) > 3 else "")
        raise ValueError(f"{place}: its weights lack {shown}, so that it is not what head={spec.head} says")
    return model


def _known(head: str) -> dict[str, Any]:
    """The architectures that have it."""
    auto = import_module("transformers.models.auto.modeling_auto")
    return getattr(auto, HEADS[head][1])


def _check_causal(spec: LanguageModel, config: Any) -> None:
    """An encoder has a causal head too, and yet every token of it sees those behind it."""
    encodes = config.model_type in _known("masked") and not getattr(config, "is_encoder_decoder", False)
    if spec.head == "causal" and encodes and not getattr(config, "is_decoder", True):
        raise ValueError(
            f"a {config.model_type} is an encoder, whose tokens see the next one; use head=masked or classify"
        )


def configuration(spec: LanguageModel) -> Any:
    """The configuration of a network of a folder or of the hub.

    Raises ValueError for a folder that is not there or holds none, and for a hub that cannot be reached.
    """
    folder, place = spec.folder, spec.name
    if folder is None and place.startswith((".", "/", "~")):
        path = Path(place).expanduser()
        beside = [str(entry) for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        raise ValueError(f"there is no folder {path}" + (f"; {did_you_mean(str(path), beside)}" if beside else ""))
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(f"{place}: {folder} holds no config.json, which model.save_pretrained(folder) writes")
    transformers = need("transformers", f"the language model {place}")
    hint = "" if folder is not None else f"there is no folder {place} either; give one where the hub cannot be reached"
    with told(place, hint), silent():
        return transformers.AutoConfig.from_pretrained(str(folder or place), trust_remote_code=False)


def class_of(spec: LanguageModel) -> Any:
    """The `AutoModelFor…` of its head."""
    return getattr(need("transformers", f"the language model {spec.name}"), HEADS[spec.head][0])


def _how(spec: LanguageModel, stored: bool) -> dict[str, Any]:
    auto = "auto" if stored else torch.float32
    dtype = auto if spec.dtype == "auto" else getattr(torch, spec.dtype)
    return {"dtype": dtype} | ({"attn_implementation": spec.attention} if spec.attention else {})


def dropouts(config: Any) -> list[str]:
    """The entries of a configuration that are rates of dropout."""
    return [
        name
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, int | float)
    ]


def without_dropout(spec: LanguageModel, config: Any) -> Any:
    if spec.dropout is not None:
        for name in dropouts(config):
            setattr(config, name, spec.dropout)
    return config
