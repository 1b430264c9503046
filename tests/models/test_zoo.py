"""The zoo against the reference: same keys, same sizes, same numbers; and what a user asks of any model."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from potstill import catalogue
from potstill.models import MODELS, build, mobilenetv2, shufflev2, small_cnn, vgg8, wrn_16_1
from potstill.models.resnet import ResNet
from potstill.models.wrn import WideResNet
from potstill.taps import probe, stages_of

PLANES = ["plane2", "plane4", "plane6", "plane8", "plane10"]
OTHERS = ["small_cnn", "cnn1", "cnn1_a", "resnet26", *PLANES]
REFERENCE_MODELS = [name for name in MODELS if name not in OTHERS and not name.endswith(("_imagenet", "_cifar"))]
FAMILIES = [
    "resnet8", "resnet8x4", "wrn_16_2", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2", "small_cnn",
    "plane2", "plane8"
]  # fmt: skip
WITH_LOGITS = [
    "resnet8", "resnet20", "resnet44", "resnet110", "resnet32x4", "wrn_16_1", "wrn_40_1", "vgg8", "vgg13", "vgg19",
    "ShuffleV1",
]  # fmt: skip
ACTIVATED_STAGES = ["resnet8", "vgg8", "vgg13", "ResNet50", "ShuffleV1", "ShuffleV2", "small_cnn"]


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


def features(model):
    """The names of the reference's feature list: after activation, and before."""
    stages = stages_of(model.taps)
    return ["stem", *stages, "embedding"], ["stem", *(f"{stage}.pre" for stage in stages), "embedding"]


def classifier(model):
    return model.get_submodule(model.taps["embedding"].removesuffix(".input"))


def sketch(name, **kw):
    """The model without weights: layouts, shapes and counts of the largest cost nothing."""
    with torch.device("meta"):
        return build(name, **kw)


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
    model = sketch(name, num_classes=100)
    layout = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
    assert layout == facts[name]["state_dict"]
    assert parameters(model) == facts[name]["params"]
    assert sum(p.requires_grad for p in model.parameters()) == facts[name]["trainable_tensors"]


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_feature_maps_and_work_are_the_references(name, facts):
    model = sketch(name, num_classes=100)
    macs = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, _, result: macs.append(result[0].numel() * m.weight[0].numel()))
    _, taps = answer_and_taps(model, torch.empty(2, 3, 32, 32, device="meta"))
    after, before = features(model)
    assert [list(taps[tap].shape) for tap in after] == facts[name]["feat_shapes"]
    assert [list(taps[tap].shape) for tap in before] == facts[name]["preact_shapes"]
    assert [model.taps[a] != model.taps[b] for a, b in zip(after, before, strict=True)] == facts[name]["preact_differs"]
    assert sum(macs) == facts[name]["macs_32x32"]


def test_every_reference_model_exists(facts):
    assert facts.keys() == set(REFERENCE_MODELS)
    assert len(facts) == 22


def test_models_with_golden_logits_are_all_tested(facts):
    assert {name for name in REFERENCE_MODELS if facts[name]["logits_in_npz"]} == set(WITH_LOGITS)


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_numbers_are_the_references(name, numbers):
    model = build(name, num_classes=100).double().eval()
    model.load_state_dict(golden_weights(model.state_dict()))
    with torch.no_grad():
        logits, taps = answer_and_taps(model, torch.from_numpy(numbers["input"]))
    np.testing.assert_allclose(logits.numpy(), numbers[f"{name}.logits"], rtol=1e-9, atol=0)
    for kind, names in zip(("feat", "preact"), features(model), strict=True):
        for i, tap in enumerate(names):
            value = taps[tap]
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
        ("vgg8", 3965028),
        ("vgg13", 9462180),
        ("ResNet50", 23705252),
        ("MobileNetV2", 812836),
        ("ShuffleV1", 949258),
        ("ShuffleV2", 1355528),
    ],
)
def test_known_sizes(name, count):
    assert parameters(sketch(name, num_classes=100)) == count


