"""Tokenizers trained on texts: exact for any script, the same for the same texts, told apart by a fingerprint."""

import gzip

import pytest

pytest.importorskip("transformers")
from potstill.language import tokenizers

ANY = "Héllo 日本語 مرحبا\n\t123 🙂"


@pytest.fixture(scope="module")
def texts(shared):
    path = shared("data", "text", "tinyshakespeare", "input.txt.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read(30_000).split("\n\n")


@pytest.fixture(scope="module")
def trained(texts):
    return tokenizers.train(texts, 400)


def test_any_text_comes_back(trained, texts):
    assert len(trained) == 400
    for text in (ANY, texts[3]):
        assert trained.decode(trained(text)["input_ids"]) == text
    assert len(trained(texts[3])["input_ids"]) < 0.7 * len(texts[3])  # it has learnt English
    assert (trained.eos_token_id, trained.pad_token_id) == (0, 1)
    assert trained("so<|endoftext|>")["input_ids"][-1] == trained.eos_token_id


def test_the_same_texts_give_the_same_tokenizer(trained, texts, tmp_path):
    mark = tokenizers.fingerprint(trained)
    assert tokenizers.fingerprint(tokenizers.train(texts, 400)) == mark
    trained.save_pretrained(tmp_path)
    back = tokenizers.load(tmp_path)
    back(["a", "a longer one"], padding=True, truncation=True, max_length=2)
    assert tokenizers.fingerprint(back) == mark
    assert back(ANY)["input_ids"] == trained(ANY)["input_ids"]
    others = [tokenizers.train(texts[1:], 400), tokenizers.train(texts, 399), tokenizers.train(texts, 400, end="</s>")]
    back.chat_template = "{{ messages[0].content }}"
    assert len({mark, *map(tokenizers.fingerprint, [*others, back])}) == 5


def test_digits_and_marks_of_a_chat(texts):
    made = tokenizers.train([*texts, "1234 " * 500], 400, digits=True, special=["<|user|>"])
    pieces = made.convert_ids_to_tokens(made("<|user|>12345")["input_ids"])
    assert pieces == ["<|user|>", "1", "2", "3", "4", "5"]


def test_a_tokenizer_without_padding_or_end(texts, tmp_path):
    made = tokenizers.train(texts[:50], 300)
    made.pad_token = None
    made.save_pretrained(tmp_path / "one")
    assert tokenizers.load(tmp_path / "one").pad_token == tokenizers.END
    made.eos_token = None
    made.save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match=r"no end-of-text token.*its special tokens: <\|endoftext\|>"):
        tokenizers.load(tmp_path / "two")
    assert tokenizers.load(tmp_path / "two", ends=False).eos_token is None
    with pytest.raises(ValueError, match=r"there is no folder .*onne; did you mean '.*one'"):
        tokenizers.load(tmp_path / "onne")
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        tokenizers.load(tmp_path)


def test_what_cannot_be_trained():
    with pytest.raises(ValueError, match="256 bytes and 2 special tokens need 258"):
        tokenizers.train(["a"], 257)
    with pytest.raises(ValueError, match="no text"):
        tokenizers.train(["", ""], 300)
    with pytest.raises(ValueError, match="text 1 is a int"):
        tokenizers.train(["a", 3], 300)
