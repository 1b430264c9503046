"""Not decoding twice, and the Hugging Face hub."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from potstill.data import Data, load


def test_cache_spares_decoding(photos, monkeypatch):
    data = Data(root=photos)
    first = load(data)

    def refuse(*args, **kw):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        second = load(data)
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
            assert (a.notes, a.fingerprint, a.classes) == (b.notes, b.fingerprint, b.classes)
        with pytest.raises(ValueError, match="decoded again"):
            load(Data(root=photos, size=20))  # another choice is another entry


def test_cache_follows_the_files(photos, picture):
    first, _ = load(Data(root=photos, size=8))
    for number in range(6):
        picture(photos / "apple" / f"{number}.jpg", (0, 200, 0), (40 + number, 30), seed=number)
    second, _ = load(Data(root=photos, size=8))
    assert second.fingerprint != first.fingerprint
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("damage", ["images.npy", "labels.npy", "about.json"])
def test_broken_cache_is_rebuilt(photos, cache, damage):
    data = Data(root=photos, size=8)
    first, _ = load(data)
    for file in cache.rglob(damage):
        file.write_bytes(file.read_bytes()[:-10])
    second, _ = load(data)
    assert torch.equal(first.images, second.images)
    for file in cache.rglob(damage):
        file.unlink()
    assert torch.equal(load(data)[0].labels, first.labels)
    assert len(list(cache.rglob(damage))) == 2  # whole again
    assert not [path for path in cache.rglob(".*") if path.is_dir()]  # nothing half-written left beside


def test_cache_that_lost_rows_is_rebuilt(photos, cache):
    data = Data(root=photos, size=8)
    first, _ = load(data)
    for file in cache.rglob("*.npy"):
        np.save(file, np.load(file)[:1])
    assert torch.equal(load(data)[0].images, first.images)


def test_cache_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "file"))
    train, _ = load(Data(root=photos, size=8))
    assert any("could not be cached" in note for note in train.notes)


def test_hub_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'potstill\[hub\]'.*--data\.root"):
        load(Data("cifar100"))


def test_hub_offline(monkeypatch):
    class Offline:
        @staticmethod
        def load_dataset(name):
            raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", Offline)
    with pytest.raises(ValueError, match=r"someone/set.*Couldn't reach.*--data\.root"):
        load(Data("someone/set"))


def test_hub(shared, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    folder = shared("fashion_mnist_subset")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, old=datasets.load_dataset: old(str(folder), cache_dir=str(tmp_path))
    )
    train, valid = load(Data("fashion_mnist", train_rows=2500, valid_rows=30), quiet=True)
    local, held = load(Data("fashion_mnist", folder, train_rows=2500, valid_rows=30), quiet=True)
    assert torch.equal(train.images, local.images)
    assert torch.equal(valid.labels, held.labels)
    assert (train.classes, valid.split) == (local.classes, held.split)
