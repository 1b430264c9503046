"""Streamed data from the command line: a folder of photographs that is never decoded as a whole."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import potstill
from potstill import Data
from potstill.data import load

MEAN = ("--teacher.mean", "0.5", "--teacher.std", "0.25", "--student.mean", "0.5", "--student.std", "0.25")
RUN = ("distill", "small.py", "--smoke", "--seeds", "1", "--precision", "float32", "--data.root", "photos", *MEAN)
SMALL = ("--data.size", "16", "--fit.epochs", "2", "--fit.batch-size", "8")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(48):
        colour = ((200, 40, 40), (40, 60, 200))[number % 2]
        pixels = np.array(colour) + rng.integers(-30, 30, (20 + number % 6, 24, 3))
        path = tmp_path / "photos" / ("train", "val")[number >= 32] / ("apple", "sky")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def results(folder):
    """Metrics of every network, without the times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("**/metrics.jsonl"))}


def test_the_same_run_as_from_memory(shell, photos, tmp_path):
    for name, stream in (("memory", "never"), ("files", "always")):
        status, out, err = shell(*RUN, *SMALL, "--data.stream", stream, "--data.workers", "1", "--out", name)
        assert status == 0, err
        assert ("decoded while training, at 16x16" in err) == (name == "files")
        assert "" not in err.splitlines()  # no trace of the progress bars where they cannot move
        (share,) = re.findall(r"waited for data: ([\d.]+) % of [\d.]+ s of training", err)
        assert 0 <= float(share) <= 100
        assert "top-1" in out
    found = [results(tmp_path / name) for name in ("memory", "files")]
    assert len(found[0]) == 3
    assert found[0] == found[1]
    for name in ("student.safetensors", "icd/seed0/examples.json"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()


def test_imagenets_augmentation(shell, photos, tmp_path):
    """The statistics of the data are measured where the recipe gives none; the student predicts on photographs."""
    words = (*RUN[:-8], *SMALL, "--data.augment", "resized-crop-flip", "--data.workers", "0", "--out", "run")
    status, _, err = shell(*words, "--methods", "student", "crd(negatives=8)", "--json")
    assert status == 0, err
    assert shell(*words, "--methods", "student", "crd(negatives=8)", "--resume")[0] == 0
    card = json.loads((tmp_path / "run" / "student.json").read_text())
    assert card["size"] == [16, 16]
    assert 0.2 < card["preprocess"]["mean"][0] < 0.8
    student, seen = potstill.load("run"), []
    student.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    valid = load(Data(root=photos, size=16, augment="resized-crop-flip"), quiet=True)[1]
    student.predict(valid.pictures.raw.read(np.arange(3)))  # files; the network sees what it was evaluated on
    student(torch.stack([valid.picture(number) for number in range(3)]))
    assert torch.equal(torch.cat(seen[:3]), seen[3])
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]["train"]
    status, out, err = shell(*words[:-1], "more", "--data.stream", "never")
    assert status == 2
    assert "cannot be never" in out + err


def test_a_broken_photograph_is_named_and_leaves_nothing_half(shell, photos, tmp_path):
    broken = photos / "train" / "sky" / "31.jpg"
    broken.write_bytes(broken.read_bytes()[:-80])
    status, out, err = shell(*RUN, *SMALL, "--data.stream", "always", "--data.workers", "1", "--out", "run")
    assert (status, out) == (1, "")
    assert err.count("\n") <= 12
    assert re.search(r"error: .*train/sky/31\.jpg cannot be read", err)


def test_a_teacher_is_cached_from_files(shell, photos, tmp_path):
    """What it says about streamed images, once; the students then learn the same as from the live one."""
    stream = (*SMALL, "--data.stream", "always", "--data.workers", "0", "--data.views", "2", "--methods", "kd")
    assert shell(*RUN, *stream, "--out", "first")[0] == 0
    teacher = ("--teacher.checkpoint", "first/teacher/student.safetensors")
    status, _, err = shell("cache", *RUN[1:3], "--precision", "float32", *RUN[7:], *stream, *teacher, "--out", "said")
    assert status == 0, err
    status, _, err = shell(*RUN, *stream, *teacher, "--teacher.cache", "said", "--out", "second")
    assert status == 0, err
    live, cached = (load_file(tmp_path / name / "student.safetensors") for name in ("first", "second"))
    for name, value in live.items():  # where a sample stands in its batch may change the last bits of an answer
        torch.testing.assert_close(cached[name], value, rtol=1e-4, atol=1e-5)
