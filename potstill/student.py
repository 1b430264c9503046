"""The trained student as an artefact: weights, and all that is needed to load and serve them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from potstill import checkpoint
from potstill.branches import Ensemble
from potstill.data.decode import as_array, pixels, upright
from potstill.data.preprocess import Preprocess
from potstill.data.views import middle
from potstill.errors import did_you_mean
from potstill.models import build, load_weights
from potstill.objectives.simkd import Reused
from potstill.taps import Taps, probe

WEIGHTS, CARD = "student.safetensors", "student.json"


def save_student(folder: Path, module: nn.Module, card: Mapping[str, Any]) -> None:
    """Write `student.safetensors` and `student.json`; the card is written last, so it never lacks its weights."""
    checkpoint.save_weights(folder / WEIGHTS, module.state_dict())
    checkpoint.write_json(folder / CARD, card)


def adaptation(module: nn.Module) -> dict[str, Any]:
    """What the card says of a student that a method has built around the network that `model` names."""
    if isinstance(module, Ensemble):
        return {"branched": module.described}
    return {"reused": module.described} if isinstance(module, Reused) else {}


def load(run: str | Path, model: nn.Module | None = None) -> Predictor:
    """The student of a run folder, ready to predict on raw images.

    For a comparison this is the headline student (the last method, first seed); any cell's folder can be named as
    well, e.g. `runs/demo/kd/seed0`. A network that is not of the zoo cannot be built from its name: give it as `model`.

    Raises ValueError when the folder holds no student, or when `model` does not fit the weights.
    """
    folder = Path(run)
    card = _card(folder)
    if model is None:
        if "name" not in card["model"]:
            raise ValueError(
                f"the student in {folder} is a {card['model']['class']}, which is not of the zoo; build it yourself "
                "and call potstill.load(run, model=…)"
            )
        model = build(**card["model"])
    if "reused" in card and not isinstance(model, Reused):
        model = Reused(model, **card["reused"])
    if "branched" in card and not isinstance(model, Ensemble):
        model = Ensemble.like(model, **card["branched"])
    load_weights(model, folder / WEIGHTS)
    preprocess = Preprocess.from_dict(card["preprocess"]) if card.get("preprocess") else None
    shown = {name: card.get(name) for name in ("channels", "size", "part")}
    return Predictor(model.eval(), preprocess, tuple(card.get("classes") or ()), **shown)


def _card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        from potstill.language.folder import how_to_load  # only for what is no network on images

        if (advice := how_to_load(folder)) is not None:
            raise ValueError(advice)
        inside = sorted(str(card.parent.relative_to(folder)) for card in folder.glob(f"*/*/{CARD}"))
        if inside:
            hint = f"it is not finished; finished students in it: {', '.join(inside[:5])}"
        elif folder.is_dir():
            hint = f"expected {CARD} and {WEIGHTS} in it"
        else:
            beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            hint = "there is no such folder" + (f"; {did_you_mean(folder.name, beside)}" if beside else "")
        raise ValueError(f"{folder} holds no student: {hint}")
    try:
        card = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise ValueError(f"{path} does not describe a student: no 'model' in it")
    return card


class Predictor(nn.Module):
    """A network with its preprocessing and its class names.

    >>> predictor = potstill.load("runs/demo")            # doctest: +SKIP
    >>> predictor.predict([Image.open("seven.png")])      # doctest: +SKIP
    ['7']
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess | None,
        classes: Sequence[str],
        channels: int | None = None,
        size: Sequence[int] | None = None,
        part: float | None = None,
    ):
        super().__init__()
        self.model, self.preprocess, self.classes = model, preprocess, tuple(classes)
        self.channels, self.size = channels, None if size is None else (size[0], size[1])
        self.part = part
        self._taps: dict[str, str] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, K]` of images as they were in training: uint8 `[B, C, H, W]`, or floating point in [0, 1]."""
        output = self._answer(images)
        return output if self.preprocess is None else self.preprocess.labels(output)

    def _answer(self, images: Tensor) -> Tensor:
        """Of the network itself, without a label map."""
        if images.ndim != 4 or self.channels not in (None, images.shape[1]):
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [B, {self.channels or 'C'}, height, width]"
            )
        return self.model(images if self.preprocess is None else self.preprocess(images))

    @torch.no_grad()
    def predict(self, images: Any) -> list[str]:
        """Class names, one per image; the numbers of classes where these have no names.

        `images` is one image or a list of them: PIL images, paths, or arrays `[H, W]` or `[H, W, C]` of uint8; they
        are made grey or colour, resized and cropped as for evaluation. Or a tensor `[B, C, H, W]`, uint8 or floating
        point in [0, 1], which must have the channels and the size of the training images already.
        """
        rows = [self.forward(batch).argmax(1) for batch in self._batches(images)]
        answers = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
        return [self.classes[k] if self.classes else str(k) for k in answers.tolist()]

    @torch.no_grad()
    def embed(self, images: Any) -> Tensor:
        """Embeddings `[B, D]` of images in any form that `predict` takes: what the network's classifier reads.

        Raises ValueError for a network without one (no `nn.Linear` produces its answer), and for no images.
        """
        batches = self._batches(images)
        if not batches:
            raise ValueError("there is no image to embed")
        found = self._taps or probe(self.model, lambda: self._answer(batches[0][:1])).names
        if "embedding" not in found:
            raise ValueError(f"{type(self.model).__name__} has no embedding: no nn.Linear produces its answer")
        self._taps = {"embedding": found["embedding"]}
        taps = Taps(self.model, self._taps, needs_gradient=False)
        return torch.cat([taps(partial(self._answer, batch)).taps["embedding"].flatten(1) for batch in batches])

    def _batches(self, images: Any) -> list[Tensor]:
        """On the network's device. Pictures go one by one: they may differ in size."""
        parameter = next(self.model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        if isinstance(images, Tensor):
            if self.size is not None and tuple(images.shape[-2:]) != self.size:
                raise ValueError(
                    f"the tensor holds images of {list(images.shape[-2:])} pixels, the student learned from "
                    f"{list(self.size)}; give PIL images, paths or arrays, which are resized"
                )
            return [images.to(device)]
        images = images if isinstance(images, list | tuple) else [images]
        return [self._tensor(image)[None].to(device) for image in images]

    def _tensor(self, image: Any) -> Tensor:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
                raise ValueError(
                    f"an array of shape {list(image.shape)} and {image.dtype} is no image; expected uint8 [H, W], "
                    "[H, W, 3] or [H, W, 4]"
                )
            image = Image.fromarray(image)
        elif isinstance(image, str | Path):
            image = _opened(Path(image))
        if not isinstance(image, Image.Image):
            raise ValueError(f"cannot predict on a {type(image).__name__}; give PIL images, paths, arrays or a tensor")
        channels = self.channels or 3
        if self.part is not None and self.size is not None:
            return torch.from_numpy(as_array(middle(upright(image, channels), self.size[0], self.part)))
        return torch.from_numpy(pixels(image, channels, self.size))


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"{path} cannot be read: {'no such file' if missing else error}") from None
    return image
