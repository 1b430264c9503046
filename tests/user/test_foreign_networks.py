"""Networks that Potstill has never seen teach each other: maps of any height and width, tokens, other libraries."""

import copy
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from networks import same, state_of
from torch import nn

import potstill
from potstill import Fit, Term
from potstill.models import build
from potstill.objectives import OBJECTIVES


class WideCNN(nn.Module):
    """Maps of 16x12 and 8x12 pixels from images of 16x24, one activation for all, no module that pools."""

    def __init__(self, width=8, classes=3):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, width, 3, (1, 2), 1), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d((2, 1))
        self.deep = nn.Conv2d(width, width + 4, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(width + 4, classes)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.down(x))))
        return self.head(self.act(self.deep(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1))
        self.out = nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.out(self.mlp(x))


class ViT(nn.Module):
    """Patches of 4x4 pixels and a class token."""

    def __init__(self, width=16, depth=2, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


KINDS = {
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [16, 24],
        "patch_size": 4,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Each network by name, with random weights that are always the same."""
    torch.manual_seed(0)
    made = {"cnn": WideCNN(), "vit": ViT(), "resnet8": build("resnet8", num_classes=3)}
    transformers = pytest.importorskip("transformers")
    for kind, sizes in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        transformers.AutoConfig.for_model(kind, **sizes).save_pretrained(folder)
        made[f"hf_{kind}"] = build(f"transformers:{folder}", num_classes=3)
    return made


@pytest.fixture(scope="module")
def data():
    return torch.randn(32, 3, 16, 24, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def teach(networks, teacher, student, data, method):
    """One epoch; the teacher must stay as it is, and the student must have moved."""
    guide, learner = copy.deepcopy(networks[teacher]), copy.deepcopy(networks[student])
    before, start = state_of(guide), state_of(learner)
    guide.train()
    potstill.distill(
        guide, learner, data, method=method, fit=Fit(epochs=1, batch_size=16, lr=0.01), precision="float32", quiet=True
    )
    assert same(before, state_of(guide))
    assert guide.training
    now = state_of(learner)
    assert not same(start, now)
    assert all(value.isfinite().all() for value in now.values())


def refused(networks, teacher, student, data, method, match):
    """It says why before the first step, and leaves both networks as they were."""
    guide, learner = copy.deepcopy(networks[teacher]), copy.deepcopy(networks[student])
    before, start = state_of(guide), state_of(learner)
    with pytest.raises(ValueError, match=match):
        potstill.distill(guide, learner, data, method=method, epochs=1, batch_size=16, precision="float32", quiet=True)
    assert same(before, state_of(guide))
    assert same(start, state_of(learner))


METHODS = ("at", "fitnet", "nst", "vid", "icd", "crd", "sp", "reviewkd", "rkd", "kdsvd")
PAIRS = (
    ("cnn", "vit"),
    ("vit", "cnn"),
    ("hf_vit", "cnn"),
    ("cnn", "hf_vit"),
    ("hf_vit", "vit"),
    ("cnn", "hf_resnet"),
    ("hf_resnet", "vit"),
    ("vit", "resnet8"),
)
STAGES = {"cnn": 2, "vit": 2, "hf_vit": 2, "hf_resnet": 3, "resnet8": 3}
ACTIVATED = ("vit", "hf_vit", "hf_resnet", "resnet8")
"""Networks that show their stages before activation; the activation of `cnn` is one module that runs twice."""
CHANNELS = {"cnn": [8, 12], "vit": [16, 16], "hf_vit": [16, 16], "hf_resnet": [8, 8, 12], "resnet8": [16, 32, 64]}


def reason(teacher, student, method):
    """Why a method does not fit this pair, in the words of the message; None: it runs."""
    if method == "reviewkd" and teacher not in ACTIVATED:
        return r"has no 'stage1\.pre'.*in a potstill\.Term write 'stages'"
    if method == "kdsvd" and CHANNELS[teacher][-2:] != CHANNELS[student][-2:]:
        return r"over channels, so they must be equal\. at, nst and sp do without"
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_methods_run_or_say_what_to_do(teacher, student, method, networks, data):
    why = reason(teacher, student, method)
    unequal = method in ("at", "nst", "vid", "reviewkd", "kdsvd") and STAGES[teacher] != STAGES[student]
    told = r"3 stages and the other side 2, so its deepest are taken: stage2"
    with pytest.warns(UserWarning, match=told) if unequal else nullcontext():
        if why is None:
            teach(networks, teacher, student, data, method)
        else:
            refused(networks, teacher, student, data, method, why)


def test_what_the_messages_advise_works(networks, data):
    """Stages by name where there are more on one side, and after activation where none is known."""
    two = "stage1,stage2"
    for name in ("at", "nst", "vid"):
        teach(networks, "vit", "resnet8", data, [Term(OBJECTIVES["ce"]), Term(OBJECTIVES[name], two, two)])
    review = Term(OBJECTIVES["reviewkd"], "stages,embedding", "stages,embedding")
    teach(networks, "cnn", "vit", data, [Term(OBJECTIVES["ce"]), review])


def test_tokens_by_module_path(networks, data):
    """A module's own tokens are refused by methods for maps, who say how to read them."""
    raw = [Term(OBJECTIVES["at"], "last_map", "blocks.1")]
    refused(
        networks, "vit", "cnn", data, raw, r"shape \[16, 25, 16\], expected feature maps.*last_map\), and with \.map"
    )
    teach(networks, "vit", "cnn", data, [Term(OBJECTIVES["at"], "last_map", "blocks.1.map4x6")])


def test_a_step_in_pieces_is_the_same_step_for_tokens(networks, data):
    """Gradients pass through the map of a student's tokens: also in two passes, for losses that relate samples."""
    found = []
    for micro in (None, 4):
        learner = copy.deepcopy(networks["vit"]).eval()
        for module in learner.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        fit = Fit(epochs=1, batch_size=16, lr=0.01, micro_batch=micro)
        guide = copy.deepcopy(networks["hf_vit"])
        potstill.distill(guide, learner, data, method="sp+at", fit=fit, precision="float64", quiet=True)
        found.append(state_of(learner))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


@pytest.mark.parametrize("weights", [False, True])
def test_on_the_command_line(weights, shell):
    """A folder of transformers as the teacher, trained here or as it comes, and a student that needs no folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("vit", **{**KINDS["vit"], "image_size": 16}, num_labels=10)
    if weights:
        config.num_channels = 1
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained("my_vit")
    else:
        config.save_pretrained("my_vit")
    words = ["distill", "small.py", "--teacher", "transformers:./my_vit", "--student", "transformers:./my_vit"]
    words += ["--fit.epochs", "1", "--method", "at+icd", "--precision", "float32", "--quiet"]
    status, _, errors = shell(*words, "--out", "run")
    assert status == 1
    assert "16x16 pixels and was given 8x8" in errors
    status, _, errors = shell(*words, "--teacher.size", "16", "--student.size", "16", "--out", "run")
    assert status == 0, errors
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["teacher"]["model"] == "transformers:./my_vit"
    assert (summary["teacher"]["seconds"] == 0) == weights
    shutil.rmtree("my_vit")
    predictor = potstill.load("run")
    assert predictor(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
    status, _, errors = shell(*words, "--out", "other")
    assert status == 1
    assert "there is no folder my_vit" in errors


def test_a_loader_that_is_read_once_is_refused_when_it_runs_dry(networks, data):
    class Stream(list):
        """Batches that are gone once given, as those of a generator."""

        def __iter__(self):
            while len(self) > 2:
                yield self.pop()

        def __len__(self):
            return list.__len__(self) if list.__len__(self) < 3 else 3

    x, y = data
    stream = Stream([(x[:8], y[:8])] * 9)
    with pytest.raises(ValueError, match=r"gave \d of its 3 batches in pass \d over the data.*read once"):
        potstill.distill(
            copy.deepcopy(networks["cnn"]),
            copy.deepcopy(networks["cnn"]),
            stream,
            method="kd",
            fit=Fit(epochs=8),
            precision="float32",
            quiet=True,
        )
