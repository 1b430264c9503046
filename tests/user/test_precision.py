"""Cheaper arithmetic: by name, by measurement, and close to float32."""

import json
import time
from pathlib import Path

import pytest
import torch
from networks import PlainCNN, TinyViT, bars, same, state_of

from potstill import Fit, parse
from potstill.cell import choose_precision
from potstill.data.foreign import Ordered
from potstill.examples import Examples, source
from potstill.models import build
from potstill.precision import CHOICES, Precision, choose, fastest
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, DataInfo, View


def test_names_and_back():
    assert [Precision.named(choice.name) for choice in CHOICES] == list(CHOICES)
    assert Precision.named("float32") == Precision()
    with pytest.raises(ValueError, match=r"unknown precision 'fp16'; .*'bf16'"):
        Precision.named("fp16")
    with pytest.raises(ValueError, match="did you mean 'bf16-channels-last'"):
        Precision.named("bf16_channels_last")


@pytest.mark.parametrize("precision", CHOICES, ids=lambda choice: choice.name)
def test_the_loss_stays_close_to_float32(precision):
    torch.manual_seed(0)
    network = build("wrn_16_1", num_classes=10)
    x, y = torch.rand(16, 3, 16, 16), torch.arange(16) % 10
    batch = Batch({MAIN: View(x, torch.arange(16), y)})

    def loss(precision):
        speaker = source(network, batch, trained=True, preprocess=None, precision=precision)
        logits = speaker(Classify(), batch, MAIN, ("embedding",))
        assert logits.taps["embedding"].shape == (16, 64)
        value = torch.nn.functional.cross_entropy(logits.output.float(), y)
        value.backward()
        gradient = network.conv1.weight.grad.clone().float()
        network.zero_grad(set_to_none=True)
        speaker.close()
        return value.item(), gradient

    plain, other = loss(Precision()), loss(precision)
    assert other[0] == pytest.approx(plain[0], rel=0.02 if precision.bf16 else 1e-5)
    assert torch.nn.functional.cosine_similarity(plain[1].flatten(), other[1].flatten(), dim=0) > 0.9


@pytest.mark.parametrize("fast", [c for c in CHOICES if not c.float64], ids=lambda choice: choice.name)
def test_the_fastest_is_taken(fast):
    def step(precision):
        return lambda: time.sleep(0.001 if precision == fast else 0.012)

    chosen = choose(step, torch.device("cpu"))
    assert chosen.precision == fast
    assert set(chosen.milliseconds) == {c.name for c in CHOICES if not c.float64}
    assert chosen.precision.name in str(chosen)


def test_a_small_gain_is_not_worth_it():
    bf16 = Precision(bf16=True)
    assert fastest({Precision(): 20.5, bf16: 20.0}) == Precision()
    assert fastest({Precision(): 25.0, bf16: 20.0}) == bf16


@pytest.mark.parametrize("method", ["icd+kd", "student"])
def test_measuring_leaves_no_trace(method):
    torch.manual_seed(0)
    teacher, student = PlainCNN(), TinyViT()
    student.train()
    x, y = bars(48)
    loader = Ordered(torch.utils.data.TensorDataset(x, y), 24, "cpu")
    examples = Examples(loader, DataInfo(48, 24, 3), next(iter(loader.epoch(0))))
    before = state_of(teacher), state_of(student), torch.get_rng_state()
    guide = teacher if method != "student" else None
    chosen = choose_precision(student, guide, parse(method), examples, Fit(epochs=1), None, None)
    assert all(value > 0 for value in chosen.milliseconds.values())
    assert same(before[0], state_of(teacher))
    assert same(before[1], state_of(student))
    assert torch.equal(before[2], torch.get_rng_state())
    assert teacher.training
    assert student.layer.training
    assert all(p.grad is None for p in (*teacher.parameters(), *student.parameters()))


def test_auto_is_recorded_and_used_again(shell, monkeypatch):
    words = ("distill", "small.py", "--method", "student", "--fit.epochs", "1", "--out", "run")
    status, _, err = shell(*words)
    assert status == 0
    record = json.loads(Path("run/precision.json").read_text())
    assert record["why"] in err
    assert record["choice"] in {choice.name for choice in CHOICES}
    assert json.loads(Path("run/summary.json").read_text())["precision"]["choice"] == record["choice"]
    monkeypatch.delattr("potstill.cell.choose")
    status, _, err = shell(*words, "--resume")
    assert status == 0, err
    assert record["why"] in err
