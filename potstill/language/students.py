"""A student made from its teacher: some of the layers, or parts of their widths, with the teacher's weights in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from potstill.language.distilbert import as_distilbert
from potstill.language.heads import plain, unwrapped
from potstill.language.lora import merged
from potstill.language.narrowing import INNER, Cut, Kept, Sizes, choose

Rule = Literal["spread", "first", "blocks"]
UNEQUAL = "scale_attn_by_inverse_layer_idx"
"""A setting of GPT-2 with which a layer does something else at another place."""


def kept_layers(total: int, keep: Sequence[int], rule: Rule = "spread") -> tuple[int, ...]:
    """The teacher's layers that stay: all for nothing, so many for one number, and these for several.

    `spread` is DistilBERT's choice, from the first to the last; `first` is MixKD's; `blocks` is the last of each of
    equal blocks, which TinyBERT's layers learn from ($g(m) = mN/M$). Raises ValueError for layers that are not there.

    >>> kept_layers(12, [6]), kept_layers(12, [3], "blocks"), kept_layers(12, [0, 5])
    ((0, 2, 4, 7, 9, 11), (3, 7, 11), (0, 5))
    """
    if not keep:
        return tuple(range(total))
    if len(keep) > 1:
        wrong = [layer for layer in keep if not 0 <= layer < total]
        if wrong or list(keep) != sorted(set(keep)):
            problem = f"there is no layer {wrong[0]}" if wrong else "they must rise"
            raise ValueError(
                f"layers to keep {tuple(keep)}: {problem}; the teacher has {total} layers, 0 to {total - 1}"
            )
        return tuple(keep)
    count = keep[0]
    if not 1 <= count <= total:
        raise ValueError(f"{count} layers to keep: the teacher has {total}, so that a student has 1 to {total}")
    if rule == "first" or count == total:
        return tuple(range(count))
    if rule == "blocks":
        return tuple((block + 1) * total // count - 1 for block in range(count))
    gaps = max(1, count - 1)
    return tuple((2 * place * (total - 1) + gaps) // (2 * gaps) for place in range(count))


def layer_stack(model: nn.Module, count: int) -> str:
    """The module path of the list of layers, e.g. `model.layers`.

    Raises ValueError where it is not clear which of the model's lists that is.
    """
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    tops = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(tops) != 1:
        found = ", ".join(tops) or "none"
        raise ValueError(f"{type(model).__name__}: which list holds its {count} layers is not clear (found: {found})")
    return tops[0]


def from_teacher(
    teacher: nn.Module,
    *,
    keep: Sequence[int] = (),
    rule: Rule = "spread",
    width: int | None = None,
    inner: int | None = None,
    heads: int | None = None,
    context: int | None = None,
    cut: Cut = "first",
    kind: Any = None,
    distilbert: bool = False,
    fold: bool = False,
    changes: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network of the teacher's kind with fewer layers, or narrower ones, on the CPU; the vocabulary is the teacher's.

    What is kept is an exact copy: with all layers and widths the student answers as the teacher does. Norms, embeddings
    and the head come along. Adapters of the teacher (peft) are merged first. The teacher stays as it is.

    Args:
        teacher: a network of transformers, causal or an encoder.
        keep, rule: which layers, see `kept_layers`.
        width, inner, heads, context: sizes below the teacher's; see `narrowing` (ours, not of a paper). What is left
            out follows the width in proportion. Heads keep their width.
        cut: which units stay: the `first`, or those with the largest weights (`norm`).
        kind: another class to build (an `AutoModelFor…`), for another head than the teacher's: that starts at random.
        distilbert: make a DistilBERT of a BERT: without token types and pooler. The authors drop the token types'
            embeddings; `fold` adds that of type 0, which all tokens of a single text have, to the positions instead.
        changes: entries of the configuration to set (dropout, say).
        dtype: of the student's weights; the teacher's when left out.
        seed: of what starts at random.

    Raises ValueError for layers and sizes that the teacher has not, and for networks that are built otherwise.

    Sanh et al.: DistilBERT, a distilled version of BERT. 2019. arXiv:1910.01108. Liang et al.: MixKD. ICLR 2021.
    """
    source: Any = plain(merged(unwrapped(teacher)))
    own = getattr(source, "config", None)
    if own is None or not hasattr(own, "num_hidden_layers"):
        raise ValueError(f"a student is made from a network of transformers; the teacher is a {type(source).__name__}")
    state: Mapping[str, Tensor] = source.state_dict()
    total, theirs = own.num_hidden_layers, layer_stack(source, own.num_hidden_layers)
    made: Any = kind or type(source)
    if distilbert:
        own, state, theirs, made = as_distilbert(source, kind, fold)
    layers = kept_layers(total, keep, rule)
    if len(layers) < total and getattr(own, UNEQUAL, False):
        raise ValueError(f"the teacher's layers depend on their places ({UNEQUAL}): all of them must stay")
    narrow = None
    if any(size is not None for size in (width, inner, heads, context)):
        sizes = Sizes.of(own)
        smaller = sizes.narrower(width, inner, heads, context, free="head_dim" in own.to_dict())
        narrow = choose(sizes, smaller, state, [f"{theirs}.{layer}." for layer in layers], cut)
    config = _configuration(own, layers, None if narrow is None else narrow.student, changes or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = made.from_config if hasattr(made, "from_config") else made._from_config
        wanted = dtype or next(source.parameters()).dtype
        student = build(config, dtype=wanted, **({"attn_implementation": attention} if attention else {}))
    names = {name: _renamed(name, theirs, layers) for name in student.state_dict()}
    _fill(student, names, {name: state[name] for name in names.values() if name in state}, narrow)
    if getattr(source, "generation_config", None) is not None and hasattr(student, "generation_config"):
        student.generation_config = copy.deepcopy(source.generation_config)
    return student


def _configuration(own: Any, layers: Sequence[int], smaller: Sizes | None, changes: Mapping[str, Any]) -> Any:
    config, total = copy.deepcopy(own), own.num_hidden_layers
    config.num_hidden_layers = len(layers)
    for name, value in vars(own).items():
        if "layer" in name and isinstance(value, list | tuple) and len(value) == total:  # one entry a layer
            setattr(config, name, type(value)(value[layer] for layer in layers))
    if smaller is not None:
        config.hidden_size, config.num_attention_heads = smaller.width, smaller.heads
        config.max_position_embeddings = smaller.context
        setattr(config, next(name for name in INNER if hasattr(own, name)), smaller.inner)
        if hasattr(own, "num_key_value_heads"):
            config.num_key_value_heads = smaller.groups
        if "head_dim" in own.to_dict():
            config.head_dim = smaller.head
    for name, value in changes.items():
        setattr(config, name, value)
    if hasattr(config, "validate_architecture"):  # transformers asks it when the student is loaded: better now
        config.validate_architecture()
    return config


def _renamed(name: str, stack: str, layers: Sequence[int]) -> str:
    """The teacher's name of a parameter of the student."""
    if not name.startswith(f"{stack}."):
        return name
    place, dot, rest = name.removeprefix(f"{stack}.").partition(".")
    return f"{stack}.{layers[int(place)]}{dot}{rest}"


def _fill(student: Any, names: Mapping[str, str], state: Mapping[str, Tensor], kept: Kept | None) -> None:
    own, ready, absent = student.state_dict(), {}, []
    base = f"{getattr(student, 'base_model_prefix', '')}."
    for name, theirs in names.items():
        if theirs not in state:
            # A head that the teacher has not, and the pooler, which belongs to it, start at random.
            if name.startswith(base) and ".pooler." not in name:
                absent.append(name)
            continue
        value = state[theirs] if kept is None else kept.cut(theirs, state[theirs])
        if value.shape != own[name].shape:
            raise ValueError(
                f"{name}: the student has {list(own[name].shape)}, and {list(value.shape)} is what remains of the "
                f"teacher's {list(state[theirs].shape)}"
            )
        ready[name] = value
    if absent:
        raise ValueError(f"the teacher has no {', '.join(absent[:3])}{' …' if len(absent) > 3 else ''}")
    student.load_state_dict(ready, strict=False)
    student.tie_weights()
