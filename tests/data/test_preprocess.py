"""Each network's own view of the pixels and of the labels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from potstill.data import USUAL, Data, Preprocess, load

PIXELS = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalises_bytes_and_floats_alike():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    prepare = Preprocess(mean, std)
    expected = (PIXELS.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(prepare(PIXELS).numpy(), expected, atol=1e-6)
    assert torch.allclose(prepare(PIXELS.float() / 255), prepare(PIXELS), atol=1e-6)
    assert np.allclose(prepare(PIXELS, torch.float64).numpy(), expected, atol=1e-14)
    assert prepare(PIXELS).dtype == torch.float32
    assert prepare(PIXELS, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(prepare(PIXELS, torch.bfloat16), prepare(PIXELS).bfloat16())


def test_leaves_its_input_alone():
    before, floats = PIXELS.clone(), PIXELS.float() / 255
    kept = floats.clone()
    USUAL["imagenet"](PIXELS)
    USUAL["imagenet"](floats)
    Preprocess.identity()(floats)
    assert torch.equal(PIXELS, before)
    assert torch.equal(floats, kept)


def test_usual_ranges():
    ramp = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    spans = {name: (float(p(ramp).min()), float(p(ramp).max())) for name, p in USUAL.items()}
    assert spans["unit [0, 1]"] == (0, 1)
    assert spans["[-1, 1]"] == (-1, 1)
    assert spans["raw 0–255"] == pytest.approx((0, 255))
    assert spans["imagenet"] == pytest.approx((-2.118, 2.64), abs=1e-3)


def test_of_images_gives_zero_mean_and_unit_variance():
    train, _ = load(Data())
    out = Preprocess.of(train)(train.images, torch.float64)
    assert float(out.mean()) == pytest.approx(0, abs=1e-9)
    assert float(out.std(correction=0)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [6, 24])
def test_resizes_like_pillow(size):
    out = Preprocess(size=size)(PIXELS, torch.float64)
    assert out.shape == (4, 3, size, size)
    image = Image.fromarray(PIXELS[0].permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(out[0].numpy() * 255 - expected).max() < 1.5  # Pillow rounds twice


def test_same_size_is_untouched():
    assert torch.equal(Preprocess(size=12)(PIXELS), Preprocess()(PIXELS))


def test_label_map():
    output = torch.arange(10.0).view(2, 5)
    assert Preprocess(label_map=(4, 0, 0))(PIXELS).shape == PIXELS.shape
    assert Preprocess(label_map=(4, 0, 0)).labels(output).tolist() == [[4, 0, 0], [9, 5, 5]]
    assert Preprocess().labels(output) is output
    with pytest.raises(ValueError, match="output 5, but the network has 5"):
        Preprocess(label_map=(0, 5)).labels(output)


def test_gradient_passes_after_inference_mode():
    prepare = Preprocess((0.1, 0.2, 0.3), (0.11, 0.22, 0.33), 7, (1, 0))
    with torch.inference_mode():
        prepare.labels(prepare(PIXELS).mean(dim=(2, 3)))
    x = (PIXELS.float() / 255).requires_grad_()
    prepare.labels(prepare(x).mean(dim=(2, 3))).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_round_trip():
    prepare = Preprocess((0.5,), (0.25,), 32, (3, 1, 2))
    assert Preprocess.from_dict(json.loads(json.dumps(prepare.describe()))) == prepare
    assert Preprocess.from_dict(Preprocess.identity().describe()) == Preprocess.identity()
    assert hash(prepare) == hash(Preprocess((0.5,), (0.25,), 32, (3, 1, 2)))
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        Preprocess.from_dict({"meen": [0.5]})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean": (0.5,)}, "same length"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "same length"),
        ({"mean": (0.5,), "std": (0.0,)}, "positive"),
        ({"size": 0}, "at least 1"),
        ({"label_map": ()}, "one per class"),
        ({"label_map": (0, -1)}, "from 0"),
    ],
)
def test_refusals(values, words):
    with pytest.raises(ValueError, match=words):
        Preprocess(**values)


def test_wrong_input():
    with pytest.raises(ValueError, match=r"3 values, but the images have 1 channel"):
        USUAL["imagenet"](PIXELS[:, :1])
    with pytest.raises(ValueError, match="int64"):
        Preprocess()(PIXELS.long())
