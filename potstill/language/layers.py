"""Where a transformer keeps its layers: names for hidden states, queries, keys and values, found by structure.

`hidden0` is what the first layer reads, `hidden1` … what each layer gives (as in transformers, the last behind the
final norm, where there is one), `last_hidden` the last of them. `layer1.q`, `layer1.k`, `layer1.v` are what the
projections of the first layer's attention give, by heads `[B, L, h, d]`; `last.q` … those of the last layer; `words` is
the embedding of the tokens. `hiddens`, `queries`, `keys` and `values` stand for all layers, `attention` for what all
attention scores are made of (all queries, then all keys), `last.attention` for the last layer's. Letters: B batch,
L tokens, h heads, d width of a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"))
"""BERT, RoBERTa, ELECTRA; Llama, Qwen, Mistral, Gemma, OPT; DistilBERT."""
FUSED = ("c_attn", "Wqkv")
"""GPT-2; ModernBERT: one projection that gives queries, keys and values side by side."""
FINAL_NORMS = ("norm", "ln_f", "final_norm", "final_layer_norm", "final_layernorm")
"""A norm behind the last layer, beside the list of layers."""
GROUPS = ("hiddens", "queries", "keys", "values", "attention", "last.attention")
_NAME = re.compile(r"hidden\d+|last_hidden|words|(layer\d+|last)\.[qkv]")
BY_HAND = (
    "name module paths by hand in a potstill.Term, such as encoder.layer.3.attention.self.query.heads64 (heads of 64 "
    "numbers)"
)


@dataclass(frozen=True)
class Layers:
    """Taps of one network, by what they are; `hiddens` is one longer than the others.

    `plain_scores`: attention scores are queries times keys over the square root of d, of all tokens: not so where
    positions turn queries and keys first (Llama, Qwen), or a token sees only those before it. `head` is the module path
    of the output embedding, "" where there is none.
    """

    hiddens: tuple[str, ...]
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    plain_scores: bool = True
    words: str = ""
    head: str = ""

    @property
    def names(self) -> dict[str, str]:
        """Module paths by the names of taps."""
        found = {f"hidden{number}": path for number, path in enumerate(self.hiddens)}
        found["last_hidden"] = self.hiddens[-1]
        for letter, paths in zip("qkv", (self.queries, self.keys, self.values), strict=True):
            found |= {f"layer{number}.{letter}": path for number, path in enumerate(paths, 1)}
            found[f"last.{letter}"] = paths[-1]
        return found | ({"words": self.words} if self.words else {})

    def group(self, name: str) -> tuple[str, ...]:
        """The taps that a name of `GROUPS` stands for.

        Raises ValueError for attention scores that are not made of queries and keys alone.
        """
        count = len(self.queries)
        if name == "hiddens":
            return tuple(f"hidden{number}" for number in range(count + 1))
        if name.endswith("attention"):
            if not self.plain_scores:
                raise ValueError(
                    f"{name!r}: the attention of this network is causal, or positions turn its queries and keys first, "
                    "so its scores are not their products; relations of queries, keys and values "
                    "(last.q, last.k, last.v: minilm) and hidden states do without"
                )
            return ("last.q", "last.k") if name == "last.attention" else (*self.group("queries"), *self.group("keys"))
        return tuple(f"layer{number}.{name[0]}" for number in range(1, count + 1))


def is_name(tap: str) -> bool:
    """Whether it is one of the names above of a single tap.

    >>> is_name("layer12.q"), is_name("last_hidden"), is_name("layer2")
    (True, True, False)
    """
    return _NAME.fullmatch(tap) is not None


def find_layers(model: nn.Module) -> Layers:
    """The layers of a transformer, whatever wraps it: BERT, RoBERTa, DistilBERT, GPT-2, Llama, Qwen, OPT and the like.

    Raises ValueError where no list of layers with attention is found, or several (encoder and decoder).
    """
    stacks = list(_stacks(model))
    kind = type(model).__name__
    if not stacks:
        known = ", ".join("/".join(names) for names in (*PROJECTIONS, FUSED))
        raise ValueError(
            f"{kind} has no list of layers whose attention has projections under known names ({known}); {BY_HAND}"
        )
    if len(stacks) > 1:
        raise ValueError(f"{kind} has several lists of layers ({', '.join(p for p, _ in stacks)}); {BY_HAND}")
    ((path, layers),) = stacks
    first = f"{path}.0"
    attention = [_projections(layer, f"{path}.{number}") for number, layer in enumerate(layers)]
    queries, keys, values = zip(*(found.paths for found in attention if found), strict=True)
    rotary = any(name.rpartition(".")[2].startswith("rotary") for name, _ in model.named_modules())
    words, head = _embeddings(model)
    return Layers(
        hiddens=(f"{first}.input", *(f"{path}.{n}" for n in range(len(layers) - 1)), _last(model, path, len(layers))),
        queries=queries,
        keys=keys,
        values=values,
        plain_scores=not rotary and not any(found.causal for found in attention if found),
        words=words,
        head=head,
    )


@dataclass(frozen=True)
class _Attention:
    paths: tuple[str, str, str]
    causal: bool


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Lists of layers with attention, those inside other such lists left out."""
    outer: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in outer)
        layers = isinstance(module, nn.ModuleList) and len(module) and not inside
        if layers and all(_projections(layer, "") for layer in module):
            outer.append(path)
            yield path, module


def _projections(layer: nn.Module, prefix: str) -> _Attention | None:
    """Queries, keys and values of the first attention in a layer, as paths of taps that are laid out by heads."""
    for path, module in layer.named_modules():
        where = ".".join(filter(None, (prefix, path)))
        size = getattr(module, "head_dim", None) or getattr(module, "attention_head_size", None)
        for names in PROJECTIONS:
            if size and all(isinstance(getattr(module, name, None), nn.Module) for name in names):
                q, k, v = (f"{where}.{name}.heads{size}" for name in names)
                return _Attention((q, k, v), bool(getattr(module, "is_causal", False)))
        fused = next((name for name in FUSED if isinstance(getattr(module, name, None), nn.Module)), None)
        if size and fused:
            q, k, v = (f"{where}.{fused}.part{number}of3.heads{size}" for number in (1, 2, 3))
            return _Attention((q, k, v), bool(getattr(module, "is_causal", False)))
    return None


def _last(model: nn.Module, path: str, count: int) -> str:
    """The final norm beside the list of layers, or the last layer."""
    above = path.rpartition(".")[0]
    beside: Mapping[str, Any] = dict(model.get_submodule(above).named_children())
    norm = next((name for name in FINAL_NORMS if name in beside), None)
    return f"{path}.{count - 1}" if norm is None else ".".join(filter(None, (above, norm)))


def _embeddings(model: nn.Module) -> tuple[str, str]:
    """Paths of the input and the output embedding, "" where a network tells none."""
    paths: dict[int, str] = {}
    for path, module in model.named_modules():
        paths.setdefault(id(module), path)
    found = []
    for method in ("get_input_embeddings", "get_output_embeddings"):
        owner = next((module for module in model.modules() if hasattr(module, method)), None)
        told = None if owner is None else getattr(owner, method)()
        found.append(paths.get(id(told), ""))
    return found[0], found[1]
