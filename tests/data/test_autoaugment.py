"""AutoAugment's operations against Pillow, which the paper's authors used; and what is drawn for a batch."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from potstill.data import pixels
from potstill.data.autoaugment import CIFAR10, IMAGENET, KINDS, autoaugment


def photographs(channels=3, height=24, width=20):
    """Noise, something smooth, few values, and one value only."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, channels, height, width), generator=generator)
    smooth = torch.nn.functional.interpolate(noise[:1, :, :3, :3].double(), (height, width), mode="bilinear")
    noise[1], noise[2], noise[3] = smooth[0].long(), noise[2] // 16 + 90, 77
    return noise.to(torch.uint8)


def by_pillow(images, change):
    """The same of each image by itself."""
    changed = [change(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in images]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in changed])


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


OPERATIONS = {
    "invert": (pixels.invert, ImageOps.invert, 0),
    "posterize": (lambda x: pixels.posterize(x, 5), lambda one: ImageOps.posterize(one, 5), 0),
    "solarize": (lambda x: pixels.solarize(x, 113.3), lambda one: ImageOps.solarize(one, 113.3), 0),
    "equalize": (pixels.equalize, ImageOps.equalize, 0),
    "autocontrast": (pixels.autocontrast, ImageOps.autocontrast, 1),
    "brightness": (lambda x: pixels.brightness(x, 1.4), lambda one: ImageEnhance.Brightness(one).enhance(1.4), 1),
    "colour": (lambda x: pixels.colour(x, 0.3), lambda one: ImageEnhance.Color(one).enhance(0.3), 2),
    "contrast": (lambda x: pixels.contrast(x, 1.7), lambda one: ImageEnhance.Contrast(one).enhance(1.7), 2),
    "sharpness": (lambda x: pixels.sharpness(x, 0.0), lambda one: one.filter(ImageFilter.SMOOTH), 1),
    "sharper": (lambda x: pixels.sharpness(x, 1.9), lambda one: ImageEnhance.Sharpness(one).enhance(1.9), 2),
    "rotate": (lambda x: pixels.rotate(x, 20.0), lambda one: one.rotate(20.0), 0),
    "translate": (lambda x: pixels.translate(x, across=-5, down=3), affine(1, 0, 5, 0, 1, -3), 0),
    "shear": (lambda x: pixels.shear(x, across=0.17), affine(1, 0.17, 0, 0, 1, 0), 0),
    "shear_down": (lambda x: pixels.shear(x, down=-0.23), affine(1, 0, 0, -0.23, 1, 0), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name):
    """To the rounding, which is that of torchvision's tensors: greys are cut off there and rounded in Pillow."""
    ours, theirs, rounding = OPERATIONS[name]
    before = photographs()
    found, expected = ours(photographs()), by_pillow(before, theirs)
    assert found.dtype == torch.uint8
    unlike = (found.int() - expected.int()).abs()
    if rounding == 0 and name in ("rotate", "shear", "shear_down"):  # a point may lie on the line between two pixels
        assert (unlike > 0).double().mean() < 0.01
    else:
        assert unlike.max() <= rounding
    assert (found != before).any()


def test_images_of_one_channel_are_changed_too():
    grey = photographs(channels=1)
    colours = grey.expand(-1, 3, -1, -1)
    for name, kind in KINDS.items():
        found, expected = kind.apply(grey, kind.strength(6)), kind.apply(colours, kind.strength(6))
        assert (found.int() - expected[:, :1].int()).abs().max() <= 2, name


def test_strengths_are_the_papers():
    assert KINDS["shear_x"].strength(9) == pytest.approx(0.3)
    assert KINDS["rotate"].strength(3) == pytest.approx(10)
    assert KINDS["solarize"].strength(0) == 255
    assert KINDS["translate_y"].strength(9) == pytest.approx(150 / 331)
    assert [8 - round(KINDS["posterize"].strength(tenth)) for tenth in (0, 5, 6, 9)] == [8, 6, 5, 4]


@pytest.mark.parametrize("pairs", [CIFAR10, IMAGENET])
def test_a_policy_has_25_pairs_that_exist(pairs):
    assert len(pairs) == 25
    for name, probability, tenth in (one for pair in pairs for one in pair):
        assert 0 <= probability <= 1
        assert (tenth is None) == (name in ("autocontrast", "equalize", "invert"))
        assert KINDS[name]


def test_every_image_of_a_batch_is_changed_alike(monkeypatch):
    """One pair of operations each time, each as often as its probability says."""
    applied = Counter()

    def counting(name, kind):
        def apply(x, strength):
            applied[name, math.copysign(1, strength)] += 1
            return kind.apply(x, strength)

        return type(kind)(apply, kind.least, kind.most, kind.signed)

    monkeypatch.setattr("potstill.data.autoaugment.KINDS", {n: counting(n, k) for n, k in KINDS.items()})
    tiny, steps = photographs(height=6, width=6), 1500
    for step in range(steps):
        autoaugment(tiny, 0, step)
    for name in KINDS:
        expected = sum(p for pair in CIFAR10 for one, p, _ in pair if one == name) / 25
        times = applied[name, 1.0] + applied[name, -1.0]
        assert times / steps == pytest.approx(expected, abs=0.04), name
    assert applied["translate_y", 1.0] == pytest.approx(applied["translate_y", -1.0], rel=0.4)


def test_a_function_of_the_salts():
    images = photographs()
    kept = images.clone()
    one, again = (autoaugment(images, 0, 5, policy="imagenet") for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(images, kept)
    assert len({autoaugment(images, 0, step).sum().item() for step in range(20)}) > 5


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: autoaugment(photographs(), 0, policy="cifar"), "did you mean 'cifar10'"),
        (lambda: autoaugment(photographs().float(), 0), "works on pixels: uint8"),
        (lambda: autoaugment(photographs()[:, :2], 0), "1 or 3 channels"),
    ],
)
def test_what_cannot_be_augmented_is_said(act, says):
    with pytest.raises(ValueError, match=says):
        act()
