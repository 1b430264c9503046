"""The model zoo: networks of the distillation literature, and how to load weights into them.

Every model is a plain `nn.Module` that returns logits. Its `taps` names the places that distillation looks
at, as module paths: `stem`, `stage1` …, the same before activation as `stage1.pre` …, `last_map` (the last
stage's), `embedding`. `timm:NAME` and `transformers:NAME_OR_FOLDER` build networks of these libraries.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from potstill.errors import did_you_mean
from potstill.models.checkpoints import load_weights
from potstill.models.cnn import small_cnn
from potstill.models.cnn1 import cnn1, cnn1_a
from potstill.models.foreign import LIBRARIES, Logits, brings_weights, library_of
from potstill.models.foreign import build as _build_foreign
from potstill.models.foreign import check as _check_foreign
from potstill.models.mobilenetv2 import mobilenetv2
from potstill.models.plane import plane2, plane4, plane6, plane8, plane10
from potstill.models.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet26,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from potstill.models.resnet18_cifar import preact_resnet18_cifar, resnet18_cifar
from potstill.models.resnet50 import resnet50
from potstill.models.resnet_imagenet import resnet18_imagenet, resnet34_imagenet, resnet50_imagenet
from potstill.models.shufflenetv1 import shufflev1
from potstill.models.shufflenetv2 import shufflev2
from potstill.models.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from potstill.models.wrn import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "MODELS",
    "brings_weights",
    "build",
    "check_name",
    "cnn1",
    "cnn1_a",
    "described",
    "load_weights",
    "mobilenetv2",
    "plane2",
    "plane4",
    "plane6",
    "plane8",
    "plane10",
    "preact_resnet18_cifar",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet18_cifar",
    "resnet18_imagenet",
    "resnet20",
    "resnet26",
    "resnet32",
    "resnet32x4",
    "resnet34_imagenet",
    "resnet44",
    "resnet50",
    "resnet50_imagenet",
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
    "resnet26": resnet26,
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
    "plane2": plane2,
    "plane4": plane4,
    "plane6": plane6,
    "plane8": plane8,
    "plane10": plane10,
    "ResNet50": resnet50,
    "resnet18_cifar": resnet18_cifar,
    "preact_resnet18_cifar": preact_resnet18_cifar,
    "cnn1": cnn1,
    "cnn1_a": cnn1_a,
    "resnet18_imagenet": resnet18_imagenet,
    "resnet34_imagenet": resnet34_imagenet,
    "resnet50_imagenet": resnet50_imagenet,
    "MobileNetV2": mobilenetv2,
    "ShuffleV1": shufflev1,
    "ShuffleV2": shufflev2,
    "small_cnn": small_cnn,
}
"""Every model by the name that recipes and the command line use; the literature's, capitals included."""


def check_name(name: str) -> None:
    """Raises ValueError, with near matches, for a name that `build` does not know; nothing is imported.

    >>> check_name("resnet9")
    Traceback (most recent call last):
    ValueError: unknown model 'resnet9': did you mean 'resnet8' or 'resnet56' or 'ResNet50'?
    """
    if library_of(name) is not None:
        _check_foreign(name)
    elif name not in MODELS:
        library, colon, rest = name.partition(":")
        if colon:
            rest = rest or "NAME"
            near = did_you_mean(f"{library}:{rest}", [f"{known}:{rest}" for known in LIBRARIES])
            raise ValueError(f"unknown model {name!r}: {near}")
        raise ValueError(f"unknown model {name!r}: {did_you_mean(name, MODELS)}")


def build(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    new_head: bool = False,
    config: Mapping[str, Any] | None = None,
    **kw: int,
) -> nn.Module:
    """A freshly initialised model by name; `kw` are further arguments of that model's own function.

    Of `timm:NAME` and `transformers:NAME_OR_FOLDER`, `pretrained` fetches the hub's weights; those in a local folder
    are always loaded. Weights for another number of classes are refused, or with `new_head` the classifier starts
    at random, with a warning. `config`, which `described` gives, stands for the folder or the hub.

    Raises ValueError for an unknown name or argument, a library that is not installed, and weights that do not fit.

    >>> build("resnet8", num_classes=100).fc
    Linear(in_features=64, out_features=100, bias=True)
    >>> build("resnet9", num_classes=100)
    Traceback (most recent call last):
    ValueError: unknown model 'resnet9': did you mean 'resnet8' or 'resnet56' or 'ResNet50'?
    """
    if library_of(name) is None or config is None:
        check_name(name)
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"{name} needs at least one class and one input channel, got num_classes={num_classes}, "
            f"in_channels={in_channels}"
        )
    foreign = library_of(name) is not None
    known = (
        [] if foreign else [k for k in signature(MODELS[name]).parameters if k not in ("num_classes", "in_channels")]
    )
    for key in kw:
        if key not in known:
            hint = did_you_mean(key, known) if known else "it takes num_classes and in_channels only"
            raise ValueError(f"{name} has no argument {key!r}: {hint}")
    if foreign:
        return _build_foreign(name, num_classes, in_channels, pretrained, new_head, config)
    if pretrained:
        raise ValueError(f"{name} is of the zoo, which has no weights to fetch; give it a checkpoint instead")
    return MODELS[name](num_classes=num_classes, in_channels=in_channels, **kw)


def described(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which `build` makes this network again, without its weights, the hub and its folder."""
    kept = {key: value for key, value in arguments.items() if key not in ("pretrained", "new_head")}
    wrapped = next((part for part in module.modules() if isinstance(part, Logits)), None)
    return kept if wrapped is None else kept | {"config": wrapped.config}
