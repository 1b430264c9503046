"""Mixup and CutMix with a teacher that is asked about unmixed images: the losses written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from potstill.cell import assemble
from potstill.data import Data, Resident, first, load
from potstill.examples import Examples
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.types import DataInfo


class Linear(nn.Module):
    """Takes pixels, or images in [0, 1]; remembers what it was shown."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.fc = nn.Linear(64, 10)
        self.shown = []

    def forward(self, x):
        self.shown.append(x)
        x = x.double() / 255 if x.dtype == torch.uint8 else x.double()
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_value_and_gradient_are_the_released_codes(kind):
    images = load(Data(train_rows=60))[0]
    student, teacher = Linear(0), Linear(1).double()
    loader = Resident(images, 20, augment="crop", seed=2)
    examples = Examples(loader, DataInfo(60, 20, 10, images.labels), first(images, 8))
    run = assemble(
        student,
        Network(teacher, trained=False),
        parse(f"{kind}_kd(relation=0.7)"),
        examples,
        Fit(epochs=1, batch_size=20),
        precision=Precision.named("float64"),
    )
    run.begin()
    batch = next(iter(loader.epoch(0)))
    teacher.shown.clear()
    (prepared,) = run.prepared(batch)
    run.differentiate(prepared)
    assert all(shown.dtype == torch.uint8 for shown in teacher.shown)  # none of them mixed
    mixed, partner = prepared.views["mixed"], prepared.views["partner"]
    share = mixed.extras["share"][0].item()
    assert 0 < share < 1
    own, other = batch.main.input.double() / 255, partner.input.double() / 255
    seen = mixed.input.double() / (255 if mixed.input.dtype == torch.uint8 else 1)
    if kind == "mixup":
        assert torch.allclose(seen, share * own + (1 - share) * other, atol=1e-6)
    else:
        assert ((seen == own) | (seen == other)).all()
    assert torch.equal(images.labels[partner.index], partner.label)

    logits = student(mixed.input)
    loss = 0.0
    for part, view in ((share, batch.main), (1 - share, partner)):
        soft = teacher(view.input).softmax(1).detach()
        loss = loss + part * (F.cross_entropy(logits, view.label) + 0.7 * F.cross_entropy(logits, soft))
    (expected,) = torch.autograd.grad(loss, student.fc.weight)
    assert torch.allclose(student.fc.weight.grad, expected, atol=1e-12)
