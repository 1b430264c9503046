"""Labelled texts: files as users have them, the part that a student sees, and batches of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from potstill.language.edits import edited
from potstill.language.labelled import Labelled, read
from potstill.language.labelled_loader import LabelledLoader, tokenised

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "good", "bad", "film"]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **names)


def some(count=40, classes=2):
    labels = torch.tensor([0 if row % 4 else row // 4 % classes for row in range(count)])
    texts = tuple(" ".join(WORDS[: 1 + row % 7]) for row in range(count))
    return Labelled(texts, None, labels, tuple("nyz"[:classes]), "some")


def test_the_shared_data_sets(shared):
    sentiment = read(shared("data", "text", "sst2"), "validation")
    assert (len(sentiment), sentiment.names, sentiment.second) == (872, ("0", "1"), None)
    assert sentiment.labels.tolist().count(1) == 444
    assert sentiment.first[0] == "it 's a charming and often affecting journey . "
    similar = read(shared("data", "text", "stsb"), "validation", names=())
    assert (len(similar), similar.outputs, similar.names) == (1500, 1, ())
    assert similar.labels.dtype == torch.float32
    assert (similar.labels.min(), similar.labels.max()) == (0, 5)
    assert similar.second is not None


def test_files_of_ones_own(tmp_path):
    rows = [{"text": "good film", "label": "yes"}, {"text": "bad, film", "label": "no"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    (tmp_path / "test.csv").write_text('text,label\ngood film,no\n"bad, film",yes\n')
    pq.write_table(pa.table({"a": ["x y", "z"], "b": ["p", "q"], "points": [2, 1]}), tmp_path / "pairs.parquet")
    train = read(tmp_path)
    assert (train.first, train.names, train.labels.tolist()) == (("good film", "bad, film"), ("no", "yes"), [1, 0])
    test = read(tmp_path, "test", names=train.names)
    assert (test.first, test.labels.tolist()) == (train.first, [0, 1])
    pairs = read(tmp_path / "pairs.parquet", text="a", pair="b", label="points")
    assert (pairs.second, pairs.names, pairs.labels.tolist()) == (("p", "q"), ("1", "2"), [1, 0])
    assert read(tmp_path / "pairs.parquet", text="a", label="points", names=()).labels.tolist() == [2.0, 1.0]


def test_mistakes_are_named_with_their_place(tmp_path):
    def told(name, content, said, **kw):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=said):
            read(tmp_path / name, **kw)

    told("a.jsonl", '{"text": "x", "label": 0}\n\n{"text": "y", "label"\n', r"a\.jsonl, line 3: not JSON")
    told("b.jsonl", '["x", 0]\n', "line 1: a list where an object was expected")
    told("c.csv", "text,label\nx,0\n ,1\n", r"c\.csv, line 3: 'text' is empty; every row needs a text")
    told("d.csv", "text,label\nx,0\ny,\n", "line 3: it has no 'label'")
    told("e.csv", "txt,label\nx,0\n", "which column is the text. It has txt, label; name one")
    told("f.csv", "text,label\nx,0\ny,1\n", "no column 'lable'; did you mean 'label'", label="lable")
    told("g.csv", "text,label\nx,0\ny,2\n", "line 3: training has no class '2'; known: 0, 1", names=("0", "1"))
    told("h.csv", "text,label\nx,0.5\ny,ten\n", "line 3: the label 'ten' is no number", names=())
    told("i.csv", "text,label\nx,1\ny,1\n", "all labels are '1'")
    with pytest.raises(ValueError, match=r"no valid\.csv, .* there is a\.jsonl, b\.jsonl"):
        read(tmp_path, "valid")


def test_a_part_is_balanced_and_contains_smaller_ones():
    texts = some()
    rare = int((texts.labels == 1).sum())
    parts = [texts.part(share) for share in (0.1, 0.25, 1.0)]
    assert [len(part) for part in parts] == [4, 10, 40]
    assert [int((part.labels == 1).sum()) for part in parts] == [2, min(5, rare), rare]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert larger.first[: len(smaller)] == smaller.first
        assert torch.equal(larger.labels[: len(smaller)], smaller.labels)
    assert texts.part(0.25, seed=1).first != parts[1].first
    assert sorted(parts[2].first) == sorted(texts.first)
    scores = Labelled(texts.first, None, torch.linspace(0, 5, 40), (), "scores")
    assert len(scores.part(7)) == 7
    with pytest.raises(ValueError, match="1 of 40 texts; expected 2"):
        texts.part(0.001)


def test_batches_hold_the_tokens_and_can_begin_anywhere(tokenizer):
    texts = some()
    tokens = tokenised(texts, tokenizer)
    loader = LabelledLoader(tokens, 8, seed=3)
    epoch = list(loader.epoch(1))
    assert loader.steps == len(epoch) == 5
    assert torch.cat([batch.main.index for batch in epoch]).sort().values.tolist() == list(range(40))
    for batch in epoch:
        chosen = texts.take(batch.main.index)
        plain = tokenizer(list(chosen.first), padding=True, return_tensors="pt")
        for name, value in plain.items():
            assert torch.equal(batch.main.input[name].long(), value)
        assert torch.equal(batch.main.label, chosen.labels)
    later = list(loader.epoch(1, 3))
    assert [batch.main.index.tolist() for batch in later] == [batch.main.index.tolist() for batch in epoch[3:]]
    assert next(iter(loader.epoch(2))).main.index.tolist() != epoch[0].main.index.tolist()
    by_length, random = [list(LabelledLoader(tokens, 4, seed=3, window=window).epoch(0)) for window in (8, 1)]
    sizes = [sum(batch.main.input["input_ids"].numel() for batch in epoch) for epoch in (by_length, random)]
    assert sizes[0] < sizes[1]
    halves = [LabelledLoader(tokens, 8, seed=3, rank=rank, world=2) for rank in range(2)]
    both = torch.cat([next(iter(half.epoch(1))).main.index for half in halves])
    assert torch.equal(both, epoch[0].main.index)
    with pytest.warns(UserWarning, match="larger than the 40 texts of some"):
        assert LabelledLoader(tokens, 64).steps == 1


def test_pairs_are_joined_and_cut(tokenizer):
    texts = Labelled(("a b c", "d"), ("e f g h", "f"), torch.tensor([0.5, 4.0]), (), "pairs")
    tokens = tokenised(texts, tokenizer, max_length=8)
    view = next(tokens.batches(2)).main
    plain = tokenizer(
        ["a b c", "d"], ["e f g h", "f"], padding=True, truncation=True, max_length=8, return_tensors="pt"
    )
    assert all(torch.equal(view.input[name].long(), value) for name, value in plain.items())
    assert (tokens.full, tokens.info(2).classes, view.label.dtype) == (1, None, torch.float32)
    with pytest.raises(ValueError, match="max_length must be at least 5"):
        tokenised(texts, tokenizer, max_length=4)


def test_edited_texts_lose_and_exchange_words():
    texts = some()
    made = edited(texts, 2, deletion=0.3, swap=0.3, seed=5)
    assert len(made) == 80
    assert torch.equal(made.labels, texts.labels.repeat(2))
    assert made.first == edited(texts, 2, deletion=0.3, swap=0.3, seed=5).first
    assert made.first[:40] != made.first[40:]
    for before, after in zip(texts.first * 2, made.first, strict=True):
        assert after
        assert set(after.split()) <= set(before.split())
    before, after = (sum(len(text.split()) for text in side) for side in (texts.first * 2, made.first))
    assert 0.6 < after / before < 0.85
    assert any(after.split() != sorted(after.split()) for after in made.first)
    assert edited(texts, deletion=0, swap=0).first == texts.first
    assert len(texts.with_rows(made)) == 120
    with pytest.raises(ValueError, match="do not go together"):
        texts.with_rows(some(classes=3))
