"""The networks for ImageNet: torchvision's layout, the sizes of its documentation, and another library's numbers."""

import pytest
import torch
from safetensors.torch import save_file

from potstill.models import build, load_weights
from potstill.taps import probe, stages_of

SIZES = {"resnet18_imagenet": 11_689_512, "resnet34_imagenet": 21_797_672, "resnet50_imagenet": 25_557_032}
"""Parameters with 1,000 classes, from torchvision's documentation."""
BLOCKS = {"resnet18_imagenet": (2, 2, 2, 2), "resnet34_imagenet": (3, 4, 6, 3), "resnet50_imagenet": (3, 4, 6, 3)}


def norm(name):
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def published(name):
    """The keys of torchvision's checkpoints, in order."""
    bottleneck = name == "resnet50_imagenet"
    keys = ["conv1.weight", *norm("bn1")]
    for stage, blocks in enumerate(BLOCKS[name], start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            for number in range(1, 4 if bottleneck else 3):
                keys += [f"{at}.conv{number}.weight", *norm(f"{at}.bn{number}")]
            if block == 0 and (stage > 1 or bottleneck):
                keys += [f"{at}.downsample.0.weight", *norm(f"{at}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


def sketch(name, **kw):
    with torch.device("meta"):
        return build(name, **kw)


@pytest.mark.parametrize("name", SIZES)
def test_layout_is_torchvisions(name):
    model = sketch(name, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name]
    assert list(model.state_dict()) == published(name)
    assert model.conv1.weight.shape == (64, 3, 7, 7)


@pytest.mark.parametrize("name", SIZES)
def test_maps_of_a_photograph(name):
    model = sketch(name, num_classes=1000)
    times = 4 if name == "resnet50_imagenet" else 1
    seen = {}
    for tap, path in model.taps.items():
        module = model.get_submodule(path.removesuffix(".input"))
        module.register_forward_hook(
            lambda _, inputs, output, tap=tap, path=path: seen.__setitem__(
                tap, inputs[0] if path.endswith(".input") else output
            )
        )
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert seen["stem"].shape == (2, 64, 56, 56)
    for number, (width, side) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], start=1):
        assert seen[f"stage{number}"].shape == seen[f"stage{number}.pre"].shape == (2, times * width, side, side)
    assert seen["last_map"].shape == seen["stage4"].shape
    assert seen["embedding"].shape == (2, times * 512)


@pytest.mark.parametrize("name", SIZES)
def test_taps_before_and_after_activation(name):
    torch.manual_seed(0)
    model = build(name, num_classes=3, in_channels=1).eval()
    seen = {}
    for number in range(1, 5):
        model.get_submodule(model.taps[f"stage{number}.pre"].removesuffix(".input")).register_forward_hook(
            lambda _, inputs, output, number=number: seen.__setitem__(number, (inputs[0], output))
        )
        model.get_submodule(f"layer{number}").register_forward_hook(
            lambda _, inputs, output, number=number: seen.__setitem__(-number, output)
        )
    with torch.no_grad():
        found = probe(model, lambda: model(torch.randn(2, 1, 40, 32)))
    assert tuple(found.stages) == ("stage1", "stage2", "stage3", "stage4") == tuple(stages_of(model.taps))
    assert found.names["pooled_map"] == "layer4"
    for number in range(1, 5):
        before, after = seen[number]
        assert before.min() < 0
        assert torch.equal(before.relu(), after)
        assert torch.equal(after, seen[-number])


def transformers_key(key):
    """The name of a tensor of torchvision's layout in the `transformers` library."""
    parts = key.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    kinds = {"conv": "convolution", "bn": "normalization"}
    if len(parts) == 2:
        return f"resnet.embedder.embedder.{kinds[parts[0][:-1]]}.{parts[1]}"
    at = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{at}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{parts[4]}"
    return f"{at}.layer.{int(parts[2][-1]) - 1}.{kinds[parts[2][:-1]]}.{parts[3]}"


@pytest.mark.parametrize("name", ["resnet18_imagenet", "resnet50_imagenet"])
def test_a_published_checkpoint_gives_its_numbers(name, tmp_path):
    """The same weights in another library's network, which is tested against torchvision's checkpoints there."""
    transformers = pytest.importorskip("transformers")
    bottleneck = name == "resnet50_imagenet"
    config = transformers.ResNetConfig(
        depths=list(BLOCKS[name]),
        hidden_sizes=[4 * w for w in (64, 128, 256, 512)] if bottleneck else [64, 128, 256, 512],
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=5,
    )
    torch.manual_seed(0)
    theirs = transformers.ResNetForImageClassification(config).double().eval()
    weights = theirs.state_dict()
    for key, value in weights.items():
        if key.endswith(("running_mean", "normalization.weight")):
            value.add_(0.1 * torch.randn_like(value))
    model = build(name, num_classes=5).double().eval()
    file = tmp_path / "weights.safetensors"
    save_file({key: weights[transformers_key(key)].contiguous() for key in model.state_dict()}, file)
    load_weights(model, file)
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, rtol=1e-9, atol=1e-9)
