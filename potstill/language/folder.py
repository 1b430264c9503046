"""A student as a folder that transformers loads: `AutoModelForCausalLM.from_pretrained(folder)`, `pipeline(…)`."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from potstill.checkpoint import write_json
from potstill.errors import did_you_mean
from potstill.language import tokenizers
from potstill.language.extra import need, silent, told
from potstill.language.heads import plain, unwrapped
from potstill.language.lora import adapted, merged
from potstill.registry import MODEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CARD = "potstill.json"
"""What is known about a student, in its folder."""
SHORT = 512
"""A context up to this long is the longest text that is generated; pipelines add 256 tokens to any prompt."""
PIPELINES = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "Classification": "text-classification",
}


@dataclass(frozen=True)
class Loaded:
    """A student of language with its tokenizer; `model` is in evaluation mode."""

    model: Any
    tokenizer: Any
    card: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: method, data, teacher, seed."""


def save_folder(
    folder: str | Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    card: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write config.json, model.safetensors, generation_config.json, the tokenizer's files, README.md and potstill.json.

    All is written beside and then renamed: the folder is whole, or it is not there. A student that lies there is
    replaced. Adapters (peft) are merged into a copy of the weights. All rows of the vocabulary are kept, padding
    columns included; tied weights are stored once. The tokenizer's end-of-text and padding tokens go into the
    generation config, and its longest text is the network's context.

    `card` holds plain values about the student, e.g. method, data, teacher, seed. `weights` stand for the model's own:
    a moving average, or the whole tensors of a sharded network, by the names of the model's `state_dict`.

    Raises ValueError for a folder that holds something else, and for a network that is not of transformers.
    """
    folder, card = Path(folder), dict(card or {})
    if folder.exists() and not (folder.is_dir() and ((folder / CARD).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} is there and holds no student of potstill (no {CARD}); name a new folder")
    network = unwrapped(model)
    if adapted(network) and weights is not None:
        network, theirs = copy.deepcopy(network), weights
        network.load_state_dict(theirs)
        weights = None
    network = plain(merged(network))
    if not hasattr(network, "save_pretrained"):
        raise ValueError(
            f"a {type(network).__name__} cannot be saved as a folder of transformers, whose network it is not"
        )
    if weights is not None:
        weights = {name: value for name, value in weights.items() if name not in _tied(network, weights)}

    def write(temporary: Path) -> None:
        with told(f"{folder}"), silent():
            network.save_pretrained(temporary, state_dict=None if weights is None else dict(weights))
            if tokenizer is not None:
                _tokenizer_for(tokenizer, network).save_pretrained(temporary)
                _ends(network, tokenizer, temporary)
        name = type(network).__name__
        (temporary / "README.md").write_text(_readme(folder.name, name, card), encoding="utf-8")
        write_json(temporary / CARD, {"class": name, **card})

    _folder_beside(folder, write)
    if tokenizer is not None:
        _check_tokenizer(folder, tokenizer, network.config.model_type)
    return folder


def load_student(run: str | Path) -> Loaded:
    """The student of a run's folder, or of the folder that `save_folder` wrote.

    Raises ValueError where there is none, and for weights that are not whole.
    """
    folder = student_folder(run)
    if folder is None:
        path = Path(run)
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = f"no config.json in it or in {path / MODEL}" if path.is_dir() else did_you_mean(path.name, beside)
        raise ValueError(f"{path} holds no language model: {hint}")
    transformers = need("transformers", "a language model")
    with told(str(folder)), silent():
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        name = (config.architectures or ["none"])[0]
        kind = getattr(transformers, name, None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise ValueError(f"config.json names the class {name!r}, which transformers has not")
        model, info = kind.from_pretrained(folder, dtype="auto", use_safetensors=True, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
    written = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = tokenizers.load(folder, ends=False) if written else None
    card = json.loads((folder / CARD).read_text()) if (folder / CARD).is_file() else {}
    return Loaded(model.eval(), tokenizer, card)


def student_folder(run: str | Path) -> Path | None:
    """The folder of a language model: `run` itself, or the student in it; None where there is neither."""
    return next((path for path in (Path(run), Path(run) / MODEL) if (path / "config.json").is_file()), None)


def how_to_load(run: str | Path) -> str | None:
    """What to call for the student of a run on language; None for other runs."""
    folder = student_folder(run)
    if folder is None:
        return None
    return (
        f"{run} holds a language model: potstill.language.folder.load_student({str(run)!r}) gives model and tokenizer, "
        f"and transformers loads {str(folder)!r} by from_pretrained or pipeline"
    )


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, architecture: str) -> None:
    """For some architectures transformers builds the tokenizer that it knows for them, whatever the folder says."""
    with told(str(folder)), silent():
        found = need("transformers", "a tokenizer").AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizers.fingerprint(found) != tokenizers.fingerprint(tokenizer):
        warnings.warn(
            f"{folder}: transformers reads the tokenizer of a {architecture} network as {type(found).__name__}, which "
            f"splits text its own way; give it the student's own, pipeline(…, tokenizer=load_student({str(folder)!r})"
            ".tokenizer), or train a llama or gpt2 with this tokenizer",
            stacklevel=3,
        )


def _tied(network: Any, weights: Mapping[str, Tensor]) -> set[str]:
    """Names of parameters that are another one's, which is there."""
    return {name for name, source in (network.all_tied_weights_keys or {}).items() if source in weights}


def _tokenizer_for(tokenizer: PreTrainedTokenizerBase, network: Any) -> Any:
    """A copy that knows the context, and pads on the left where a text is continued."""
    twin: Any = copy.deepcopy(tokenizer)
    context = getattr(network.config, "max_position_embeddings", None)
    if isinstance(context, int) and context > 0:
        twin.model_max_length = min(twin.model_max_length, context)
    if _pipeline(type(network).__name__) == "text-generation":
        twin.padding_side = "left"
    return twin


def _ends(network: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    own = getattr(network, "generation_config", None)
    if own is None or not network.can_generate():
        return
    config, end = copy.deepcopy(own), tokenizer.eos_token_id
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if end is not None and end not in known:
        config.eos_token_id = end
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    context = getattr(network.config, "max_position_embeddings", None)
    if isinstance(context, int) and context <= SHORT:
        config.max_length = context
    config.save_pretrained(folder)


def _pipeline(name: str) -> str:
    return next((kind for part, kind in PIPELINES.items() if part in name), "fill-mask")


def _readme(title: str, name: str, card: Mapping[str, Any]) -> str:
    """A model card as the hub shows it."""
    kind = _pipeline(name)
    facts = "".join(f"| {key} | {_cell(value)} |\n" for key, value in card.items())
    call = {"text-generation": "AutoModelForCausalLM", "text-classification": "AutoModelForSequenceClassification"}
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {kind}\ntags:\n- knowledge-distillation\n- potstill\n---\n\n"
        f"# {title}\n\nA {name}, distilled with Potstill.\n\n"
        + (f"| | |\n|---|---|\n{facts}\n" if facts else "")
        + f"```python\nfrom transformers import {call.get(kind, 'AutoModelForMaskedLM')}, pipeline\n\n"
        f'model = {call.get(kind, "AutoModelForMaskedLM")}.from_pretrained("{title}")\n'
        f'answers = pipeline("{kind}", "{title}")\n```\n'
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|")


def _folder_beside(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary folder)`, then put it in the place of `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, old)  # a folder that is not empty cannot be replaced in one go
        os.replace(temporary, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
