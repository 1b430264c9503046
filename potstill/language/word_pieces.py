"""WordPiece vocabularies, as encoders read text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from potstill.language.extra import need

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = 100
"""A vocabulary of fewer tokens has no room for an alphabet and its continuations."""


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece vocabulary (BERT's: Devlin et al. 2019) learnt from texts, the same for the same texts.

    A text is `[CLS] a [SEP]`, a pair `[CLS] a [SEP] b [SEP]` with token types 0 and 1. The special tokens come first.

    Raises ValueError for a size below 100, and for no text.
    """
    if size < LETTERS:
        raise ValueError(f"a vocabulary of {size} tokens is too small for WordPiece: take at least {LETTERS}")
    library = need("tokenizers", "a tokenizer")
    inner = library.Tokenizer(library.models.WordPiece(unk_token=SPECIAL[1]))
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.WordPiece()
    trainer = library.trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    inner.train_from_iterator(texts, trainer)
    if inner.get_vocab_size() == len(SPECIAL):
        raise ValueError("there is no text to train a tokenizer on")
    marks = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return need("transformers", "a tokenizer").PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in SPECIAL},
    )
