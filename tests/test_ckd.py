"""CKD: which images are compared, what a comparison is, and what a student learns from it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from potstill import distill
from potstill.cell import assemble
from potstill.data import Data, Resident, first, load
from potstill.examples import Examples
from potstill.methods import parse
from potstill.objectives.ckd import CKD, CKDLabels
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.tasks import comparisons
from potstill.tasks.comparisons import Comparisons, drawn, possible
from potstill.types import DataInfo, Progress

FIT = Fit(epochs=1, batch_size=12, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")


def network(seed: int, width: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


@pytest.fixture(scope="module")
def images():
    return load(Data(train_rows=40))[0]


def loader(images, batch_size=12, **kw):
    return Resident(images, batch_size, augment="crop", seed=5, drop_last=False, **kw)


def batches(task, epochs=1):
    """What the task makes of every batch of some epochs."""
    found, step = [], 0
    for epoch in range(epochs):
        for batch in task.loader.epoch(epoch):
            found += task.prepare(batch, {}, Progress(step, epoch, 100), 0)
            step += 1
    return found


def compared(batch):
    """The comparisons of a batch as pairs of sets of indices."""
    rows = len(batch.views["comparison"])
    sides = [batch.views[name].index.view(rows, -1).tolist() for name in ("first", "second")]
    return [(frozenset(one), frozenset(other)) for one, other in zip(*sides, strict=True)]


@pytest.mark.parametrize(
    ("samples", "group", "most"), [(7, 2, 100), (7, 3, 1000), (40, 2, 500), (9, 3, 50), (300, 3, 800)]
)
def test_comparisons_are_distinct_and_their_sides_have_nothing_in_common(samples, group, most):
    rows = drawn(samples, group, seed=1, most=most)
    plus, total = group - group // 2, math.comb(samples, group) * (2 if group == 2 else 3)
    assert possible(samples, group) == total
    pairs = {(frozenset(row[:plus]), frozenset(row[plus:])) for row in rows.tolist()}
    assert len(pairs) == len(rows) == min(most, total)
    assert all(len(one | other) == group for one, other in pairs)
    assert {i for row in rows.tolist() for i in row} == set(range(samples))
    assert torch.equal(rows, drawn(samples, group, seed=1, most=most))
    if total > most:
        assert not torch.equal(rows, drawn(samples, group, seed=2, most=most))


def test_no_sample_is_preferred():
    rows = drawn(300, 3, seed=0, most=30_000)
    for side, each in ((rows[:, :2], 200), (rows[:, 2:], 100)):
        counts = side.flatten().bincount(minlength=300).double()
        assert (counts.mean() - each).abs() < 1e-9
        assert counts.std(correction=0) < 1.5 * each**0.5  # as in a fair draw
        assert counts[:150].sum() / counts.sum() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("samples", "group", "said"), [(9, 4, "group=4"), (9, 1, "group=1"), (1, 2, "are 1 training")])
def test_comparisons_that_cannot_be(samples, group, said):
    with pytest.raises(ValueError, match=said):
        drawn(samples, group, seed=0)


def test_every_comparison_once_and_then_again_in_another_order(images):
    task = Comparisons(loader(images), 10, most=90)  # 40 a epoch: 12, 12, 12, 4
    seen = [pair for batch in batches(task, epochs=5) for pair in compared(batch)]
    assert len(seen) == 200
    assert len(set(seen[:90])) == len(set(seen[90:180])) == 90
    assert set(seen[:90]) == set(seen[90:180])
    assert seen[:90] != seen[90:180]
    again = Comparisons(loader(images), 10, most=90)
    (late,) = again.prepare(next(iter(again.loader.epoch(4))), {}, Progress(16, 4, 100), 0)
    assert compared(late) == seen[160:172]  # without the steps before it


def test_ranks_share_the_comparisons_of_one(images, monkeypatch):
    def seen(rank, world):
        shown = Resident(images, 12, augment="none", seed=5, rank=rank, world=world)
        monkeypatch.setattr(comparisons, "rank", lambda: rank)
        return [compared(batch) for batch in batches(Comparisons(shown, 10), epochs=2)]

    whole, parts = seen(0, 1), [seen(rank, 3) for rank in range(3)]
    assert whole == [one + two + three for one, two, three in zip(*parts, strict=True)]


def test_a_sample_is_augmented_anew_unless_views_are_fixed(images):
    def shown(**kw):
        task, found = Comparisons(loader(images, **kw), 10), {}
        for batch in batches(task, epochs=2):
            for name in ("first", "second"):
                view = batch.views[name]
                for index, picture in zip(view.index.tolist(), view.input, strict=True):
                    found.setdefault(index, set()).add(bytes(picture.numpy()))
        return found, {batch.views["first"].number for batch in batches(task, epochs=2)}

    fresh, numbers = shown()
    assert max(map(len, fresh.values())) > 2
    assert numbers == {None}
    fixed, numbers = shown(views=2)
    assert max(map(len, fixed.values())) == 2
    assert numbers == {0, 1}


WEIGHTS = {"difference": (1.0, -1.0), "sum": (0.5, 0.5)}


@pytest.mark.parametrize("operator", ["difference", "sum", "mixup"])
@pytest.mark.parametrize("group", [2, 3])
def test_value_and_gradient_are_those_of_comparisons_written_out(images, group, operator):
    task = Comparisons(loader(images), 10, group, operator)
    batch = batches(task)[1]
    student, teacher = network(0).double(), network(1, 9).double()
    views = {name: batch.views[name].input.double() / 255 for name in ("first", "second")}
    said = {
        name: {view: nets(task, batch, view, ("2",)) for view in views}
        for name, nets in (
            ("student", Network(Scaled(student), trained=True, names={"2": "inner.2"})),
            ("teacher", Network(Scaled(teacher), trained=False, names={"2": "inner.2"})),
        )
    }
    combined = {name: outputs["comparison"] for name, outputs in task.combine(said, batch).items()}
    difference = batch.views["comparison"].extras["difference"]
    value = CKD()(combined["student"].output, combined["teacher"].output.detach())
    value = value + CKDLabels()(combined["student"].output, None, difference=difference)
    gradients = torch.autograd.grad(value.mean(), list(student.parameters()))

    plus = group - group // 2
    weights = WEIGHTS.get(operator) or batch.views["comparison"].extras["weights"][0].tolist()
    expected = []
    for number in range(len(batch.views["comparison"])):
        ours = theirs = labels = hidden = 0
        for view, count, weight in (("first", plus, weights[0]), ("second", group - plus, weights[1])):
            for row in range(number * count, (number + 1) * count):
                picture, label = views[view][row : row + 1], batch.views[view].label[row]
                ours = ours + weight * student(picture)[0] / count
                theirs = theirs + weight * teacher(picture)[0].detach() / count
                labels = labels + weight * F.one_hot(label, 10) / count
                hidden = hidden + weight * student[:3](picture)[0] / count
        expected.append(F.mse_loss(ours, theirs) + F.mse_loss(ours, labels.double()))
        assert torch.allclose(combined["student"].taps["2"][number], hidden)
    loss = torch.stack(expected)
    assert torch.allclose(value, loss)
    for found, wanted in zip(gradients, torch.autograd.grad(loss.mean(), list(student.parameters())), strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)
    if operator == "mixup":
        shares = {round(b.views["comparison"].extras["weights"][0, 0].item(), 6) for b in batches(task, 3)}
        assert len(shares) == 12
        assert all(0 <= share <= 1 for share in shares)


class Scaled(nn.Module):
    """Takes pixels as they are."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.double() / 255)


