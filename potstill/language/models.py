"""Language models by name, by folder, or made from the teacher: as plain values, and built."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from potstill.language.extra import need
from potstill.language.heads import plain
from potstill.language.lora import with_lora
from potstill.language.narrowing import Cut
from potstill.language.networks import PICKLED, SAFE, class_of, dropouts, new, stored
from potstill.language.students import Rule, from_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEACHER = "teacher"
"""The name of a student that is made from its teacher."""
CONTEXT = 512
"""Most tokens of a sequence of a new network, where nothing else is said."""
SIZES = ("layers", "width", "inner", "heads", "kv_heads", "context", "tied")
CUT = ("layers", "kv_heads", "tied")
"""Sizes that a student made from its teacher takes from it, or from `from_teacher`."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model or an encoder of transformers. The defaults are a new Llama of about 5 M parameters."""

    name: str = "llama"
    """An architecture of transformers (llama, gpt2, qwen2, bert …): a new network with random weights. A folder with a
    config.json (./NAME): its weights, where it holds any. OWNER/NAME: the hub's. teacher: made from the teacher."""
    head: Literal["causal", "classify", "masked"] = "causal"
    """What it answers with: logits of the next token, logits of classes (one class is a regression), or logits of
    masked tokens."""
    labels: int = 2
    """Classes (classify only)."""
    layers: int | None = None
    """Layers of a new network; 4 when left out."""
    width: int | None = None
    """Width of the hidden states; 256 when left out. Of a student made from the teacher: cut down to this."""
    inner: int | None = None
    """Width of the feed-forward layers; four times the width when left out."""
    heads: int | None = None
    """Attention heads; one for every 64 of the width when left out."""
    kv_heads: int | None = None
    """Heads of keys and values, for architectures in which several heads share these; as many when left out."""
    context: int | None = None
    """Most tokens of a sequence; 512 when left out."""
    tied: bool | None = None
    """Use the embedding as the output layer as well; a new network does when left out."""
    pad_to: int = 1
    """Round the rows of a new network's embedding up to a multiple; matrix products like 64."""
    from_teacher: tuple[int, ...] = ()
    """Layers of the teacher to start from: one number says how many, several say which. For the name teacher, for
    distilbert with a BERT as teacher, and for the teacher's own architecture."""
    rule: Rule = "spread"
    """Which layers one number means: from the first to the last (DistilBERT), the first ones (MixKD), or the last of
    each of equal blocks (TinyBERT)."""
    cut: Cut = "first"
    """Which units a narrower student keeps: the first, or those with the largest weights."""
    lora: int = 0
    """Rank of low-rank adapters (peft); only these train. 0: the whole network trains."""
    lora_alpha: float | None = None
    """Scale of the adapters, divided by the rank; twice the rank when left out."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers that get adapters, e.g. q_proj v_proj; all but the output layer when left out."""
    dropout: float | None = 0.0
    """Dropout everywhere in the network, off by default as in TRL's distillation trainers; None: as its configuration
    says."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of the weights; auto: as they are stored, as the teacher's, or float32."""
    attention: str | None = None
    """Implementation of attention (sdpa, eager, flash_attention_2 …); transformers' choice when left out."""
    cache: Path | None = None
    """What potstill cache wrote of this network as the teacher: students learn from that."""

    def __post_init__(self) -> None:
        for name in ("labels", "layers", "width", "inner", "heads", "kv_heads", "context", "pad_to"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.lora < 0:
            raise ValueError(f"lora must be a rank, 0 for none, got {self.lora}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not self.lora and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError("lora_alpha and lora_targets have no effect without lora, the rank of the adapters")
        _no_effect(self, ("labels",), self.head == "classify", f"with head={self.head}")
        _no_effect(self, ("rule", "cut"), self.derived, "on a network that is not made from the teacher")
        if self.derived:
            _no_effect(self, (*CUT, "pad_to"), False, "on a student made from the teacher, which keeps the teacher's")
        elif self.stored:
            _no_effect(self, (*SIZES, "pad_to"), False, f"on {self.name}, which has sizes of its own")

    @property
    def derived(self) -> bool:
        """It is made from the teacher."""
        return self.name == TEACHER or bool(self.from_teacher)

    @property
    def stored(self) -> bool:
        """The name is of a folder or of the hub, not of an architecture."""
        return _stored(self.name)

    @property
    def folder(self) -> Path | None:
        """The folder that the name means, if it is there."""
        path = Path(self.name).expanduser()
        return path if self.stored and path.is_dir() else None

    @property
    def taught(self) -> bool:
        """It comes with trained weights, a folder's or the hub's: as a teacher it is not trained."""
        if self.derived:
            return False
        if self.folder is not None:
            return any(any(self.folder.glob(pattern)) for pattern in (SAFE, PICKLED))
        return self.stored


def _stored(name: str) -> bool:
    return "/" in name or name.startswith((".", "~"))


def renamed(spec: LanguageModel, name: str) -> LanguageModel:
    """Another network in its place; one that has sizes of its own, or the teacher's, does not take these."""
    usual = {entry.name: entry.default for entry in fields(spec) if entry.name in (*SIZES, "pad_to")}
    return replace(spec, **(usual if _stored(name) or name == TEACHER else {}), name=name)


def _no_effect(spec: LanguageModel, names: tuple[str, ...], fine: bool, where: str) -> None:
    for entry in fields(spec):
        if entry.name in names and not fine and getattr(spec, entry.name) != entry.default:
            raise ValueError(f"{entry.name}={getattr(spec, entry.name)} has no effect {where}; leave it out")


def build(
    spec: LanguageModel,
    vocabulary: int | PreTrainedTokenizerBase,
    seed: int = 0,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """The network, on the CPU and in training mode; what starts at random depends on `seed` alone.

    `vocabulary` is the tokenizer, or a number of tokens. From a tokenizer a new network also learns which tokens end
    and fill a text. A network with more rows keeps them: columns of padding. Weights are read from safetensors, or from
    a folder's pytorch_model.bin if this holds only tensors; no code of the hub is run.

    Raises ValueError for an unknown name, a folder without a config.json, a hub that cannot be reached, weights that
    are not whole, a vocabulary that is larger than the network's, and sizes that do not fit.
    """
    count = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    marks = {} if isinstance(vocabulary, int) else _marks(vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.derived:
            model: Any = _from_teacher(spec, teacher, seed)
        elif spec.stored:
            model = stored(spec)
        else:
            model = new(spec, count, marks, CONTEXT)
    rows = _rows(model)
    if rows < count:
        raise ValueError(f"{spec.name} has {rows} tokens in its vocabulary, and the tokenizer has {count}")
    for config in (model.config, getattr(model, "generation_config", None)):
        for name, mark in marks.items():
            if config is not None and getattr(config, name, None) is None:
                setattr(config, name, mark)
    if spec.lora:
        model = with_lora(model, spec.lora, alpha=spec.lora_alpha, targets=spec.lora_targets, seed=seed)
    return model.train()


def _rows(model: Any) -> int:
    return model.get_input_embeddings().num_embeddings


def _marks(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: mark for name in names if (mark := getattr(tokenizer, name)) is not None}


def _from_teacher(spec: LanguageModel, teacher: nn.Module | None, seed: int) -> nn.Module:
    if teacher is None:
        raise ValueError(f"{spec.name}: it is made from the teacher, and there is none")
    config: Any = getattr(teacher, "config", None)
    theirs = getattr(config, "model_type", None)
    if theirs is None:
        raise ValueError(f"a student is made from a network of transformers; the teacher is a {type(teacher).__name__}")
    distilbert = spec.name == "distilbert" and theirs == "bert"
    if spec.name not in (TEACHER, theirs) and not distilbert:
        raise ValueError(
            f"{spec.name}: it cannot be made from a teacher of the architecture {theirs!r}; write name={TEACHER}"
        )
    classifier = type(plain(teacher)).__name__.endswith("SequenceClassification")
    if spec.head == "classify" and classifier and config.num_labels != spec.labels:
        raise ValueError(f"the teacher knows {config.num_labels} classes, and {spec.labels} are wanted")
    changes = {} if spec.dropout is None else dict.fromkeys(dropouts(config), spec.dropout)
    if distilbert:
        library = need("transformers", "a DistilBERT student")
        changes = {} if spec.dropout is None else dict.fromkeys(dropouts(library.DistilBertConfig()), spec.dropout)
    if spec.head == "classify":
        changes["num_labels"] = spec.labels
    return from_teacher(
        teacher,
        keep=spec.from_teacher,
        rule=spec.rule,
        width=spec.width,
        inner=spec.inner,
        heads=spec.heads,
        context=spec.context,
        cut=spec.cut,
        kind=class_of(spec),
        distilbert=distilbert,
        changes=changes,
        dtype=None if spec.dtype == "auto" else getattr(torch, spec.dtype),
        attention=spec.attention,
        seed=seed,
    )
