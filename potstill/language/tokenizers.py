"""Tokenizers: trained on texts, loaded by name or folder, and told apart by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import did_you_mean
from potstill.language.extra import need, silent, told

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BYTES = 256
"""Tokens that a byte-level vocabulary begins with: any text in any script can be written with these."""
PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that add nothing to their tokenizer.json."""
END, PAD = "<|endoftext|>", "<|pad|>"


def train(
    texts: Iterable[str],
    size: int,
    *,
    end: str = END,
    pad: str = PAD,
    special: Sequence[str] = (),
    digits: bool = False,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair encoding (GPT-2's: Radford et al. 2019) learnt from texts, the same for the same texts.

    `end` ends a text and is also what one begins with; `pad` fills rows up. They come first: 0 and 1, then `special`
    (the marks of a chat, say), then the bytes. `digits` writes numbers digit by digit, as Llama does, which arithmetic
    gains from. Little text gives fewer tokens than `size`.

    Raises ValueError for a size below the bytes and special tokens, and for no text.
    """
    library = need("tokenizers", "a tokenizer")
    marks = list(dict.fromkeys([end, pad, *special]))
    if end == pad:
        raise ValueError(f"end-of-text and padding are both {end!r}; a padding token of its own keeps them apart")
    if size < BYTES + len(marks):
        raise ValueError(
            f"a vocabulary of {size} tokens is too small: {BYTES} bytes and {len(marks)} special tokens need "
            f"{BYTES + len(marks)}"
        )
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {number} is a {type(text).__name__}, expected a string")
            seen += bool(text)
            yield text

    tokenizer = library.Tokenizer(library.models.BPE())
    split = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if digits:
        split = library.pre_tokenizers.Sequence([library.pre_tokenizers.Digits(individual_digits=True), split])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(counted(), trainer)
    if not seen:
        raise ValueError("there is no text to train a tokenizer on")
    made = need("transformers", "a tokenizer").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        bos_token=end,
        pad_token=pad,
        extra_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = chat_template
    return made


def load(name: str | Path, *, ends: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of the hub.

    One without a padding token pads with its end-of-text token: what is padding is masked everywhere.

    Raises ValueError for a folder without a tokenizer, a hub that cannot be reached, and, with `ends`, a tokenizer
    without an end-of-text token, since a student would never learn to stop.
    """
    folder = Path(name).expanduser()
    if str(name).startswith((".", "/", "~")) and not folder.is_dir():
        beside = [str(entry) for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
        raise ValueError(f"there is no folder {folder}" + (f"; {did_you_mean(str(folder), beside)}" if beside else ""))
    place = str(folder) if folder.is_dir() else str(name)
    what = f"the tokenizer of {name}"
    if folder.is_dir() and not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(f"{what}: {folder} holds no tokenizer.json, which tokenizer.save_pretrained(folder) writes")
    library = need("transformers", "a tokenizer")
    with told(what, "" if folder.is_dir() else "give a folder where the hub cannot be reached"), silent():
        kind = library.PreTrainedTokenizerFast if folder.is_dir() and _plain(folder) else library.AutoTokenizer
        tokenizer = kind.from_pretrained(place, trust_remote_code=False)
    return checked(tokenizer, what, ends=ends)


def _plain(folder: Path) -> bool:
    """All of it stands in tokenizer.json. AutoTokenizer may take the class of the architecture beside it (Qwen2's)."""
    try:
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError):
        return False
    return said in PLAIN and (folder / "tokenizer.json").is_file()


def checked(tokenizer: PreTrainedTokenizerBase, what: str = "the tokenizer", *, ends: bool = True):
    """The tokenizer with a padding token; ValueError for one that needs an end-of-text token and has none."""
    if ends and tokenizer.eos_token_id is None:
        known = sorted(set(tokenizer.all_special_tokens))
        shown = ", ".join(known) or "none"
        raise ValueError(
            f"{what} has no end-of-text token, so that nothing would end a response; set tokenizer.eos_token to one "
            f"of its own (its special tokens: {shown})"
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides how text becomes tokens: vocabulary, merges, normaliser, special tokens, chat template.

    Truncation and padding are left out: they are settings of a call, which a fast tokenizer remembers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    state = {name: value for name, value in state.items() if name not in ("truncation", "padding")}
    marks = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    template = getattr(tokenizer, "chat_template", None)
    text = json.dumps([state, marks, template], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