def test_the_demo_student_has_about_5000_parameters_and_the_teacher_more():
    assert parameters(small_cnn(10)) == 5026
    assert parameters(small_cnn(10, width=32, depth=2)) > 100_000


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (28, 28)), (4, (17, 30)), (3, (64, 64))])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_image(name, channels, size):
    model = sketch(name, num_classes=7, in_channels=channels)
    logits, taps = answer_and_taps(model, torch.empty(2, channels, *size, device="meta"))
    assert logits.shape == (2, 7)
    after, before = features(model)
    assert set(taps) == {*after, *before, "last_map"}
    assert taps["last_map"].shape == taps[after[-2]].shape


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_that_is_not_square(name):
    model = build(name, num_classes=7, in_channels=4)
    logits, taps = answer_and_taps(model, torch.randn(2, 4, 17, 30))
    torch.testing.assert_close(classifier(model)(taps["embedding"]), logits)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "ResNet50"])
def test_the_probe_would_find_the_embedding_that_the_model_names(name):
    model = build(name, num_classes=7)
    wrapped = nn.Sequential(model)  # a network that names no taps itself
    found = probe(wrapped, lambda: wrapped(torch.randn(2, 3, 16, 16))).names
    assert found["embedding"] == f"0.{model.taps['embedding']}"


