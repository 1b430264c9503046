"""What a teacher says of the response tokens of texts, kept and read again: equal to the live teacher, or refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from bpe import SENTENCES, bpe
from causal_networks import causal

from potstill.language import signals as module
from potstill.language.cached import CachedTexts
from potstill.language.encode import encode
from potstill.language.loader import TextLoader, batch_of
from potstill.language.signals import Signals, capture
from potstill.language.stores import part, read_about
from potstill.language.texts import Texts
from potstill.language.views import rewritten
from potstill.objectives import OBJECTIVES
from potstill.sources import Network, Shuffled
from potstill.tasks.language import Language
from potstill.terms import Address, Wired, units
from potstill.types import MAIN, Progress, TopLogits

TOKENIZER = bpe()
VOCABULARY = len(TOKENIZER)
TASK = Language(vocabulary=VOCABULARY)


def texts(count=23):
    prompts = [" ".join(SENTENCES[n : n + 1 + n % 3]) + "\n" for n in range(count)]
    responses = [" ".join(SENTENCES[5 * n % 60 : 5 * n % 60 + 1 + n % 2]) for n in range(count)]
    return Texts(prompts, responses, [[one] for one in responses], "mine", "train", np.arange(count), str)


@pytest.fixture(scope="module")
def encoded():
    return encode(texts(), TOKENIZER)


@pytest.fixture(scope="module")
def teacher():
    """With columns that are no token."""
    return Network(causal("llama", vocab_size=VOCABULARY + 12, max_position_embeddings=128), trained=False)


@pytest.fixture(scope="module")
def student():
    return Network(causal("llama", seed=1, vocab_size=VOCABULARY, max_position_embeddings=128), trained=True)


def kept(source, encoded, folder, *, tokenizer="bpe", **options):
    """A cache of several parts."""
    capture(
        source, TASK, encoded, folder, Signals(**{"budget": 256, "part_bytes": 2**16} | options), tokenizer=tokenizer
    )
    return folder


@pytest.fixture(scope="module")
def hidden(teacher, encoded, tmp_path_factory):
    return kept(teacher, encoded, tmp_path_factory.mktemp("hidden") / "cache", part_bytes=2**14)


def batch(encoded, rows=(3, 17, 4, 22)):
    return batch_of(encoded, np.array(rows))


def loss(name, student, guide, batch, **options):
    """The loss of a student and its gradient, as the engine computes them."""
    term = Wired(
        "term", OBJECTIVES[name](**options), Address("student", ("output",)), Address("teacher", ("output",)), 1
    )
    said = {who: {MAIN: source(TASK, batch, MAIN, ())} for who, source in (("student", student), ("teacher", guide))}
    count = units(batch.main.mask, len(batch), torch.device("cpu"))
    found = term(said, batch, batch.main.mask, count, Progress(0, 0, 1), 0)
    weights = list(student.module.parameters())
    return found.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(found, weights)])


@pytest.mark.parametrize(("name", "options"), [("forward_kl", {}), ("jsd", {"temperature": 2.0})])
def test_hidden_states_are_the_live_teacher(name, options, hidden, teacher, student, encoded):
    cached = CachedTexts(hidden, encoded)
    assert cached.module is None
    assert read_about(hidden).kind == "hidden"
    assert len(list(hidden.glob("part*"))) > 2
    for some in TextLoader(encoded, 6).epoch(0):
        live, again = (loss(name, student, guide, some, **options) for guide in (teacher, cached))
        torch.testing.assert_close(again, live, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "near"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_hidden_states_in_half_the_space(dtype, near, teacher, student, encoded, hidden, tmp_path):
    folder = kept(teacher, encoded, tmp_path / "c", dtype=dtype, part_bytes=2**14)
    sizes = [sum(path.stat().st_size for path in one.glob("part*")) for one in (folder, hidden)]
    assert sizes[0] < 0.6 * sizes[1]
    said = [source(TASK, batch(encoded), MAIN, ()).dense() for source in (teacher, CachedTexts(folder))]
    assert said[1].dtype == torch.float32
    mask = batch(encoded).main.mask
    scale = said[0][mask].abs().max()
    torch.testing.assert_close(said[1][mask] / scale, said[0][mask] / scale, rtol=0, atol=near)


def test_all_tokens_are_the_whole_law_and_few_a_lower_bound(teacher, student, encoded, tmp_path):
    """With k = V the divergence is that of dense logits; with fewer it is at most that, and the mass is exact."""
    every = CachedTexts(kept(teacher, encoded, tmp_path / "all", k=VOCABULARY, temperature=2.0), encoded)
    few = CachedTexts(kept(teacher, encoded, tmp_path / "few", k=50, temperature=2.0, dtype="float16"), encoded)
    one = batch(encoded)
    live, all_of, some = (loss("forward_kl", student, guide, one, temperature=2.0) for guide in (teacher, every, few))
    torch.testing.assert_close(all_of, live, rtol=1e-4, atol=1e-6)
    assert 0.2 * live[0] < some[0] < live[0]
    logits = teacher(TASK, one, MAIN, ()).dense()[one.main.mask]
    top = few(TASK, one, MAIN, ()).output
    assert isinstance(top, TopLogits)
    best = (logits / 2).softmax(1).topk(50)
    torch.testing.assert_close(top.log_probs[one.main.mask].float().exp(), best.values, rtol=3e-3, atol=1e-6)
    assert (top.indices[one.main.mask] == best.indices).float().mean() > 0.99
    assert top.log_probs.isfinite().all(), "also where nothing counts"


def test_rows_are_found_wherever_they_lie(hidden, encoded, teacher):
    """Texts are known by their content: of fewer, in another order, padded otherwise."""
    fewer = encode(texts().take([20, 3, 3, 11]), TOKENIZER)
    said = CachedTexts(hidden, fewer)(TASK, batch(fewer, (2, 0, 3)), MAIN, ()).dense()
    live = teacher(TASK, batch(encoded, (3, 20, 11)), MAIN, ()).dense()
    mask = batch(encoded, (3, 20, 11)).main.mask
    torch.testing.assert_close(said[mask], live[mask], rtol=1e-4, atol=1e-4)
    main = batch(encoded, (3, 20)).main
    padded = rewritten(batch(encoded, (3, 20)), main.label.repeat(1, 2), torch.cat([main.mask, main.mask & False], 1))
    assert CachedTexts(hidden)(TASK, padded, MAIN, ()).output.shape == (2, 2 * main.label.shape[1], VOCABULARY)


def test_a_shuffled_cache_is_a_shuffled_teacher(hidden, teacher, encoded):
    one = batch(encoded, (3, 3))
    said = [Shuffled(source)(TASK, one, MAIN, ()).dense() for source in (teacher, CachedTexts(hidden))]
    torch.testing.assert_close(said[1][one.main.mask], said[0][one.main.mask], rtol=1e-4, atol=1e-4)


def test_other_texts_are_refused(hidden, encoded):
    other = texts()
    other.responses[9] = "Nobody."
    with pytest.raises(ValueError, match=r"1 of the 23 of mine train are none of them, the first from 9: prompt"):
        CachedTexts(hidden, encode(other, TOKENIZER))
    cached, one = CachedTexts(hidden, encoded), batch(encoded)
    main = one.main
    written = rewritten(one, torch.where(main.label == main.label[2, 0], 7, main.label), main.mask)
    with pytest.raises(ValueError, match=r"the response to text \d+ is not the data's own .* leave out teacher.cache"):
        cached(TASK, written, MAIN, ())
    prompt = {**main.extras, "prompt": main.extras["prompt"].roll(1, 0)}
    with pytest.raises(ValueError, match="not the data's own"):
        cached(TASK, rewritten(one.with_view(MAIN, replace(main, extras=prompt)), main.label, main.mask), MAIN, ())
    with pytest.raises(ValueError, match=r"holds texts 0 to 22; another was asked for"):
        cached(TASK, one.with_view(MAIN, replace(main, index=main.index + 1)), MAIN, ())


class Killed(Exception):
    pass


@pytest.mark.parametrize("options", [{"k": 4}, {}])
def test_a_killed_capture_goes_on_to_the_same_bytes(options, teacher, encoded, tmp_path, monkeypatch):
    whole = kept(teacher, encoded, tmp_path / "whole", part_bytes=2**11, **options)
    count, again = [0], tmp_path / "again"

    def dies(*arguments):
        count[0] += 1
        if count[0] == 3:
            arguments[1].with_name(f".{arguments[1].name}.7.tmp").write_text("half of it")
            raise Killed
        return written(*arguments)

    written = module.write
    with monkeypatch.context() as patch:
        patch.setattr(module, "write", dies)
        with pytest.raises(Killed):
            kept(teacher, encoded, again, part_bytes=2**11, **options)
    with pytest.raises(ValueError, match=r"is not finished: part0002.safetensors is missing; run the same"):
        CachedTexts(again)
    before = part(again, 0).stat().st_mtime_ns
    kept(teacher, encoded, again, part_bytes=2**11, **options)
    assert part(again, 0).stat().st_mtime_ns == before
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (whole, again)]
    assert files[0] == files[1]


def test_what_does_not_belong_together_is_refused(hidden, teacher, student, encoded, tmp_path):
    usual = {"part_bytes": 2**14}
    for source, options, said in (
        (student, usual, r"differ in teacher \("),
        (teacher, {**usual, "tokenizer": "other"}, r"differ in tokenizer \('bpe', now 'other'\)"),
        (teacher, {**usual, "k": 4}, r"differ in kind \('hidden', now 'top-k'\)"),
        (teacher, {**usual, "budget": 300}, r"differ in budget \(256, now 300\)"),
    ):
        with pytest.raises(ValueError, match=said):
            kept(source, encoded, hidden, **options)
    shutil.copytree(hidden, tmp_path / "c")
    shutil.copyfile(part(hidden, 1), part(tmp_path / "c", 0))
    with pytest.raises(ValueError, match=r"part0000.safetensors belongs to another cache or another place in it"):
        CachedTexts(tmp_path / "c")
    part(tmp_path / "c", 0).write_bytes(b"short")
    with pytest.raises(ValueError, match=r"part0000.safetensors cannot be read"):
        CachedTexts(tmp_path / "c")
    (tmp_path / "c" / "about.json").write_text(json.dumps({"augment": "crop"}))
    with pytest.raises(ValueError, match="is a cache of images"):
        CachedTexts(tmp_path / "c")


def test_what_cannot_be_kept(teacher, encoded, tmp_path):
    with pytest.raises(ValueError, match=r"expected k between 1 and the 353 tokens"):
        kept(teacher, encoded, tmp_path / "c", k=401)
    with pytest.raises(ValueError, match="no last layer is known"):
        capture(teacher, Language(lazy=False), encoded, tmp_path / "c", Signals(), tokenizer="bpe")
    prompts = encode(replace(texts(), responses=None), TOKENIZER)
    with pytest.raises(ValueError, match="has prompts only"):
        kept(teacher, prompts, tmp_path / "c")
    broken = causal("llama", vocab_size=VOCABULARY, max_position_embeddings=128)
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity \(log_probs\)"):
        kept(Network(broken, trained=False), encoded, tmp_path / "d", k=3)
    loud = causal("llama", vocab_size=VOCABULARY, max_position_embeddings=128)
    with torch.no_grad():
        loud.model.norm.weight.fill_(1e5)
    with pytest.raises(ValueError, match="do not fit into float16; take --dtype bfloat16"):
        kept(Network(loud, trained=False), encoded, tmp_path / "e", dtype="float16")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is no cache and not empty"):
        kept(teacher, encoded, tmp_path / "f")
