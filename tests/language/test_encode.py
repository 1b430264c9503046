"""Texts as token ids, and tokenizers that lack something."""

import numpy as np
import pytest
from bpe import END, SENTENCES, START, bpe

from potstill.language.encode import encode
from potstill.language.spec import Text
from potstill.language.texts import Texts


def texts(prompts, responses=None):
    answers = [[]] * len(prompts) if responses is None else [[one] for one in responses]
    rows = np.arange(len(prompts))
    return Texts(list(prompts), responses, answers, "mine", "train", rows, "row {}".format)


ASKED = [f"{sentence}\n" for sentence in SENTENCES[:64]]
ANSWERED = [sentence.upper() for sentence in SENTENCES[64:128]]


def test_every_text_comes_back_with_its_end():
    tokenizer = bpe()
    found = encode(texts(ASKED, ANSWERED), tokenizer)
    assert (found.end, found.pad, found.tokens.dtype) == (0, 0, np.int32)
    for row in range(64):
        assert tokenizer.decode(found.prompt(row)) == ASKED[row]
        *response, last = found.response(row).tolist()
        assert (tokenizer.decode(response), last) == (ANSWERED[row], 0)
    assert found.notes[-1].startswith("mine train: 64 texts, ")
    assert f"{found.responses.sum():,} of responses" in found.notes[-1]
    # The ids of one text do not depend on the others.
    alone = encode(texts(ASKED[7:8], ANSWERED[7:8]), tokenizer)
    assert alone.tokens.tolist() == [*found.prompt(7), *found.response(7)]
    assert alone.digest != found.digest
    only = encode(texts(ASKED), tokenizer)
    assert not only.answered
    assert (only.responses == 0).all()
    assert np.concatenate([found.prompt(row) for row in range(64)]).tolist() == only.tokens.tolist()


def test_the_beginning_of_text_is_the_tokenizers_own():
    """GPT-2's knows one and does not use it; Llama's does; a chat template may have written it already."""
    knows, uses = bpe(bos_token=START), bpe(bos_token=START, starts=True)
    plain = encode(texts(ASKED, ANSWERED), knows)
    begun = encode(texts([ASKED[0], START + ASKED[0], ""], ANSWERED[:3]), uses)
    assert plain.prompt(0)[0] != 1
    assert begun.prompt(0).tolist() == begun.prompt(1).tolist() == [1, *plain.prompt(0)]
    assert begun.prompt(2).tolist() == [1]
    # Its own end-of-text is put behind responses alone, and once.
    assert begun.response(0).tolist() == plain.response(0).tolist()
    ended = encode(texts(ASKED[:1], [ANSWERED[0] + END]), uses)
    assert ended.response(0).tolist() == plain.response(0).tolist()


def test_a_tokenizer_without_end_of_text():
    bare = bpe(eos_token=None, additional_special_tokens=[START])
    with pytest.raises(ValueError, match=r"names no end-of-text token.*--data.end \(special tokens: <s>\)"):
        encode(texts(ASKED, ANSWERED), bare)
    assert encode(texts(ASKED, ANSWERED), bare, end=0).response(3)[-1] == 0
    assert encode(texts(ASKED, ANSWERED), bare, Text(end=END)).digest == encode(texts(ASKED, ANSWERED), bpe()).digest
    with pytest.raises(ValueError, match=r"data.end: the tokenizer has no token '<s'; did you mean '<s>'"):
        encode(texts(ASKED, ANSWERED), bare, Text(end="<s"))


def test_texts_that_are_too_long():
    tokenizer, long = bpe(), " ".join(SENTENCES[:9])
    mine = texts([ASKED[0], long, ASKED[2]], [ANSWERED[0], ANSWERED[1], long])
    whole = encode(mine, tokenizer)
    said = rf"row 1: a prompt of {whole.prompts[1]} and .* data.max_prompt 20 .* \(1 such of 3\); set data.too_long"
    with pytest.raises(ValueError, match=said):
        encode(mine, tokenizer, Text(max_prompt=20))
    with pytest.raises(ValueError, match="longer than the 60 tokens that the network reads"):
        encode(mine, tokenizer, context=60)
    limits = {"max_prompt": 20, "max_response": 40}
    dropped = encode(mine, tokenizer, Text(too_long="drop", **limits))
    assert (len(dropped), dropped.texts.prompts, dropped.texts.place(0)) == (1, ASKED[:1], "row 0")
    assert dropped.notes[0] == "mine train: 2 of 3 texts are too long and left out"
    cut = encode(mine, tokenizer, Text(too_long="cut", **limits))
    assert cut.prompt(1).tolist() == whole.prompt(1)[-20:].tolist()
    assert cut.response(2).tolist() == whole.response(2)[:40].tolist()
    assert (cut.response(1)[-1], cut.response(2)[-1] == 0) == (0, False)
    assert cut.notes[0] == "mine train: 2 of 3 texts are too long and were cut: 1 prompts, 1 responses"
    narrow = encode(mine, tokenizer, Text(too_long="cut"), context=40)
    assert narrow.lengths.max() == 40
    assert narrow.prompt(1).tolist() == whole.prompt(1)[-20:].tolist()
    assert narrow.response(1).tolist() == whole.response(1)[:20].tolist()
    assert narrow.prompt(0).tolist() == whole.prompt(0).tolist()
    begun = encode(mine, bpe(bos_token=START, starts=True), Text(too_long="cut", **limits))
    assert begun.prompt(1).tolist() == [1, *whole.prompt(1)[-19:]]
    with pytest.raises(ValueError, match=r"3 of 3 texts are too long: none is left; raise data.max_prompt"):
        encode(mine, tokenizer, Text(too_long="drop", max_prompt=2))


def test_texts_without_a_token():
    tokenizer = bpe()
    with pytest.raises(ValueError, match=r"row 1: the prompt '' has no token \(1 such of 2\), and the tokenizer puts"):
        encode(texts(["a", ""], ["b", "c"]), tokenizer)
    from tokenizers.normalizers import Strip

    stripping = bpe()
    stripping.backend_tokenizer.normalizer = Strip()
    with pytest.raises(ValueError, match="row 0: the response '  ' has no token"):
        encode(texts(["a"], ["  "]), stripping)


def test_a_teachers_responses_take_the_place_of_the_datas():
    tokenizer = bpe()
    data = encode(texts(ASKED, ANSWERED), tokenizer)
    spoken = [data.response(row)[::-1] for row in range(64)]
    taught = data.answering(spoken, ANSWERED[::-1])
    assert taught.prompt(5).tolist() == data.prompt(5).tolist()
    assert taught.response(5).tolist() == spoken[5].tolist()
    assert taught.texts.responses[0] == ANSWERED[-1]
    with pytest.raises(ValueError, match="row 2: the new response has no token"):
        data.answering([*spoken[:2], [], *spoken[3:]], ANSWERED)
