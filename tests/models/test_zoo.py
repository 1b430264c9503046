"""The zoo against the reference: same keys, same sizes, same numbers; and what a user asks of any model."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from potstill.models import MODELS, build, resnet8, small_cnn, wrn_16_1
from potstill.models.resnet import ResNet
from potstill.models.wrn import WideResNet

REFERENCE_MODELS = [name for name in MODELS if name != "small_cnn"]
WITH_LOGITS = ["resnet8", "resnet20", "resnet44", "resnet110", "resnet32x4", "wrn_16_1", "wrn_40_1"]
FEATURES = ["stem", "stage1", "stage2", "stage3", "embedding"]
BEFORE_ACTIVATION = ["stem", "stage1.pre", "stage2.pre", "stage3.pre", "embedding"]
TAPS = {*FEATURES, *BEFORE_ACTIVATION, "last_map"}


@pytest.fixture(scope="module")
def facts(shared):
    return json.loads(shared("goldens", "models.json").read_text())["models"]


@pytest.fixture(scope="module")
def numbers(shared):
    with np.load(shared("goldens", "models_logits.npz")) as file:
        return dict(file)


def answer_and_taps(model, x):
    """Logits, and every tap of the model read by hooks; a tap that fires twice or never fails."""
    seen = {}

    def reader(name, of_input):
        def read(module, inputs, output):
            assert name not in seen, f"{name} fired twice"
            seen[name] = inputs[0] if of_input else output

        return read

    handles = []
    for name, path in model.taps.items():
        module = model.get_submodule(path.removesuffix(".input"))
        handles.append(module.register_forward_hook(reader(name, path.endswith(".input"))))
    logits = model(x)
    for handle in handles:
        handle.remove()
    assert seen.keys() == model.taps.keys()
    return logits, seen


def golden_weights(state):
    """The weights that the goldens' README describes."""
    draw = np.random.RandomState(0)
    weights = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.zeros_like(tensor)
            continue
        z = draw.standard_normal(tuple(tensor.shape))
        if key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(z)
        elif key.endswith("running_mean"):
            value = 0.1 * z
        elif z.ndim >= 2:
            value = z * np.sqrt(1 / np.prod(z.shape[1:]))
        elif key.endswith("weight"):
            value = 1 + 0.1 * z
        else:
            value = 0.1 * z
        weights[key] = torch.from_numpy(value)
    return weights


def parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_layout_is_the_references(name, facts):
    model = build(name, num_classes=100)
    layout = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
    assert layout == facts[name]["state_dict"]
    assert parameters(model) == facts[name]["params"]
    assert sum(p.requires_grad for p in model.parameters()) == facts[name]["trainable_tensors"]


def test_models_with_golden_logits_are_all_tested(facts):
    assert {name for name in REFERENCE_MODELS if facts[name]["logits_in_npz"]} == set(WITH_LOGITS)


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_numbers_are_the_references(name, facts, numbers):
    model = build(name, num_classes=100).double().eval()
    model.load_state_dict(golden_weights(model.state_dict()))
    with torch.no_grad():
        logits, taps = answer_and_taps(model, torch.from_numpy(numbers["input"]))
    np.testing.assert_allclose(logits.numpy(), numbers[f"{name}.logits"], rtol=1e-9, atol=0)
    for kind, names, shapes in [
        ("feat", FEATURES, facts[name]["feat_shapes"]),
        ("preact", BEFORE_ACTIVATION, facts[name]["preact_shapes"]),
    ]:
        for i, (tap, shape) in enumerate(zip(names, shapes, strict=True)):
            value = taps[tap]
            assert list(value.shape) == shape
            sums = [value.sum().item(), value.abs().sum().item(), value.square().sum().item()]
            # A sum of both signs cancels, so its error is measured against the sum of absolute values.
            np.testing.assert_allclose(sums, numbers[f"{name}.{kind}.{i}"], rtol=1e-9, atol=1e-11 * sums[1])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet8", 83892),
        ("resnet20", 278324),
        ("resnet56", 861620),
        ("resnet32x4", 7433860),
        ("wrn_40_2", 2255156),
    ],
)
def test_known_sizes(name, count):
    assert parameters(build(name, num_classes=100)) == count


def test_the_demo_student_has_about_5000_parameters_and_the_teacher_more():
    assert parameters(small_cnn(10)) == 5026
    assert parameters(small_cnn(10, width=32, depth=2)) > 100_000


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (28, 28)), (4, (17, 30))])
@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_2", "small_cnn"])
def test_any_image(name, channels, size):
    model = build(name, num_classes=7, in_channels=channels)
    logits, taps = answer_and_taps(model, torch.randn(2, channels, *size))
    assert logits.shape == (2, 7)
    assert set(taps) == TAPS
    torch.testing.assert_close(model.fc(taps["embedding"]), logits)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("depth", [1, 3])
def test_small_cnn_takes_the_smallest_images(depth):
    model = small_cnn(10, depth=depth)
    logits, taps = answer_and_taps(model, torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    assert [tuple(taps[f"stage{i}"].shape[1:]) for i in (1, 2, 3)] == [(8, 8, 8), (16, 4, 4), (24, 2, 2)]
    for i in (1, 2, 3):
        torch.testing.assert_close(taps[f"stage{i}.pre"].relu(), taps[f"stage{i}"])


def test_resnet_stages_before_and_after_activation():
    _, taps = answer_and_taps(resnet8(10), torch.randn(2, 3, 16, 16))
    for i in (1, 2, 3):
        assert taps[f"stage{i}.pre"].min() < 0
        torch.testing.assert_close(taps[f"stage{i}.pre"].relu(), taps[f"stage{i}"])
    torch.testing.assert_close(taps["last_map"].mean((2, 3)), taps["embedding"])


def test_wide_resnet_embedding_is_the_pooled_activation():
    _, taps = answer_and_taps(wrn_16_1(10), torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(taps["stage3.pre"].relu().mean((2, 3)), taps["embedding"])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_changed_in_place(name):
    model = build(name, num_classes=2)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_initialisation():
    model = build("wrn_16_2", num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    weight = model.block3.layer[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_build_passes_arguments_on():
    assert build("small_cnn", num_classes=3, in_channels=1, width=4, depth=2).fc.in_features == 12


def test_build_errors_teach():
    with pytest.raises(ValueError, match=r"unknown model 'wrn_16_3'.*'wrn_16_[12]'"):
        build("wrn_16_3", num_classes=10)
    with pytest.raises(ValueError, match="no argument 'widht': did you mean 'width'"):
        build("small_cnn", num_classes=10, widht=4)
    with pytest.raises(ValueError, match="no argument 'width': it takes"):
        build("resnet8", num_classes=10, width=4)
    with pytest.raises(ValueError, match="num_classes=0"):
        build("resnet8", num_classes=0)
    with pytest.raises(ValueError, match="at least 1"):
        small_cnn(10, width=0)
    with pytest.raises(ValueError, match=r"6n \+ 2 layers"):
        ResNet(9, (16, 16, 32, 64), 10, 3)
    with pytest.raises(ValueError, match=r"6n \+ 4 layers"):
        WideResNet(4, 1, 10, 3)