def engine(images, method="ckd", fit=FIT, seed=0):
    shown = loader(images)
    info = DataInfo(len(images), 12, 10, images.labels)
    teacher = Network(Scaled(network(1, 9).double()), trained=False)
    examples = Examples(shown, info, first(images, 8))
    precision = Precision.named("float64")
    return assemble(Scaled(network(seed)), teacher, parse(method), examples, fit, seed=seed, precision=precision)


@pytest.mark.parametrize("method", ["ckd(group=3)", "ckd(operator=mixup,kd=0.5)"])
def test_micro_batches_have_the_same_gradient(images, method):
    found = []
    for micro_batch in (None, 5):
        run = engine(images, method, replace(FIT, micro_batch=micro_batch))
        run.run()
        found.append(torch.cat([p.detach().flatten() for p in run.student.parameters()]))
    assert torch.allclose(*found, atol=1e-12)


def test_a_shuffled_teacher_speaks_of_another_comparison_and_only_of_that(images):
    run = engine(images, "ckd(group=3)~shuffled")
    run.begin()
    (batch,) = run.prepared(next(iter(run.loader.epoch(0))))
    shuffled = run.sources["teacher"]
    views = {
        name: {v: source(run.task, batch, v, ()) for v in ("first", "second")}
        for name, source in (("a", shuffled), ("b", shuffled.source))
    }
    found = run.task.combine(views, batch)
    assert torch.equal(found["a"]["comparison"].output, found["b"]["comparison"].output.roll(1, 0))


@pytest.mark.parametrize(
    ("text", "expansion"),
    [
        ("ckd", "ckd(group=2,operator='difference',label=1.0,relation=1.0,kd=0.0,"),
        ("ckd(group=3,kd=0.5,inter=vid)", "ckd(group=3,"),
        ("ckd(relation=0)+icd:0.5", "icd:0.5"),
    ],
)
def test_strings(text, expansion):
    method = parse(text)
    assert expansion in method.expansion
    assert parse(method.expansion).terms == method.terms


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ckd(group=4)", "group is 2 .* or 3"),
        ("ckd(operator=sub)", "unknown operator 'sub'"),
        ("ckd(loss=mle)", "did you mean 'mse'"),
        ("ckd(inter=fitnets)", "did you mean 'fitnet'"),
        ("ckd(relation=-1)", "the weight relation must not be negative"),
        ("ckd(temperature=0)", "must be positive"),
        ("black_box(of=rdk)", "did you mean 'rkd'"),
        ("black_box(weight=-1)", "weight is a number from 0 up"),
        ("mixup_kd(alpha=0)", "mixup_kd: alpha must be positive"),
        ("cutmix_kd(label=-1)", "cutmix_kd: the weight label"),
    ],
)
def test_what_is_wrong_with_a_string_is_said(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_a_loader_that_cannot_show_a_sample_is_refused(images):
    with pytest.raises(ValueError, match=r"give the data as potstill\.data\.Images"):
        distill(
            network(0),
            network(1),
            (images.images.float(), images.labels),
            method="ckd",
            epochs=1,
            batch_size=8,
            quiet=True,
        )


@pytest.mark.parametrize("method", ["ckd", "ckd(group=3,loss=kl)", "mixup_kd", "cutmix_kd", "black_box(of=dist)"])
def test_a_student_learns_real_images(method):
    train, valid = load(Data(train_rows=400, valid_rows=300))
    teacher, student = network(0, 64), network(1, 16)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(teacher(train.images / 255), train.labels).backward()
        optimizer.step()
    fit = Fit(epochs=5, batch_size=32, lr=0.1, schedule="cosine")
    distill(teacher, student, train, method=method, fit=fit, precision="float32", quiet=True)
    right = (student(valid.images / 255).argmax(1) == valid.labels).double().mean()
    assert right > 0.4  # chance is 0.1