@pytest.mark.parametrize("depth", [1, 3])
def test_small_cnn_takes_the_smallest_images(depth):
    model = small_cnn(10, depth=depth)
    logits, taps = answer_and_taps(model, torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    assert [tuple(taps[f"stage{i}"].shape[1:]) for i in (1, 2, 3)] == [(8, 8, 8), (16, 4, 4), (24, 2, 2)]
    for i in (1, 2, 3):
        torch.testing.assert_close(taps[f"stage{i}.pre"].relu(), taps[f"stage{i}"])


@pytest.mark.parametrize("name", ACTIVATED_STAGES)
def test_stages_before_and_after_activation(name):
    model = build(name, num_classes=10)
    with torch.no_grad():
        _, taps = answer_and_taps(model, torch.randn(2, 3, 16, 16))
    for stage in stages_of(model.taps):
        assert taps[f"{stage}.pre"].min() < 0
        torch.testing.assert_close(taps[f"{stage}.pre"].relu(), taps[stage])
    if name != "ShuffleV2":  # a convolution more
        torch.testing.assert_close(taps["last_map"].mean((2, 3)), taps["embedding"])


def test_mobilenet_stages_have_no_activation():
    model = mobilenetv2(10)
    _, taps = answer_and_taps(model, torch.randn(2, 3, 32, 32))
    for stage in stages_of(model.taps):
        assert taps[stage].min() < 0
        assert taps[f"{stage}.pre"] is taps[stage]


def test_shufflenetv2_passes_half_of_the_channels_on():
    unit = shufflev2(10).layer1[1].eval()
    x = torch.rand(2, 116, 4, 4)
    y = unit(x)
    torch.testing.assert_close(y[:, 0::2], x[:, :58])
    computed = unit.bn3(unit.conv3(unit.bn2(unit.conv2(unit.relu1(unit.bn1(unit.conv1(x[:, 58:])))))))
    torch.testing.assert_close(y[:, 1::2], computed.relu())


def test_vgg_halves_large_images_once_more():
    model = vgg8(10)
    for size, last in [(32, 4), (64, 4), (96, 6)]:
        _, taps = answer_and_taps(model, torch.randn(2, 3, size, size))
        assert taps["stage4"].shape[-1] == last


def test_wide_resnet_embedding_is_the_pooled_activation():
    _, taps = answer_and_taps(wrn_16_1(10), torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(taps["stage3.pre"].relu().mean((2, 3)), taps["embedding"])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_changed_in_place(name):
    model = sketch(name, num_classes=2)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "path", "fan_out"),
    [
        ("wrn_16_2", "block3.layer.1.conv2", 9 * 128),
        ("vgg8", "block4.0", 9 * 512),
        ("MobileNetV2", "conv2.0", 1280),
        ("ResNet50", "layer4.2.conv2", 9 * 512),
    ],
)
def test_initialisation(name, path, fan_out):
    model = build(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert model.get_submodule(path).weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    if name in ("vgg8", "MobileNetV2"):
        assert classifier(model).weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert all((m.bias == 0).all() for m in model.modules() if getattr(m, "bias", None) is not None)


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2"])
def test_shufflenets_keep_the_default_initialisation(name):
    weight = build(name, num_classes=10).layer3[1].conv1.weight
    bound = weight[0].numel() ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_the_catalogue_lists_every_model_with_its_size(facts):
    rows = {row["model"]: row for row in catalogue.models()}
    assert rows.keys() == MODELS.keys()
    for name in REFERENCE_MODELS:
        assert rows[name]["parameters"] == facts[name]["params"]
        assert rows[name]["embedding"] == facts[name]["feat_shapes"][-1][1]


@pytest.mark.parametrize(
    ("name", "widths", "side", "linear"),
    [("plane2", [32, 32], 8, []), ("plane6", [32, 32, 64, 64, 128, 128], 8, []),
     ("plane8", [32, 32, 64, 64, 128, 128, 256, 256], 2, [64])],
)  # fmt: skip
def test_plane_networks_are_takds(name, widths, side, linear):
    count = 0
    for before, width in zip([3, *widths], widths, strict=False):
        count += 9 * before * width + width + 2 * width  # convolution with bias, batch norm
    for before, width in zip([widths[-1] * side**2, *linear], [*linear, 100], strict=True):
        count += before * width + width
    model = sketch(name, num_classes=100)
    assert parameters(model) == count
    grid = torch.randn(1, widths[-1], side, side)
    assert torch.equal(model.grid(grid), grid)  # nothing is averaged at 32x32


@pytest.mark.parametrize(
    ("name", "count", "widths"), [("cnn1", 15050, (1800, 576, 128, 64)), ("cnn1_a", 57994, (3600, 1152, 256, 128))]
)
def test_the_networks_of_hkd(name, count, widths):
    """Flattened, the authors' layers have the sizes of their paper's networks; they are pooled activations."""
    model = build(name, num_classes=10)
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32)
        _, taps = answer_and_taps(model, x)
        released = nn.functional.max_pool2d(model.stage1.bn(model.stage1.conv(x)).relu(), 2)
    assert parameters(model) == count
    assert [taps[f"layer{n}"].flatten(1).shape[1] for n in range(4)] == list(widths)
    torch.testing.assert_close(taps["stage1"], released)
    torch.testing.assert_close(taps["embedding"], model.fc1(taps["stage3"].flatten(1)).relu())
    with pytest.raises(ValueError, match=r"32x32 pixels, got 28x28"):
        model(torch.randn(2, 3, 28, 28))


@pytest.mark.parametrize(("name", "activated"), [("resnet18_cifar", True), ("preact_resnet18_cifar", False)])
def test_resnet18_for_small_images(name, activated):
    model = sketch(name, num_classes=10)
    _, taps = answer_and_taps(model, torch.empty(2, 3, 32, 32, device="meta"))
    assert [tuple(taps[f"stage{n}"].shape[1:]) for n in (1, 2, 3, 4)] == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)
    ]  # fmt: skip
    assert all((taps[f"stage{n}.pre"] is not taps[f"stage{n}"]) == activated for n in (1, 2, 3, 4))
    assert 11.1e6 < parameters(model) < 11.2e6


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


@pytest.mark.parametrize("name", FAMILIES)
def test_the_probe_finds_the_stages_that_the_network_names(name):
    model = build(name, num_classes=10)
    found = probe(model, lambda: model(torch.randn(2, 3, 32, 32)))
    assert found.stages == stages_of(model.taps)
