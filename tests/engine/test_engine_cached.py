"""A cache as a source: what it answers, what it refuses, and that a killed writer goes on."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from kill_worker import images
from torch import nn

from potstill import cache
from potstill.cache import About, missing, places, read_about, write
from potstill.cached import Cached
from potstill.data import Preprocess, Resident, first
from potstill.largest import keep_largest, spread
from potstill.models import build
from potstill.shares import Share, write_share
from potstill.sources import Network, Shuffled
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Source

ABOUT = About("t", "float32", "d", 50, "crop-flip", 3, 8, ("embedding",), ("embedding", "stage1"), views=2)


def teacher() -> Network:
    torch.manual_seed(1)
    network = build("small_cnn", num_classes=5, in_channels=1, width=4)
    names = dict(network.taps)
    return Network(network, trained=False, preprocess=Preprocess.of(images()), names=names)


@pytest.fixture
def few(monkeypatch):
    """Seven shards of eight samples."""
    monkeypatch.setattr(cache, "SHARD_ROWS", 8)


@pytest.fixture
def stored(few, tmp_path):
    write(teacher(), images(), tmp_path / "c", ABOUT)
    return tmp_path / "c"


def loader(**kw):
    return Resident(images(), 8, **{"seed": 9, "views": 2, "view_seed": 3, **kw})


@pytest.mark.parametrize("resident", [2**30, 0])
def test_it_says_what_the_teacher_says(resident, stored):
    """Bit for bit, in every epoch, from memory and from the mapped files."""
    cached, live = Cached(stored, resident=resident), teacher()
    assert isinstance(cached, Source)
    assert (cached.trained, cached.module, cached.provides) == (False, None, {"embedding", "stage1"})
    for epoch in range(3):
        for batch in loader().epoch(epoch):
            expected = live(Classify(), batch, MAIN, ["stage1", "embedding"])
            found = cached(Classify(), batch, MAIN, ["stage1", "embedding"])
            assert torch.equal(found.output, expected.output)
            assert list(found.taps) == ["stage1", "embedding"]
            assert all(torch.equal(value, expected.taps[name]) for name, value in found.taps.items())
    probe = first(images(), 8)
    assert torch.equal(cached(Classify(), probe, MAIN, []).output, live(Classify(), probe, MAIN, []).output)
    rolled = Shuffled(cached)(Classify(), probe, MAIN, ["embedding"])
    assert torch.equal(rolled.output, Shuffled(live)(Classify(), probe, MAIN, []).output)


def test_views_are_of_the_data_not_of_the_run():
    """Other seeds change the order and not the views; without `views` every epoch is another, as it was."""

    def shown(epoch, **kw):
        return {int(i): x for b in loader(**kw).epoch(epoch) for i, x in zip(b.main.index, b.main.input, strict=True)}

    def same(a, b):
        both = a.keys() & b.keys()
        assert len(both) > 40
        return sum(torch.equal(a[i], b[i]) for i in both) / len(both)

    assert same(shown(0), shown(2)) == same(shown(1), shown(3, seed=10)) == 1
    assert list(shown(0)) != list(shown(2))
    assert same(shown(0), shown(1)) < 0.5
    assert same(shown(0), shown(2, views=None)) < 0.5
    assert same(shown(1, views=None, view_seed=None), shown(1, view_seed=9)) == 1


@pytest.mark.parametrize("resident", [2**30, 0])
def test_it_refuses_what_it_does_not_have(resident, stored):
    cached, batch = Cached(stored, resident=resident), next(iter(loader().epoch(0)))

    def ask(taps=(), **kw):
        cached(Classify(), batch.with_view(MAIN, replace(batch.main, **kw)), MAIN, taps)

    ask()
    for kw, message in (
        ({"taps": ["embeding"]}, "has no tap 'embeding'; did you mean 'embedding'"),
        ({"number": None}, "does not say which of the data's views it is"),
        ({"number": 2}, "holds views 0 to 1 of each sample, and was asked for view 2"),
        ({"number": -2}, "was asked for view -2"),
        ({"index": torch.tensor([3, 50])}, "holds samples 0 to 49 of view 0; another"),
        ({"index": torch.tensor([-1, 3])}, "holds samples 0 to 49 of view 0; another"),
        ({"number": -1, "index": torch.tensor([8])}, "holds samples 0 to 7 of view -1; another"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(**kw)


def test_half_the_bytes(few, tmp_path):
    """bf16 is how it is stored, not how it is said."""
    batch = next(iter(loader().epoch(1)))
    write(teacher(), images(), tmp_path / "c", replace(ABOUT, dtype="bf16"))
    found = Cached(tmp_path / "c")(Classify(), batch, MAIN, ["embedding"])
    expected = teacher()(Classify(), batch, MAIN, ["embedding"])
    for name in ("output", "embedding"):
        assert found.get(name).dtype == torch.float32
        assert torch.equal(found.get(name), expected.get(name).bfloat16().float())


def test_the_largest_logits_and_the_mass_of_the_rest(few, tmp_path):
    """At the temperature of the cache the kept classes have their probability, and the others share what is left."""
    batch = next(iter(loader().epoch(1)))
    write(teacher(), images(), tmp_path / "c", replace(ABOUT, top_k=2, temperature=4.0))
    found = Cached(tmp_path / "c")(Classify(), batch, MAIN, []).output / 4
    whole = teacher()(Classify(), batch, MAIN, []).output / 4
    kept = whole.topk(2, 1).indices
    torch.testing.assert_close(found.softmax(1).gather(1, kept), whole.softmax(1).gather(1, kept))
    left = found.scatter(1, kept, -torch.inf)
    for row in left:
        assert row[row.isfinite()].unique().numel() == 1
    logits = torch.randn(6, 9, dtype=torch.float64)
    values, classes, tail = keep_largest(logits, 8, 1.0)
    torch.testing.assert_close(spread(values, classes, tail, 9), logits)  # a tail of one class is that class


def killed(folder, step):
    cache.SHARD_ROWS = 8

    def end(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    write(teacher(), images(), folder, ABOUT, end)


def killed_while_writing(folder, count):
    rename, seen = os.replace, []

    def replacing(before, after):
        seen.append(after)
        if len(seen) == count:
            os.truncate(before, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(before, after)

    os.replace = replacing
    killed(folder, None)


@pytest.mark.parametrize(("target", "moment", "shards"), [(killed, 9, 8), (killed_while_writing, 5, 2)])
def test_killed_and_finished(target, moment, shards, stored, tmp_path):
    """Finished shards are not written again, half ones never seen; the bytes are those of an undisturbed writer."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["potstill.cell", "potstill.student", "accelerate", "torch._dynamo", "torch.onnx"])
    process = context.Process(target=target, args=(tmp_path / "k", moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"is not finished: samples .* are missing"):
        Cached(tmp_path / "k")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "k").glob("view*/shard*")}
    assert len(there) == shards
    write(teacher(), images(), tmp_path / "k", read_about(tmp_path / "k"))
    assert {path: path.stat().st_mtime_ns for path in there} == there
    files = sorted(path.relative_to(stored) for path in stored.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "k") for p in (tmp_path / "k").rglob("*") if p.is_file())
    for path in files:
        assert (tmp_path / "k" / path).read_bytes() == (stored / path).read_bytes(), path


def test_a_teacher_of_nan_leaves_nothing(tmp_path):
    bad = teacher()
    nn.init.constant_(next(bad.module.parameters()), torch.nan)
    with pytest.raises(ValueError, match="answers with NaN or infinity"):
        write(bad, images(), tmp_path / "c", ABOUT)
    assert not (tmp_path / "c").exists()


def test_a_process_that_dies_does_not_make_the_others_wait(few, tmp_path):
    """The first of three processes writes its part, and says that another one is gone; the two are ended."""
    ended = []

    class Dead:
        exitcode = 3

        def terminate(self):
            ended.append(self)

        def join(self):
            ended.append(self)

    with pytest.raises(ValueError, match="ended with status 3; what is finished is kept"):
        write_share(
            teacher(), images(), tmp_path / "c", ABOUT, Share(0, 3), lambda progress: None, lambda: [Dead(), Dead()]
        )
    assert len(ended) == 4
    assert missing(ABOUT, tmp_path / "c") == [place for n, place in enumerate(places(ABOUT)) if n % 3]
