"""The model zoo: networks of the distillation literature, and how to load weights into them.

Every model is a plain `nn.Module` that returns logits. Its `taps` names the places that distillation looks
at, as module paths: `stem`, `stage1` …, the same before activation as `stage1.pre` …, `last_map` (the last
stage's), `embedding`.
"""

from collections.abc import Callable
from inspect import signature

from torch import nn

from potstill.errors import did_you_mean
from potstill.models.checkpoints import load_weights
from potstill.models.cnn import small_cnn
from potstill.models.mobilenetv2 import mobilenetv2
from potstill.models.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from potstill.models.resnet50 import resnet50
from potstill.models.shufflenetv1 import shufflev1
from potstill.models.shufflenetv2 import shufflev2
from potstill.models.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from potstill.models.wrn import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "MODELS",
    "build",
    "load_weights",
    "mobilenetv2",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "shufflev1",
    "shufflev2",
    "small_cnn",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet14": resnet14,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet8x4": resnet8x4,
    "resnet32x4": resnet32x4,
    "wrn_16_1": wrn_16_1,
    "wrn_16_2": wrn_16_2,
    "wrn_40_1": wrn_40_1,
    "wrn_40_2": wrn_40_2,
    "vgg8": vgg8,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "ResNet50": resnet50,
    "MobileNetV2": mobilenetv2,
    "ShuffleV1": shufflev1,
    "ShuffleV2": shufflev2,
    "small_cnn": small_cnn,
}
"""Every model by the name that recipes and the command line use; the literature's, capitals included."""


def build(name: str, *, num_classes: int, in_channels: int = 3, **kw: int) -> nn.Module:
    """A freshly initialised model by name; `kw` are further arguments of that model's own function.

    >>> build("resnet8", num_classes=100).fc
    Linear(in_features=64, out_features=100, bias=True)
    >>> build("resnet9", num_classes=100)
    Traceback (most recent call last):
    ValueError: unknown model 'resnet9': did you mean 'resnet8' or 'resnet56' or 'ResNet50'?
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: {did_you_mean(name, MODELS)}")
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"{name} needs at least one class and one input channel, got num_classes={num_classes}, "
            f"in_channels={in_channels}"
        )
    known = [key for key in signature(MODELS[name]).parameters if key not in ("num_classes", "in_channels")]
    for key in kw:
        if key not in known:
            hint = did_you_mean(key, known) if known else "it takes num_classes and in_channels only"
            raise ValueError(f"{name} has no argument {key!r}: {hint}")
    return MODELS[name](num_classes=num_classes, in_channels=in_channels, **kw)
