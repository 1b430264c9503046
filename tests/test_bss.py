"""BSS: images moved across a boundary that is known, chosen and drawn as the paper says."""

import pytest
import torch
from torch import nn

import potstill
from potstill.data import Preprocess
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.schedules import Fade
from potstill.sources import Heard, Network, Shuffled
from potstill.tasks.boundary import Attack, Boundary, drawn, hardness
from potstill.types import MAIN, Batch, Outputs, Progress, View

NOW, EARLY = Progress(500, 5, 1000), Progress(0, 0, 1000)


def linear(rows) -> nn.Module:
    """A network of known answers: logits are these rows times the pixels."""
    found = nn.Sequential(nn.Flatten(), nn.Linear(len(rows[0]), len(rows), bias=False))
    found[1].weight.data = torch.tensor(rows, dtype=torch.float32)
    return found


def source(module, trained=False, preprocess=None) -> Network:
    return Network(module, trained=trained, preprocess=preprocess, precision=Precision())


def prepared(task, pixels, labels, student, progress=NOW):
    batch = Batch({MAIN: View(pixels, torch.arange(len(pixels)), labels)})
    sources = {"student": source(student, trained=True), "teacher": task.source}
    (found,) = task.prepare(batch, sources, progress, seed=0)
    return found.views["boundary"]


def test_a_sample_is_moved_across_the_linear_boundary_and_no_further():
    teacher = linear([[2.0, 0.0], [-2.0, 0.0]])  # the boundary is where the first pixel is 0
    pixels = torch.tensor([[1.0, 0.5], [0.25, -0.5], [-0.5, 1.0]]).view(3, 1, 1, 2)
    labels = torch.tensor([0, 0, 1])
    task = Boundary(source(teacher), Attack(), weight=1.0)
    view = prepared(task, pixels, labels, student=linear([[1.0, 0.0], [-1.0, 0.0]]))
    assert view.mask.tolist() == [True, True, True]
    assert torch.equal(teacher(view.input).argmax(1), 1 - labels)
    # One step is 0.3 (score gap + 1e-4), the gap being 4 |x|: it crosses at once, and then the images stay.
    expected = torch.tensor([1.0 - 0.3 * 4.0001, 0.25 - 0.3 * 1.0001, -0.5 + 0.3 * 2.0001])
    torch.testing.assert_close(view.input[:, 0, 0, 0], expected)
    assert torch.equal(view.input[:, 0, 0, 1], pixels[:, 0, 0, 1])
    assert view.number is None  # no cache can know its answers


def test_steps_follow_the_gap_end_at_the_bound_and_are_in_the_teachers_units():
    teacher = linear([[1.0, 0.0], [-1.0, 0.0]])
    normalised = Preprocess(mean=(0.5,), std=(0.25,))
    pixels = torch.tensor([[0.75, 0.5], [0.625, 0.5]]).view(2, 1, 1, 2)
    task = Boundary(source(teacher, preprocess=normalised), Attack(steps=1), weight=1.0)
    view = prepared(task, pixels, torch.tensor([0, 0]), student=linear([[1.0, 0.0], [-1.0, 0.0]]))
    # x = 1 and 0.5 there, the gaps 2 and 1: one step leaves 1 - 0.3 * 2.0001 and 0.5 - 0.3 * 1.0001, times 0.25 again
    torch.testing.assert_close(view.input[:, 0, 0, 0], torch.tensor([0.5 + 0.25 * 0.39997, 0.5 + 0.25 * 0.19997]))
    steep = Boundary(source(linear([[9.0, 0.0], [-9.0, 0.0]])), Attack(), weight=1.0)
    view = prepared(steep, torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0]), linear([[1, 0], [-1, 0]]))
    assert view.input.flatten().tolist() == [-2.5, 0.0]


