"""Mixup, CutMix and Cutout: what lands where, how often, and that nothing but salts and index decides."""

import numpy as np
import pytest
import torch
from scipy import stats

from potstill.data.mixing import beta, cutmix, cutout, mixup
from potstill.data.preprocess import Preprocess

INDEX = torch.tensor([40, 7, 19, 3, 88, 21])


def images(dtype=torch.uint8, height=12, width=8):
    pixels = torch.randint(1, 256, (6, 3, height, width), generator=torch.Generator().manual_seed(0))
    return pixels.to(torch.uint8) if dtype == torch.uint8 else (pixels / 255).to(dtype)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_drawn_from_beta(alpha):
    drawn = beta(torch.arange(5000), alpha, 0, "test").numpy()
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_mixup_adds_images(per):
    x = images(torch.float64)
    mixed = mixup(x, INDEX, 3, "step", per=per)
    assert sorted(mixed.partner.tolist()) == list(range(6))
    assert len(set(mixed.share.tolist())) == (1 if per == "batch" else 6)
    for row in range(6):
        share, partner = mixed.share[row].item(), mixed.partner[row].item()
        torch.testing.assert_close(mixed.input[row], share * x[row] + (1 - share) * x[partner])


def test_mixup_of_pixels_is_mixup_of_what_the_network_sees():
    ready = Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    x = images()
    mixed, expected = mixup(x, INDEX, 1), mixup(ready(x), INDEX, 1)
    torch.testing.assert_close(ready(mixed.input), expected.input, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_cutmix_pastes_one_box(per):
    # Every image has one value of its own, so that a pixel says where it comes from.
    x = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 12, 8)
    boxes = set()
    for step in range(40):
        mixed = cutmix(x, INDEX, step, per=per)
        for row, partner in enumerate(mixed.partner.tolist()):
            own = (mixed.input[row, 0] == row).double().mean().item()
            if partner == row:
                assert own == 1
                continue
            assert own == pytest.approx(mixed.share[row].item())
            pasted = (mixed.input[row] == partner).nonzero()
            if len(pasted):
                low, high = pasted[:, 1:].amin(0), pasted[:, 1:].amax(0)
                box = mixed.input[row, :, low[0] : high[0] + 1, low[1] : high[1] + 1]
                assert (box == partner).all()
                boxes.add((step, *low.tolist(), *high.tolist()))
    assert len(boxes) <= 40 if per == "batch" else len(boxes) > 80


def test_cutmix_leaves_as_much_as_the_released_boxes():
    """Their boxes drawn again, with numpy."""
    random, left = np.random.default_rng(0), []
    for share in random.beta(1, 1, 4000):
        area = 1
        for size in (12, 8):
            cut, centre = int(size * np.sqrt(1 - share)), random.integers(size)
            area *= np.clip(centre + cut // 2, 0, size) - np.clip(centre - cut // 2, 0, size)
        left.append(1 - area / 96)
    shares = torch.stack([cutmix(images(), INDEX, step).share[0] for step in range(400)]).numpy()
    assert stats.ks_2samp(shares, left).pvalue > 0.01


def test_cutout_makes_the_same_hole_everywhere():
    sizes = set()
    for step in range(60):
        hole = cutout(images(height=16, width=16), INDEX, step, side=4) == 0
        assert (hole == hole[:1, :1]).all()
        sizes.add(int(hole[0, 0].sum()))
    assert max(sizes) == 16
    assert min(sizes) < 16  # it hangs over an edge
    own = cutout(images(height=16, width=16), INDEX, 0, side=4, per="sample") == 0
    assert not (own == own[:1]).all()


def test_the_hole_has_a_colour():
    x = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    cut = cutout(x, torch.tensor([0, 1]), 0, side=6, fill=(10.0, 20.0, 30.0))
    assert set(cut[:, 1].unique().tolist()) == {20, 255}


@pytest.mark.parametrize("make", [mixup, cutmix])
def test_randomness_has_no_history(make):
    before = torch.get_rng_state()
    one, again, other = make(images(), INDEX, 0, 5), make(images(), INDEX, 0, 5), make(images(), INDEX, 0, 6)
    assert torch.equal(one.input, again.input)
    assert not torch.equal(one.input, other.input)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: mixup(images()[0], INDEX, 0), r"images \[B, C, H, W\]"),
        (lambda: cutmix({"input_ids": INDEX}, INDEX, 0), "got dict"),
        (lambda: mixup(images(), INDEX, 0, alpha=0), "positive alpha"),
        (lambda: cutout(images(), INDEX, 0, side=0), "at least 1 pixel"),
        (lambda: cutout(images(), INDEX, 0, side=2, fill=(1.0, 2.0)), "2 values, but the images have 3"),
    ],
)
def test_what_cannot_be_mixed_is_said(act, says):
    with pytest.raises(ValueError, match=says):
        act()
