"""What a user has: a shell, an empty folder, two networks of their own and some images."""

import json
from pathlib import Path

import pytest
import torch
from networks import PlainCNN, TinyViT, bars
from torch import nn
from torch.nn import functional as F

from potstill.cli import main

SMALL = """\
from potstill import Data, Fit, Network, Recipe

def recipe(smoke=False):
    return Recipe(
        data=Data(augment="crop"),
        teacher=Network("small_cnn", width=16),
        student=Network("small_cnn"),
        methods=("student", "icd"),
        fit=Fit(epochs=2, batch_size=20, schedule="cosine"),
    )
"""
"""Ten steps an epoch."""


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Decoded images go to a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch):
    """`shell("list", "methods")` in a folder that holds one recipe, small.py: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL)

    def run(*words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as leaving:
            status = leaving.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The embedded default at its smallest size, in float32."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main(["distill", "--smoke", "--quiet", "--precision", "float32", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A run whose teacher is worth something: its checkpoint is `good / "teacher" / "student.safetensors"`."""
    folder = tmp_path_factory.mktemp("good") / "run"
    (folder.parent / "small.py").write_text(SMALL)
    words = [str(folder.parent / "small.py"), "--method", "student", "--fit.epochs", "8", "--precision", "float32"]
    assert main(["distill", *words, "--quiet", "--out", str(folder)]) == 0
    assert json.loads((folder / "summary.json").read_text())["teacher"]["top1"] > 70
    return folder


@pytest.fixture(scope="session")
def taught():
    """A plain CNN that knows the bars, as a state dict."""
    torch.manual_seed(0)
    network, (x, y) = PlainCNN(), bars(160)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.state_dict()


@pytest.fixture
def teacher(taught):
    network = PlainCNN()
    network.load_state_dict(taught)
    return network


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(1)
    return TinyViT()


@pytest.fixture
def nothing_left(tmp_path):
    """The output folder `tmp_path / "out"`, which must not exist afterwards."""
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists()
    assert not Path("runs").exists()
