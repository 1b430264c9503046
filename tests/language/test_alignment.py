"""Tokens of two tokenizers that cover the same bytes, for tokenizers that were trained here."""

import time
from itertools import accumulate, pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from potstill.language.alignment import Cut, Cutter, aligned, groups
from potstill.language.pieces import Pieces, matched

TEXTS = [
    "Hello world, how are you? 12345",
    "你好，世界。日本語のテキスト",
    "مرحبا بالعالم، كيف حالك؟",
    "👩\u200d👩\u200d👧 e\u0301 café 🇩🇪",
    "  two  spaces\n\ttab ",
    "नमस्ते दुनिया €",
    "",
]
CORPUS = [
    "Hello world, how are you today?",
    "你好，世界！日本語 ",
    "مرحبا بالعالم",
    "👩\u200d👩\u200d👧 café",
    "two tab  spaces",
] * 10


def fast(made, trainer, **names):
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", **names)


def byte_level(size):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return fast(
        made,
        trainers.BpeTrainer(vocab_size=size, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False),
    )


def sentence_piece():
    """Unigram with ▁ for spaces; what it has no piece for falls back to bytes, as in Llama 2."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<eos>"]
    trainer = trainers.UnigramTrainer(vocab_size=70, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    scores = sorted(made.get_vocab().items(), key=lambda item: item[1])
    known = [(token, -1.0 - 0.1 * number) for token, number in scores] + [(piece, -20.0) for piece in pieces]
    made.model = models.Unigram(known, unk_id=0, byte_fallback=True)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>")


def word_piece():
    """Lower case, no accents, no spaces: its tokens do not say their bytes."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]", "<eos>"], show_progress=False)
    return fast(made, trainer, unk_token="[UNK]")


MAKES = {
    "small": lambda: byte_level(270),
    "large": lambda: byte_level(330),
    "pieces": sentence_piece,
    "words": word_piece,
}


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in MAKES.items()}


def slow_groups(student, teacher):
    """Two pointers, token by token: from the lengths in bytes of one text's tokens."""
    sides = [list(accumulate(side)) for side in (student, teacher)]
    edges = sorted(set(sides[0]) & set(sides[1]))
    found = []
    for side in sides:
        starts = [0, *side[:-1]]
        found.append([sum(edge <= start for edge in edges) if start < (edges or [0])[-1] else -1 for start in starts])
    return found


@pytest.mark.parametrize(("one", "other"), [("small", "large"), ("small", "pieces"), ("pieces", "large")])
def test_bytes_say_which_tokens_belong_together(tokenizers, one, other):
    """Every script: a group's bytes are the same on both sides, and no group could be cut further."""
    cutters = Cutter(tokenizers[one]), Cutter(tokenizers[other])
    found = aligned(*cutters, TEXTS)
    for n, text in enumerate(TEXTS):
        lengths = []
        for cut in (found.student, found.teacher):
            ends = cut.ends[n][cut.mask[n]].tolist()
            lengths.append([b - a for a, b in pairwise([0, *ends])])
            assert ends[-1] == len(text.encode()) + 1
        ours = [found.group[n][found.student.mask[n]].tolist(), found.teacher_group[n][found.teacher.mask[n]].tolist()]
        assert ours == slow_groups(*lengths)
        assert ours[0][-1] == ours[1][-1] == max(ours[0]), "the ends of the text belong together"
        for cut, cutter in zip((found.student, found.teacher), cutters, strict=True):
            said = cutter.pieces.joined(cut.ids[n][cut.mask[n]].numpy())
            assert said.removeprefix(b" " if cutter.space else b"") == text.encode().removeprefix(
                b" " if cutter.space else b""
            )
    assert (found.group[~found.student.mask] == -1).all()


def test_a_token_may_end_inside_a_character(tokenizers):
    """€ has three bytes, and no token of its own: the group closes behind the last."""
    found = aligned(Cutter(tokenizers["small"]), Cutter(tokenizers["words"]), ["x € y", "Café"])
    said = [tokenizers["small"].convert_ids_to_tokens(row) for row in found.student.ids]
    assert said[0] == ["x", "Ġ", "â", "Ĥ", "¬", "Ġ", "y", "<eos>"]
    assert found.group[0].tolist() == [0, 1, 1, 1, 1, 2, 2, 3]
    assert found.teacher_group[0].tolist() == [0, 1, 2, 3]
    assert found.group[1].max() == found.teacher_group[1].max() == 1