def test_only_what_both_nets_classify_right_is_moved_the_furthest_apart_first():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    pixels = torch.rand(64, 3, 2, 2)
    pixels8 = (255 * pixels).to(torch.uint8)
    labels = torch.where(torch.arange(64) % 3 == 0, torch.arange(64) % 4, teacher(pixels8 / 255).argmax(1))
    for module in (teacher, student):
        for p in module.parameters():
            p.data *= 3
    task = Boundary(source(teacher, preprocess=Preprocess()), Attack(size=5), weight=1.0)
    batch = Batch({MAIN: View(pixels8, torch.arange(64), labels)})
    sources = {"student": source(student, trained=True, preprocess=Preprocess())}
    (found,) = task.prepare(batch, sources, NOW, seed=0)
    view = found.views["boundary"]
    theirs, ours = (module(pixels8 / 255).softmax(1).detach() for module in (teacher, student))
    right = (theirs.argmax(1) == labels) & (ours.argmax(1) == labels)
    assert right.sum() > 5
    apart = {i: sum(((theirs - ours)[i, k] ** 2).item() for k in range(4) if k != labels[i]) for i in range(64)}
    best = sorted((i for i in range(64) if right[i]), key=apart.get)[-5:]
    assert view.mask.nonzero().flatten().tolist() == sorted(best)
    assert torch.equal(view.input[~view.mask], (pixels8 / 255)[~view.mask])
    assert (view.input[view.mask] != (pixels8 / 255)[view.mask]).flatten(1).any(1).all()
    assert (teacher(view.input)[view.mask].argmax(1) != labels[view.mask]).any()
    (again,) = task.prepare(batch, sources, NOW, seed=0)
    assert torch.equal(view.input, again.views["boundary"].input)
    assert teacher[1].weight.grad is None  # the gradient is of the input alone


def test_where_the_weight_is_zero_nothing_is_moved():
    pixels, labels = torch.rand(4, 1, 1, 2), torch.tensor([0, 1, 0, 1])
    task = Boundary(source(linear([[1.0, 0.0], [0.0, 1.0]])), Attack(), Fade(0.05, 0.8, 2.0))
    view = prepared(task, pixels, labels, linear([[1.0, 0.0], [0.0, 1.0]]), EARLY)
    assert not view.mask.any()
    assert torch.equal(view.input, pixels)


def test_a_class_is_drawn_in_proportion_to_the_teacher_and_never_the_label():
    probabilities = torch.tensor([[0.3, 0.5, 0.2]]).expand(1000, 3)
    labels, draw = torch.full((1000,), 1), (torch.arange(1000).double() + 0.5) / 1000
    assert torch.bincount(drawn(probabilities, labels, draw), minlength=3).tolist() == [600, 0, 400]
    first = drawn(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), torch.zeros(1, dtype=torch.float64))
    assert first.tolist() == [1]
    alone = drawn(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.full((1,), 0.7, dtype=torch.float64))
    assert alone.tolist() == [1]  # nobody else has any mass


def test_hardness_leaves_out_where_one_net_is_wrong():
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    student = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    torch.testing.assert_close(
        hardness(teacher, student, torch.zeros(3, dtype=torch.int64)), torch.tensor([0.02, -1, -1])
    )


class Stored:
    """A cache: it knows answers and no network."""

    trained, module, provides, fingerprint = False, None, frozenset(), ""

    def __call__(self, task, batch, view, taps):
        return Outputs(torch.zeros(len(batch.views[view].index), 2))


def test_it_needs_the_live_teacher_whatever_stands_around_it():
    with pytest.raises(ValueError, match="use the live teacher"):
        Boundary(Stored(), Attack(), 1.0)
    with pytest.raises(ValueError, match="use the live teacher"):
        Boundary(Shuffled(Stored()), Attack(), 1.0)
    teacher = linear([[1.0, 0.0], [0.0, 1.0]])
    assert Boundary(Shuffled(Heard(source(teacher))), Attack(), 1.0).live.module is teacher


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bss(size=0)", "size must be positive"),
        ("bss(start=0.9)", "shares of the run"),
        ("bss(temperature=0)", "temperature must be positive"),
    ],
)
def test_options_outside_their_range_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def images(count, seed):
    """Noise with a bright quarter of the image, which is the class; as bytes."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 4
    for row, label in enumerate(y.tolist()):
        x[row, :, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.5
    return (x * 150).to(torch.uint8), y


def test_a_student_learns_with_it_in_micro_batches_too():
    torch.manual_seed(0)
    teacher, other, student = (build("small_cnn", num_classes=4, in_channels=1, width=8) for _ in range(3))
    data, valid = images(96, 0), images(64, 1)
    kw = {"valid": valid, "precision": "float32", "quiet": True}
    fit = potstill.Fit(epochs=3, batch_size=16, lr=0.2, schedule="constant", micro_batch=12)
    potstill.distill(other, teacher, data, method="student", fit=fit, **kw)
    potstill.distill(teacher, student, data, method="bss+kd(temperature=3):0.1", fit=fit, **kw)
    answers = student(valid[0] / 255).argmax(1)
    assert (answers == valid[1]).float().mean() > 0.5  # chance is a quarter
