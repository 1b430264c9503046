"""WordPiece vocabularies, as encoders read text."""

from __future__ import annotations

from collections import Counter
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
    normal, words = library.normalizers.BertNormalizer(lowercase=True), library.pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in words.pre_tokenize_str(normal.normalize_str(text)))
    if not counts:
        raise ValueError("there is no text to train a tokenizer on")
    # The trainer numbers the letters inside of words as it meets them, in an order of its own each time, and by these
    # numbers it settles ties. What is called special is numbered first, as it is given.
    inside = sorted({f"##{letter}" for word in counts for letter in word[1:]})
    trained = library.Tokenizer(library.models.WordPiece(unk_token=SPECIAL[1]))
    trained.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *inside], show_progress=False
    )
    trained.train_from_iterator((" ".join([word] * count) for word, count in counts.items()), trainer)
    inner = library.Tokenizer(library.models.WordPiece(trained.get_vocab(), unk_token=SPECIAL[1]))
    inner.add_special_tokens(list(SPECIAL))
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normal, words, library.decoders.WordPiece()
    marks = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return need("transformers", "a tokenizer").PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in SPECIAL},
    )
