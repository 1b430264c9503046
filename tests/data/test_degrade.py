"""Wrong labels and rare classes: exact, the same for everybody, told apart from the data as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from potstill.data import Data, load
from potstill.data.degrade import flipped, long_tail, rarest, tail_accuracy

TEN = tuple("0123456789")


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_as_many_labels_are_wrong_as_asked_for_and_none_is_its_own(rate):
    labels = torch.arange(5000) % 10
    noisy = flipped(labels, 10, rate, seed=3)
    assert (noisy != labels).sum() == round(5000 * rate)
    assert noisy.min() >= 0
    assert noisy.max() < 10
    # uniform over the nine others: every step around the classes is taken about equally often
    steps = torch.bincount((noisy - labels) % 10, minlength=10)[1:].double()
    assert (steps / steps.sum() - 1 / 9).abs().max() < 0.03
    assert torch.equal(noisy, flipped(labels, 10, rate, seed=3))
    assert not torch.equal(noisy, flipped(labels, 10, rate, seed=4))


def test_a_long_tail_has_the_counts_of_the_formula():
    labels = np.arange(5000) % 10
    rows = long_tail(labels, TEN, 100.0)
    counts = np.bincount(labels[rows]).tolist()
    assert counts == [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]  # floor(500 · 100^(−c/9))
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, long_tail(labels, TEN, 100.0, seed=1))
    fewer = np.delete(labels, np.flatnonzero(labels == 3)[:400])  # class 3 has 100 of the 107 that it should have
    counts = np.bincount(fewer[long_tail(fewer, TEN, 100.0)])
    assert counts[0] == 464  # 100 · 100^(3/9), rounded down
    assert counts[3] == 99
    with pytest.raises(ValueError, match=r"class '9' .*without an image"):
        long_tail(labels, TEN, 501.0)


def test_the_tail_is_the_last_third():
    assert rarest(10) == range(7, 10)
    labels = torch.tensor([0, 1, 8, 9, 9, 7])
    assert tail_accuracy(torch.tensor([0, 1, 8, 9, 0, 0]), labels, 10) == 50.0
    assert tail_accuracy(torch.tensor([0]), torch.tensor([0]), 10) is None


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        ({"label_noise": 1.0}, "label_noise"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"imbalance": 0.5}, "imbalance"),
        ({"imbalance": float("inf")}, "imbalance"),
    ],
)
def test_shares_outside_their_range_are_refused(leaves, says):
    with pytest.raises(ValueError, match=f"data.{says}"):
        Data(**leaves)


@pytest.fixture
def folder(tmp_path) -> Path:
    for split, count in (("train", 20), ("test", 5)):
        for name in ("cat", "dog", "eel"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, len(name), 9)).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("stream", ["never", "always"])
def test_only_training_data_is_changed_and_told_apart(folder, stream):
    def read(**leaves):
        return load(Data(root=folder, stream=stream, **leaves), quiet=True)

    plain, valid = read()
    noisy, held = read(label_noise=0.5)
    assert held.digest == valid.digest
    assert (noisy.labels != plain.labels).sum() == 30
    assert "30 of 60 training labels" in " ".join(noisy.notes)
    rare, held = read(imbalance=4.0)
    assert held.digest == valid.digest
    assert torch.bincount(rare.labels).tolist() == [20, 10, 5]
    assert "20 of class 'cat' down to 5 of 'eel'" in " ".join(rare.notes)
    both, _ = read(imbalance=4.0, label_noise=0.5)
    assert (both.labels != rare.labels).sum() == round(35 / 2)
    other, _ = read(label_noise=0.5, data_seed=1)
    splits = [plain, noisy, rare, both, other]
    assert len({one.fingerprint for one in splits}) == len({one.digest for one in splits}) == 5
    assert torch.equal(both.picture(3), rare.picture(3))


def test_streamed_and_resident_data_are_spoiled_alike(folder):
    one, two = (load(Data(root=folder, stream=s, imbalance=4, label_noise=0.3))[0] for s in ("never", "always"))
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.picture(7), two.picture(7))


def test_a_class_that_would_be_emptied_is_named(folder):
    with pytest.raises(ValueError, match="class 'eel'"):
        load(Data(root=folder, imbalance=50))


def test_a_run_on_a_long_tail_reports_the_rarest_third(tmp_path, monkeypatch, capsys):
    from potstill.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["--smoke", "--teacher.name", "small_cnn", "--student.name", "small_cnn", "--fit.batch-size", "20"]
    words += ["--data.imbalance", "4", "--data.label-noise", "0.1", "--methods", "student", "kd", "--out", "o"]
    assert main(["distill", *words, "--precision", "float32"]) == 0
    said = capsys.readouterr()
    assert "data.imbalance=4: 105 of 200 training images" in said.err
    assert "tail: the same on the rarest third" in said.out
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert len(summary["notes"]) == 2
    for row in summary["rows"]:
        assert all(0 <= value <= 100 for value in row["tail_top1"])
        assert row["tail_top1"] != row["top1"]
