"""Networks of other libraries by name: `timm:resnet18`, `transformers:NAME`, `transformers:./folder`.

Nothing is imported before such a name is built. A network of timm stays as it is; one of transformers is wrapped, so
that it answers with its logits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import did_you_mean

LIBRARIES = ("timm", "transformers")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files that make a folder more than a configuration."""


def library_of(name: str) -> str | None:
    """`timm`, `transformers`, or None for a name without either in front."""
    library, colon, rest = name.partition(":")
    return library if colon and rest and library in LIBRARIES else None


def check(name: str) -> None:
    """Raises ValueError where the library is not installed, or a local folder holds no configuration."""
    library = library_of(name)
    assert library is not None
    if find_spec(library) is None:
        raise ValueError(f"{name}: {library} is not installed; pip install 'potstill[{library}]'")
    rest = name.partition(":")[2]
    folder = Path(rest).expanduser()
    if library == "timm" or not (folder.is_dir() or rest.startswith((".", "/", "~"))):
        return
    if not folder.is_dir():
        beside = [str(entry) for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
        hint = f"; {did_you_mean(str(folder), beside)}" if beside else ""
        raise ValueError(f"{name}: there is no folder {folder}{hint}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name}: {folder} holds no config.json, which save_pretrained() writes")


def brings_weights(name: str, pretrained: bool) -> bool:
    """A network of this name comes with trained weights: the hub's, or those in a local folder."""
    folder = _folder(name)
    return pretrained if folder is None else any(any(folder.glob(pattern)) for pattern in WEIGHTS)


def outputs_of(name: str) -> int | None:
    """How many classes a network of this name answers with; None where its library does not say."""
    check(name)
    library, rest = _imported(name), name.partition(":")[2]
    with _told(name):
        if library_of(name) == "timm":
            return getattr(library.models.get_pretrained_cfg(rest), "num_classes", None)
        config = library.AutoConfig.from_pretrained(str(_folder(name) or rest), trust_remote_code=False)
        return config.num_labels


def _folder(name: str) -> Path | None:
    folder = Path(name.partition(":")[2]).expanduser()
    return folder if library_of(name) == "transformers" and folder.is_dir() else None


def build(
    name: str,
    num_classes: int,
    in_channels: int,
    pretrained: bool = False,
    new_head: bool = False,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network of `timm` or `transformers`; see `potstill.models.build`."""
    if library_of(name) == "timm":
        check(name)
        return _timm(name, num_classes, in_channels, pretrained, new_head)
    if config is None or find_spec("transformers") is None:
        check(name)
    if pretrained and not brings_weights(name, pretrained):
        raise ValueError(f"{name}: the folder holds no weights, only a configuration; leave out pretrained")
    return _transformers(name, num_classes, in_channels, pretrained, new_head, config)


class Logits(nn.Module):
    """An image classifier of transformers that answers with its logits `[B, K]`.

    Grey images are repeated over the channels of a network for colour. `config` is what it is built from.
    """

    def __init__(self, network: nn.Module, config: dict[str, Any]):
        super().__init__()
        self.network, self.config = network, config

    def forward(self, x: Tensor) -> Tensor:
        channels, size = self.config.get("num_channels"), self.config.get("image_size")
        if x.ndim == 4 and x.shape[1] == 1 and channels is not None:
            x = x.expand(-1, channels, -1, -1)
        try:
            return self.network(pixel_values=x).logits
        except ValueError as error:
            sides = [size, size] if isinstance(size, int) else size
            if sides is None or list(x.shape[-2:]) == list(sides):
                raise
            raise ValueError(
                f"{type(self.network).__name__} is built for images of {sides[0]}x{sides[1]} pixels and was given "
                f"{x.shape[-2]}x{x.shape[-1]}; resize its inputs, e.g. --teacher.size {sides[0]}, or "
                f"Preprocess(size={sides[0]})"
            ) from error


def _timm(name: str, num_classes: int, in_channels: int, pretrained: bool, new_head: bool) -> nn.Module:
    timm, short = _imported(name), name.partition(":")[2]
    if not timm.is_model(short.partition(".")[0]):
        raise ValueError(f"{name}: timm has no such model; {did_you_mean(short, timm.list_models())}")
    if pretrained:
        theirs = getattr(timm.models.get_pretrained_cfg(short), "num_classes", num_classes)
        if theirs != num_classes:
            _other_classes(name, theirs, num_classes, new_head)
    with _told(name):
        return timm.create_model(short, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)


def _transformers(
    name: str,
    num_classes: int,
    in_channels: int,
    pretrained: bool,
    new_head: bool,
    saved: Mapping[str, Any] | None,
) -> nn.Module:
    transformers, folder = _imported(name), _folder(name)
    place = name.partition(":")[2] if folder is None else str(folder)
    loads = saved is None and brings_weights(name, pretrained)
    with _told(name), _silent(transformers):
        if saved is not None:
            config = transformers.AutoConfig.for_model(**saved)
        else:
            config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        theirs = config.num_labels
        channels = getattr(config, "num_channels", in_channels)
        if not loads:
            config.num_channels = in_channels
        elif in_channels not in (1, channels):
            raise ValueError(f"its weights are for {channels} channels, and the images have {in_channels}")
        config.num_labels = num_classes
        classifier = transformers.AutoModelForImageClassification
        if not loads:
            config.architectures = _architectures(transformers, config)
            network = classifier.from_config(config, dtype=torch.float32, trust_remote_code=False)
            return Logits(network, config.to_dict())
        network, info = classifier.from_pretrained(
            place,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    fresh = sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])])
    if fresh and theirs != num_classes and info["mismatched_keys"]:
        _other_classes(name, theirs, num_classes, new_head)
    elif fresh:
        what = f"{name}: its weights lack {', '.join(fresh[:3])}{' …' if len(fresh) > 3 else ''}"
        if not new_head:
            raise ValueError(f"{what}, so that it knows no classes yet; fine-tune it first, or use it as the student")
        warnings.warn(f"{what}; these start at random", stacklevel=2)
    return Logits(network, config.to_dict())


def _architectures(transformers: ModuleType, config: Any) -> list[str] | None:
    """The class to build, where a configuration does not say and there are several (DeiT)."""
    known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    found = known.get(config.model_type, ())
    names: list[str] = [found] if isinstance(found, str) else list(found)
    said = [name for name in config.architectures or () if name in names]
    return said or names[:1] or None


def _other_classes(name: str, theirs: int, ours: int, new_head: bool) -> None:
    what = f"{name}: its weights are for {theirs} classes, and {ours} are wanted"
    if not new_head:
        raise ValueError(
            f"{what}. A teacher keeps its head: set its outputs to {theirs} and its label_map to the output that means "
            f"each class of the data (--teacher.outputs {theirs} --teacher.label-map …), or fine-tune it on the data; "
            "a student gets a new head (new_head=True)"
        )
    warnings.warn(f"{what}; it gets a new classifier, which starts at random", stacklevel=2)


def _imported(name: str) -> ModuleType:
    library = name.partition(":")[0]
    try:
        return import_module(library)
    except (ImportError, RuntimeError, AttributeError) as error:  # a torchvision of another build fails like this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name}: {library} is installed but cannot be imported: {reason}") from error


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever another library finds wrong, the user hears in one line which network it is about."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, TypeError, ValueError, KeyError, json.JSONDecodeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{name}: {lines[0] if lines else type(error).__name__}") from error


@contextmanager
def _silent(transformers: ModuleType) -> Iterator[None]:
    """Without its progress bars and its reports about heads, which are said here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
