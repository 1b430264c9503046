"""ONE: branches that share a stem, their gate, and a student that is exported without them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import potstill
from potstill.branches import Branches, ends_of
from potstill.cell import assemble
from potstill.data import Data, Resident, first, load
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, DataInfo, View

FIT = Fit(epochs=2, batch_size=20, lr=0.1, schedule="constant")


def live(module, size=32, channels=3):
    pixels = torch.randint(0, 256, (3, channels, size, size), dtype=torch.uint8)
    batch = Batch({MAIN: View(pixels, torch.arange(3), torch.arange(3))})
    preprocess = potstill.Preprocess.identity()
    return source(module, batch, trained=True, preprocess=preprocess, precision=Precision()), batch


@pytest.fixture(scope="module")
def examples():
    train, valid = load(Data(train_rows=100, valid_rows=50, augment="crop"))
    info = DataInfo(len(train), 20, 10, train.labels)
    loader = Resident(train, 20, augment="crop")
    return Examples(loader, info, first(train, 4), lambda: [first(valid, 50)])


def engine(examples, folder=None, method="one", student=None):
    torch.manual_seed(1)
    student = student or build("small_cnn", num_classes=10, in_channels=1)
    preprocess = potstill.Preprocess.identity()
    return assemble(student, None, parse(method), examples, FIT, preprocess=preprocess, seed=3, folder=folder)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "small_cnn"])
def test_networks_of_the_zoo_can_be_branched(name):
    """An end with the student's own weights says what the student says, and holds nothing of the stem."""
    torch.manual_seed(0)
    module = build(name, num_classes=5)
    before = copy.deepcopy(module.state_dict())
    student, batch = live(module)
    ends = ends_of(student, batch, [lambda: copy.deepcopy(module)])
    student.module.eval()
    ends.eval()
    with torch.no_grad():
        said = Branches(student, ends)(Classify(), batch, MAIN, ("branch1", "branch2"))
    torch.testing.assert_close(said.taps["branch1"], said.taps["branch2"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(said.output, said.taps["branch1"], rtol=1e-3, atol=1e-3)
    spare = set(dict(ends.tails[0].network.named_parameters())) - set(before)
    shared = {key.partition(".")[0] for key in before} - {n.partition(".")[0] for n in dict(ends.named_parameters())}
    assert not spare
    assert shared
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_the_gate_sums_to_one_and_weighs_the_branches():
    torch.manual_seed(0)
    student, batch = live(build("small_cnn", num_classes=5))
    ends = ends_of(student, batch, [lambda: build("small_cnn", num_classes=5)] * 2)
    features = torch.randn(6, ends.width, 8, 8)
    gate = ends.gate(features)
    torch.testing.assert_close(gate.sum(1), torch.ones(6))
    assert (gate > 0).all()
    assert not torch.allclose(gate[0], gate[1])
    whole, answers = ends(features, torch.randn(6, 5))
    by_hand = sum(gate[:, number, None] * answers[number] for number in range(3))
    torch.testing.assert_close(whole, by_hand)


def test_every_branch_gets_its_label_term_and_the_ensembles_answer(examples):
    """The terms' values by hand from what the branches say; the ensemble is a constant to those that follow it."""
    made = engine(examples)
    batch = next(iter(examples.loader.epoch(0)))
    made.begin()
    task, whole = made.task, made.sources["ensemble"]
    taps = ("branch1", "branch2", "branch3")
    for module in made.system.networks.values():
        module.train()
    torch.manual_seed(0)
    said = whole(task, batch, MAIN, taps)
    made.differentiate(batch)
    found = {term.name: value for term, value in zip(made.system.wired, made.sums.tolist(), strict=True)}
    label = batch.main.label
    for number, mark in enumerate(("", "_branch2", "_branch3")):
        logits = said.taps[taps[number]]
        assert found[f"ce{mark}"] == pytest.approx(F.cross_entropy(logits, label).item(), rel=1e-4)
        p = (said.output / 3).softmax(1)
        kl = 9 * (p * (p.log() - (logits / 3).log_softmax(1))).sum(1).mean()
        assert found[f"kd{mark}"] == pytest.approx(kl.item(), rel=1e-3, abs=1e-6)
    assert found["ce_ensemble"] == pytest.approx(F.cross_entropy(said.output, label).item(), rel=1e-4)
    assert all(p.grad is not None and p.grad.any() for p in made.system.networks["ensemble"].gate.linear.parameters())
    assert all(p.grad is not None for p in made.system.parameters())
    own = {id(p) for p in made.system.networks["student"].parameters()}
    assert not any(id(p) in own for p in made.system.networks["ensemble"].parameters())


def test_a_stopped_run_goes_on_with_the_same_bits(examples, tmp_path):
    whole = engine(examples)
    whole.run()
    stopped = engine(examples, tmp_path)
    stopped.start()
    for number, batch in enumerate(examples.loader.epoch(0)):
        if number == 3:
            break
        stopped.train_on(batch)
    stopped.save()
    again = engine(examples, tmp_path)
    again.run(resume=True)
    for key, value in whole.system.state_dict().items():
        assert torch.equal(value, again.system.state_dict()[key]), key


class Skips(nn.Module):
    """Its last stage reads the stem too, past the map in front of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.three, self.fc = nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        early = self.stem(x)
        late = self.three(self.two(early))
        return self.fc(torch.cat([early.mean((2, 3)), late.mean((2, 3))], 1))


def test_what_cannot_be_branched_is_refused():
    student, batch = live(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)))
    with pytest.raises(ValueError, match="two stages of maps"):
        ends_of(student, batch, [])
    student, batch = live(Skips())
    with pytest.raises(ValueError, match=r"from that map alone .*take a network whose stages"):
        ends_of(student, batch, [])
    for text, says in (("one(branches=1)", "at least 2 branches"), ("one(ramp=2)", "share of the run")):
        with pytest.raises(ValueError, match=says):
            parse(text)


def test_the_student_is_exported_as_published_or_with_all_its_branches(tmp_path, monkeypatch):
    from potstill.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["--teacher.name", "small_cnn", "--student.name", "small_cnn", "--data.train-rows", "100"]
    words += ["--data.valid-rows", "60", "--fit.epochs", "2", "--fit.batch-size", "20", "--seeds", "1"]
    methods = ["student", "one", "whole=one(ensemble=True)"]
    assert main(["distill", *words, "--methods", *methods, "--out", "o", "--precision", "float32", "--quiet"]) == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "o" / "summary.json").read_text())["rows"]}
    assert rows["one"]["parameters"] == rows["student"]["parameters"] < rows["whole"]["parameters"]
    assert all(rows[name]["teacher_free"] for name in rows)
    lines = [(tmp_path / "o" / name / "seed0" / "metrics.jsonl").read_text().splitlines() for name in ("one", "whole")]
    logs = [[json.loads(line)["terms"] for line in each] for each in lines]
    assert logs[0] == logs[1]  # the same training; what is kept of it differs
    alone, whole = (potstill.load(tmp_path / "o" / name / "seed0").eval() for name in ("one", "whole"))
    images = load(Data())[1].images[:20]
    said = whole(images)
    assert not torch.allclose(said, alone(images))
    torch.testing.assert_close(whole.model.body(whole.preprocess(images)), alone(images))
