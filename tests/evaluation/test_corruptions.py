"""Corruptions: every one changes images, each time alike and more with severity; its parts are scipy's and Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from potstill.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from potstill.evaluation.warps import Draws, blurred, mirrored, nearest, plasma, sampled, smeared, symmetric, zoomed

UNEVEN = {"glass_blur": 3, "motion_blur": 3, "frost": 3, "elastic": 1}
"""The released constants do not grow evenly: so many severities at the start do. `elastic` even calms down."""


@pytest.fixture(scope="module")
def images():
    """Sixteen smooth colour images of 32 x 32 with edges in them, and their numbers."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(16, 3, 6, 6, generator=generator), 32, mode="bicubic")
    smooth[:, :, 8:20, 10:24] += 0.3
    return (255 * smooth.clamp(0.05, 0.95)).to(torch.uint8), torch.arange(16)


def distance(one, two):
    return (one.float() - two.float()).abs().mean().item()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_changes_images_the_same_way_each_time(images, name):
    x, index = images
    found = [corrupt(x, index, name, severity) for severity in SEVERITIES]
    for y in found:
        assert y.dtype == torch.uint8
        assert y.shape == x.shape
    assert torch.equal(found[2], corrupt(x, index, name, 3))
    assert torch.equal(found[2][5:7], corrupt(x[5:7], index[5:7], name, 3))  # whatever is in the batch
    grown = [distance(x, y) for y in found]
    assert min(grown) > 0.2
    rising = UNEVEN.get(name, 5)
    # 3 % for random numbers: two severities of motion blur differ in pixels that a kernel leaves alone
    assert all(b > 0.97 * a for a, b in zip(grown[: rising - 1], grown[1:rising], strict=True)), grown
    if name != "elastic":
        assert grown[4] > 1.2 * grown[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_small_and_grey_and_wide_images(name):
    index = torch.arange(3)
    for shape in ((3, 1, 8, 8), (3, 3, 9, 14)):
        x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        y = corrupt(x, index, name, 5)
        assert y.shape == x.shape
        assert distance(x, y) > 0.5


def test_random_numbers_belong_to_seed_and_image(images):
    x, index = images
    same = x[:1].expand(2, -1, -1, -1)
    one, two = corrupt(same, torch.tensor([3, 4]), "gaussian_noise", 1)
    assert distance(one, two) > 5
    assert distance(corrupt(x, index, "fog", 3), corrupt(x, index, "fog", 3, seed=1)) > 1


def test_noise_has_the_stated_strength():
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    index = torch.arange(8)
    noisy = corrupt(grey, index, "gaussian_noise", 5).float() / 255
    assert noisy.std().item() == pytest.approx(0.10, rel=0.03)
    counted = corrupt(grey, index, "shot_noise", 5).float() / 255
    assert counted.mean().item() == pytest.approx(128 / 255, abs=0.005)
    assert counted.std().item() == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.03)  # Poisson: variance = mean
    salted = corrupt(grey, index, "impulse_noise", 5)
    assert (salted != 128).float().mean().item() == pytest.approx(0.07, rel=0.1)
    assert set(salted.unique().tolist()) == {0, 128, 255}
    black = corrupt(torch.zeros_like(grey), index, "shot_noise", 1)
    assert black.max() == 0


def test_blur_zoom_and_sampling_are_those_of_scipy(images):
    x = images[0][:2].double() / 255
    one = x[0, 0].numpy()
    for edge, mode in ((nearest, "nearest"), (symmetric, "reflect"), (mirrored, "mirror")):
        wanted = ndimage.gaussian_filter(one, 1.3, mode=mode, truncate=4)
        np.testing.assert_allclose(blurred(x, 1.3, edge)[0, 0], wanted, atol=1e-9)
    for factor in (1.02, 1.11, 1.75, 2.25):
        cut = int(np.ceil(32 / factor))
        top = (32 - cut) // 2
        large = ndimage.zoom(one[top : top + cut, top : top + cut], factor, order=1)
        off = (len(large) - 32) // 2
        np.testing.assert_allclose(zoomed(x, factor)[0, 0], large[off : off + 32, off : off + 32], atol=1e-9)
    rows, columns = torch.rand(2, 2, 32, 32, generator=torch.Generator().manual_seed(2)).double() * 50 - 9
    wanted = ndimage.map_coordinates(one, [rows[0].numpy(), columns[0].numpy()], order=1, mode="reflect")
    np.testing.assert_allclose(sampled(x, rows, columns, symmetric)[0, 0], wanted, atol=1e-9)


def test_pixelate_is_pillows(images):
    x, index = images
    for severity, share in zip(SEVERITIES, (0.95, 0.9, 0.85, 0.75, 0.65), strict=True):
        found = corrupt(x[:1], index[:1], "pixelate", severity)[0].permute(1, 2, 0).numpy().astype(int)
        small = Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((int(32 * share),) * 2, Image.Resampling.BOX)
        wanted = np.asarray(small.resize((32, 32), Image.Resampling.BOX)).astype(int)
        assert np.abs(found - wanted).max() <= 1  # Pillow rounds between the axes


def test_glass_is_the_released_loop():
    """It walks from the last pixel and assigns through views: what it means as a swap is a copy."""
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    walked = x[0].permute(1, 2, 0).numpy().copy()
    draws = Draws(torch.tensor([0]), (0, "corruption", "glass_blur"))
    up, back = (-(draws.uniform(way, 32, 32)[0] < 0.5).long() for way in ("up0", "back0"))
    for h in range(31, 1, -1):
        for w in range(31, 1, -1):
            there = h + int(up[h, w]), w + int(back[h, w])
            walked[h, w], walked[there] = walked[there], walked[h, w]
    found = corrupt(x, torch.tensor([0]), "glass_blur", 1)[0].permute(1, 2, 0).numpy()  # its blur of 0.05 does nothing
    assert np.array_equal(found, walked)


def test_motion_goes_along_its_angle():
    """A point becomes half a Gaussian to the left, to the top, or on the way to the corner."""
    x = torch.zeros(3, 1, 21, 21)
    x[:, :, 10, 10] = 1
    y = smeared(x, 6, 2.0, torch.tensor([0.0, 90.0, 45.0]))[:, 0]
    torch.testing.assert_close(y.sum((1, 2)), torch.ones(3))
    weights = torch.exp(-0.5 * (torch.arange(11) / 2.0) ** 2)
    line = weights / torch.exp(-0.5 * (torch.arange(13) / 2.0) ** 2).sum()
    torch.testing.assert_close(y[0, 10, :11].flip(0), line)
    torch.testing.assert_close(y[1, :11, 10].flip(0), line)
    assert y[2, 3:11, 3:11].sum() > 0.99


def test_a_cloud_fills_its_range_and_is_smooth():
    cloud = plasma(Draws(torch.arange(4), (0,)), 32, 20, 3.0)
    assert cloud.shape == (4, 1, 32, 20)
    assert cloud.min() >= 0
    assert cloud.max() <= 1
    assert cloud.std() > 3 * (cloud[:, :, 1:] - cloud[:, :, :-1]).std()


def test_what_is_wrong_is_said(images):
    x, index = images
    with pytest.raises(ValueError, match="did you mean 'frost'"):
        corrupt(x, index, "forst", 1)
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, got 6"):
        corrupt(x, index, "fog", 6)
    with pytest.raises(ValueError, match="expected uint8"):
        corrupt(x.float(), index, "fog", 1)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        corrupt(x[:, :2], index, "fog", 1)
