"""A teacher with outputs of its own order and preprocessing of its own teaches a student that has neither."""

import json

import torch
from networks import PlainCNN, bars
from torch import nn

import potstill
from potstill import Fit, Preprocess
from potstill.models import build


class Elsewhere(nn.Module):
    """A teacher of five classes that wants larger images in [-1, 1]; classes 0, 1, 2 are its outputs 4, 1, 3."""

    def __init__(self, trained):
        super().__init__()
        self.norm, self.conv = trained.norm, trained.conv
        self.head = nn.Linear(trained.head.in_features, 5)
        with torch.no_grad():
            self.head.weight[[4, 1, 3]], self.head.bias[[4, 1, 3]] = trained.head.weight, trained.head.bias

    def forward(self, x):
        assert x.shape[-2:] == (24, 24)
        maps = self.norm(self.conv(nn.functional.avg_pool2d((x + 1) / 2, 2))).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(maps, 3).flatten(1))


def test_a_method_of_embeddings_with_a_label_map(teacher, capsys):
    """The embedding is found although the mapped answer is not the tensor that the classifier made."""
    own = Preprocess((0.5,), (0.5,), size=24, label_map=(4, 1, 3))
    fit = Fit(epochs=1, batch_size=24, lr=0.02, schedule="constant")
    words = {"valid": bars(48, 1), "teacher_preprocess": own, "precision": "float32"}
    student = potstill.distill(Elsewhere(teacher), PlainCNN(), bars(48), method="icd+kd", fit=fit, **words)
    assert student(bars(4)[0]).shape == (4, 3)
    said = capsys.readouterr().err
    assert float(said.split("teacher: ")[1].split(" %")[0]) > 80


def test_a_teacher_of_other_classes_on_the_command_line(shell):
    """Twelve outputs, of which the recipe names the ten that mean the digits."""
    torch.manual_seed(0)
    teacher = build("small_cnn", num_classes=12, in_channels=1, width=16)
    torch.save(teacher.state_dict(), "twelve.pth")
    words = [
        "distill",
        "small.py",
        "--teacher.checkpoint",
        "twelve.pth",
        "--out",
        "run",
        "--quiet",
        "--precision",
        "float32",
    ]
    outputs = ["--teacher.outputs", "12", "--teacher.label-map", *map(str, range(11, 1, -1))]
    status, _, errors = shell(*words)
    assert status == 1
    assert "12 classes" in errors
    assert shell(*words, *outputs)[0] == 0
    with open("run/recipe.json") as file:
        assert json.load(file)["recipe"]["teacher"]["label_map"] == list(range(11, 1, -1))
