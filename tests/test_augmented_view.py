"""Second views of a batch: what they hold beside the images, and which mixed images a teacher picks."""

import pytest
import torch
from torch import nn

from potstill.sources import Network
from potstill.tasks.augmented import Augmented, Picked
from potstill.tasks.second import SecondView
from potstill.types import Batch, Progress, View

ROWS = 6


class Contrast(nn.Module):
    """The darker an image, the less sure it is."""

    def forward(self, x):
        mean = x.float().mean((1, 2, 3))
        return torch.stack([mean, torch.zeros_like(mean)], 1) / 40


def example():
    """Image i is grey, its value 10 i."""
    pixels = (10 * torch.arange(ROWS)).to(torch.uint8)[:, None, None, None].expand(ROWS, 3, 16, 16)
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    extras = {"weight": order.double()}
    return Batch(
        {"main": View(pixels[order], order + 100, order, torch.ones(ROWS, dtype=torch.bool), extras, number=3)}
    )


def second(make, seed=0, step=0):
    task = SecondView(make, "augmented")
    sources = {"teacher": Network(Contrast(), trained=False)}
    (batch,) = task.prepare(example(), sources, Progress(step, 0, 10), seed)
    assert torch.equal(batch.main.input, example().main.input)
    return batch.views["augmented"]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_view_knows_both_labels(kind):
    for step in range(5):
        view = second(Augmented(kind), step=step)
        mean = view.input.double().mean((1, 2, 3)) * (255 if view.input.is_floating_point() else 1)
        expected = 10 * (view.extras["share"] * view.label + (1 - view.extras["share"]) * view.extras["partner_label"])
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-4)
        assert torch.equal(view.index, example().main.index)
        assert torch.equal(view.extras["weight"], example().main.extras["weight"])
        assert view.number is None


def test_every_step_has_a_view_of_its_own():
    views = [second(Augmented("mixup"), seed, step).input for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[3])


def test_the_hole_is_a_quarter_of_the_side():
    largest = max(
        (second(Augmented("cutout", fill=(255.0,)), step=s).input[0, 0] == 255).sum().item() for s in range(20)
    )
    assert largest == 16


def test_the_released_pick_is_a_batch_of_64_in_another_order():
    """The unmixed images are scored and all are kept: CutMix, sorted by the entropy of the originals."""
    view = second(Picked(as_released=True))
    assert sorted(view.label.tolist()) == list(range(ROWS))
    assert view.label.tolist() == [5, 4, 3, 2, 1, 0]  # the darkest last, though what is shown is mixed
    assert (view.input.flatten(1) != 10 * view.label[:, None]).any()
    assert len(second(Picked(as_released=True, keep=2)).index) == 2


def test_our_pick_takes_the_mixed_images_that_the_teacher_is_least_sure_of():
    alone, many = second(Picked(pool=1)), second(Picked(pool=8))
    assert len(alone.index) == len(many.index) == ROWS
    assert many.input.double().mean() < alone.input.double().mean()
    means = many.input.double().mean((1, 2, 3))
    assert torch.equal(means, means.sort(descending=True).values)
    # Rows stay whole: label, index, share and partner are those of the image that is shown.
    expected = 10 * (many.extras["share"] * many.label + (1 - many.extras["share"]) * many.extras["partner_label"])
    torch.testing.assert_close(means, expected)
    assert torch.equal(many.index, many.label + 100)
    assert torch.equal(many.extras["weight"], many.label.double())


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: Augmented("cutmx"), "did you mean 'cutmix'"),
        (lambda: Augmented("autoaugment", policy="imagnet"), "did you mean 'imagenet'"),
        (lambda: Picked(pool=0), "at least 1"),
        (lambda: second(Augmented("mixup", alpha=-1.0)), "positive alpha"),
    ],
)
def test_what_a_second_view_refuses(act, says):
    with pytest.raises(ValueError, match=says):
        act()
