"""Methods that are more than terms: how their strings read, and what a run makes of them."""

import json

import pytest
import torch
from torch import nn

from potstill.adapting import started_anew
from potstill.cell import assemble
from potstill.examples import Examples
from potstill.methods import parse
from potstill.recipe import Fit
from potstill.schemes import SCHEMES
from potstill.types import MAIN, Batch, DataInfo, View


class Once:
    """A loader of one batch."""

    steps, exact = 1, True

    def __init__(self, batch):
        self.batch = batch

    def epoch(self, epoch, start=0):
        return [self.batch]


DIGITS = """
from potstill import Data, Fit, Network, Recipe
from potstill.recipe import Assistant

def recipe(smoke=False):
    return Recipe(
        data=Data(augment="crop", train_rows=100, valid_rows=100),
        teacher=Network("small_cnn", width=16),
        student=Network("small_cnn"),
        assistants=(
            Assistant("middle", Network("small_cnn", width=12)),
            Assistant("low", Network("small_cnn"), teacher="middle"),
        ),
        methods=("student", "dml"),
        fit=Fit(epochs=1, batch_size=50),
    )
"""


def test_a_scheme_is_written_like_a_method():
    method = parse("dml(peers=3)+icd:0.5")
    assert method.expansion == "dml(peers=3,weight=1.0)+icd:0.5"
    assert parse(method.expansion).terms == method.terms
    assert not parse("dml").needs_teacher
    labels = [term.label for term in parse("ce:0+dml").terms]
    assert "ce" not in labels
    assert "ce_peer2" in labels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dml:0.5", "each with a weight of its own"),
        ("dml(peers=1)", "at least 2"),
        ("dml(peer=3)", "did you mean 'peers'"),
        ("dml+dml", "do not go together"),
        ("dml~shuffled", "no term of it has a teacher"),
        ("dmll", "did you mean 'dml'"),
    ],
)
def test_what_is_wrong_with_a_scheme_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_mutual_learning_is_its_formula():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    view = View(torch.randn(6, 4, dtype=torch.float64), torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    once = Once(Batch({MAIN: view}))
    examples = Examples(once, DataInfo(6, 6, 3), once.batch)
    engine = assemble(student, None, parse("dml(weight=0.7)"), examples, Fit(epochs=1, batch_size=6))
    engine.begin()
    engine.differentiate(once.batch)
    one, two = (network(view.input).log_softmax(1) for network in engine.system.networks.values())
    assert not torch.equal(one, two)
    for own, other, network in ((one, two, "student"), (two, one, "peer2")):
        fixed = other.detach()
        divergence = (fixed.exp() * (fixed - own)).sum() / 6
        loss = -own[range(6), view.label].mean() + 0.7 * divergence
        weight = engine.system.networks[network][1].weight
        (expected,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(weight.grad, expected)


def test_only_features_alone_leave_the_classifier_as_it_was_drawn():
    untaught = {name for name, kind in SCHEMES.items() if not parse(kind.example or name).classifies}
    assert untaught == {"hkd", "minilm"}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_documented_and_cited(name):
    kind = SCHEMES[name]
    assert kind.paper
    assert kind.matches
    assert "Raises:" in (kind.__doc__ or "")


def test_a_peer_starts_with_weights_of_its_own():
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    one, again, other = (started_anew(student, 0, name) for name in ("peer2", "peer2", "peer3"))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(one[0].weight, again[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    student.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match="nothing draws scale again"):
        started_anew(student, 0, "peer2")


def test_assistants_are_trained_one_from_the_next(tmp_path, monkeypatch, capsys):
    from potstill.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text(DIGITS)
    words = ["distill", "r.py", "--out", "out", "--precision", "float32", "--quiet"]
    assert main(words) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    found = summary["teacher"]["assistants"]
    assert [one["name"] for one in found] == ["middle", "low"]
    assert found[0]["parameters"] > found[1]["parameters"]
    card = json.loads((tmp_path / "out" / "low" / "student.json").read_text())
    assert card["expansion"] == "ce:0.1+kd:0.9"
    assert main([*words, "--assistants.1.teacher", "midle"]) == 1
    assert "did you mean 'middle'" in capsys.readouterr().err
