"""FGSM and PGD where the worst image is known, and where the cross-entropy's gradient is lost to float32."""

import pytest
import torch
from torch import nn

from potstill.evaluation.attacks import fgsm, margin, pgd

EPSILON = 8 / 255


@pytest.fixture
def seen():
    """Images away from the ends of [0, 1], labels, and their numbers."""
    generator = torch.Generator().manual_seed(0)
    pixels = 0.2 + 0.6 * torch.rand(6, 3, 4, 4, generator=generator)
    return pixels, torch.tensor([0, 1, 0, 1, 1, 0]), torch.arange(6)


@pytest.fixture
def linear():
    """Two classes, z = w x: the worst image in the ball is known."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)


@pytest.fixture
def curved():
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)]
    network = nn.Sequential(*layers)
    for layer in network:
        if hasattr(layer, "weight"):
            layer.weight.data *= 4
    return network


def test_a_linear_network_is_moved_to_the_corner_of_the_ball(linear, seen):
    pixels, label, index = seen
    weight = linear[1].weight
    apart = (weight[1] - weight[0]).view(3, 4, 4)
    worst = pixels + EPSILON * torch.where(label[:, None, None, None] == 0, 1, -1) * apart.sign()
    torch.testing.assert_close(fgsm(linear, pixels, label, EPSILON), worst)
    torch.testing.assert_close(pgd(linear, pixels, label, EPSILON, index=index), worst)
    lost = margin(linear(worst), label) - margin(linear(pixels), label)
    torch.testing.assert_close(lost, (EPSILON * apart.abs().sum()).expand(6))  # ε times the dual norm of w


def test_pgd_is_at_least_as_strong_and_stays_in_the_ball(curved, seen):
    pixels, label, index = seen
    once, often = fgsm(curved, pixels, label, 0.1), pgd(curved, pixels, label, 0.1, index=index)
    for found in (once, often):
        assert (found - pixels).abs().max() <= 0.1 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
    before, after, more = (margin(curved(x), label) for x in (pixels, once, often))
    assert after.mean() > before.mean()
    assert more.mean() > after.mean()
    assert all(p.grad is None for p in curved.parameters())


def test_the_start_belongs_to_the_image(curved, seen):
    pixels, label, index = seen
    walk = {"steps": 1, "step_size": 1e-6}
    whole = pgd(curved, pixels, label, 0.1, index=index, **walk)
    part = pgd(curved, pixels[2:4], label[2:4], 0.1, index=index[2:4], **walk)
    torch.testing.assert_close(whole[2:4], part, atol=1e-5, rtol=0)
    other = pgd(curved, pixels, label, 0.1, index=index, seed=1, **walk)
    assert (other - whole).abs().mean() > 0.01


def test_a_network_that_is_sure_is_attacked_all_the_same(linear, seen):
    """Its cross-entropy is 0 in float32, and so is the gradient of that."""
    pixels, label, _ = seen

    def sure(x):
        own = nn.functional.one_hot(label, 2)
        return linear(x) + 200 * own

    loss = nn.functional.cross_entropy(sure(pixels), label, reduction="none")
    assert loss.abs().max() == 0
    torch.testing.assert_close(fgsm(sure, pixels, label, EPSILON), fgsm(linear, pixels, label, EPSILON))


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5, float("nan")])
def test_an_epsilon_outside_of_the_pixels_is_refused(linear, seen, epsilon):
    pixels, label, index = seen
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\]"):
        fgsm(linear, pixels, label, epsilon)
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\]"):
        pgd(linear, pixels, label, epsilon, index=index)