def test_offsets_of_a_byte_level_tokenizer_agree_with_its_bytes(tokenizers, monkeypatch):
    """The way for tokens that do not say their bytes may close fewer groups, never a wrong one."""
    exact = aligned(Cutter(tokenizers["small"]), Cutter(tokenizers["large"]), TEXTS)
    monkeypatch.setattr(Pieces, "of", lambda tokenizer: None)
    rough = aligned(Cutter(tokenizers["small"]), Cutter(tokenizers["large"]), TEXTS)
    assert torch.equal(exact.student.ids, rough.student.ids)
    whole = rough.student.whole
    assert 0 < int((~whole & rough.student.mask).sum()) < int(whole.sum())
    assert torch.equal(exact.student.ends[whole], rough.student.ends[whole])
    for n in range(len(TEXTS)):
        pairs = {(int(b), int(a)) for a, b in zip(exact.group[n], rough.group[n], strict=True)}
        assert len({a for _, a in pairs}) == len(pairs), "groups by offsets are unions of groups by bytes"


def test_what_a_network_says_is_read_as_far_as_it_is_text(tokenizers):
    student, teacher = Cutter(tokenizers["small"]), Cutter(tokenizers["pieces"])
    cut = student.cut(["ab €", "ab", "abc"])
    ids, mask = cut.ids.clone(), cut.mask.clone()
    mask[0, 4:] = False  # the € is cut off behind its first byte
    ids[2, 1] = 5000  # a column of logits that is no token
    texts, ended, read = student.read(ids, mask)
    assert texts == ["ab ", "ab", "a"]
    assert ended == [False, True, False]
    group, _ = groups(read, teacher.cut(texts, ended))
    assert (group[0] >= 0).tolist() == [True, True, True, False, False, False, False]
    assert (group[1] >= 0).sum() == 3
    assert (group[2] >= 0).tolist()[:4] == [True, False, False, False]
    for name in ("large", "pieces"):  # ▁two may be "two" or " two", so SentencePiece's texts begin with no space here
        cutter, known = Cutter(tokenizers[name]), [text.strip() for text in TEXTS]
        cut = cutter.cut(known)
        texts, ended, read = cutter.read(cut.ids, cut.mask)
        assert all(ended)
        assert torch.equal(read.ends, cut.ends)
        assert texts == known


def test_words_are_read_where_they_would_be_cut_so_again(tokenizers):
    cutter = Cutter(tokenizers["words"])
    cut = cutter.cut(["hello world", "two spaces"])
    texts, _, read = cutter.read(cut.ids, cut.mask)
    assert texts == ["hello world", "two spaces"]
    assert torch.equal(read.ends, cut.ends)
    split = torch.tensor([[tokenizers["words"].convert_tokens_to_ids(token) for token in ("h", "##e")]])
    with pytest.raises(ValueError, match=r"text 0 of the batch, 'he': .* would cut it into other tokens"):
        cutter.read(split, torch.ones_like(split, dtype=torch.bool))


def test_a_tokenizer_without_bytes_and_offsets_is_refused(tokenizers):
    class Slow:
        is_fast, eos_token_id = False, 0

    with pytest.raises(ValueError, match="Slow tells neither the bytes of its tokens nor their offsets"):
        Cutter(Slow())


def test_common_tokens(tokenizers):
    same = matched(tokenizers["small"], tokenizers["small"])
    assert torch.equal(same, torch.arange(270).expand(2, -1))
    for one, other in (("small", "large"), ("small", "pieces"), ("small", "words")):
        pairs = matched(tokenizers[one], tokenizers[other])
        ends = tokenizers[one].eos_token_id, tokenizers[other].eos_token_id
        assert ends in {*map(tuple, pairs.T.tolist())}
        assert all(len(side.unique()) == pairs.shape[1] > 10 for side in pairs)
    bytes_of = [Pieces.of(tokenizers[name]).each for name in ("small", "pieces")]
    pairs = matched(tokenizers["small"], tokenizers["pieces"])
    assert all(bytes_of[0][a] == bytes_of[1][b] for a, b in pairs.T.tolist())
    space = tokenizers["small"].convert_tokens_to_ids("Ġ"), tokenizers["pieces"].convert_tokens_to_ids("▁")
    assert space in {*map(tuple, pairs.T.tolist())}


def test_time_is_linear():
    """Four times the length takes about four times as long (a quadratic algorithm: sixteen times)."""

    def seconds(length):
        generator = torch.Generator().manual_seed(0)
        sides = []
        for _ in range(2):
            ends = torch.randint(1, 5, (1, length), generator=generator).cumsum(1)
            every = torch.ones(1, length, dtype=torch.bool)
            sides.append(Cut(ends, every, ends, every))
        found = []
        for _ in range(4):
            start = time.process_time()  # others may use this processor
            groups(*sides)
            found.append(time.process_time() - start)
        return min(found)

    assert seconds(600_000) < 10 * seconds(150_000)
