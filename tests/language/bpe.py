"""A tokenizer that the tests train themselves: byte-level BPE on some sentences, as transformers uses it."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END, START = "</s>", "<s>"
SENTENCES = tuple(
    f"{who} {does} {what} {where}."
    for who in ("A man", "A woman", "Two dogs", "The children")
    for does in ("sees", "holds", "likes", "jumps over")
    for what in ("a red ball", "the long bench", "some water", "a bicycle")
    for where in ("outside", "in the park", "near many bushes", "on a street")
)


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()


def bpe(*, starts: bool = False, **kw) -> PreTrainedTokenizerFast:
    """Without a padding token, as GPT-2's. With `starts` it begins texts with a token, and ends them with one, too."""
    tokenizer = Tokenizer.from_str(_trained())
    if starts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"eos_token": END} | kw))
