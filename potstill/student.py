"""The trained student as an artefact: weights, and all that is needed to load and serve them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from potstill import checkpoint
from potstill.data.preprocess import Preprocess
from potstill.models import build

WEIGHTS, CARD = "student.safetensors", "student.json"


def save_student(folder: Path, module: nn.Module, card: Mapping[str, Any]) -> None:
    """Write `student.safetensors` and `student.json`; the card is written last, so it never lacks its weights."""
    checkpoint.save_weights(folder / WEIGHTS, module.state_dict())
    checkpoint.write_json(folder / CARD, card)


def load(run: str | Path, model: nn.Module | None = None) -> Predictor:
    """The student of a run folder, ready to predict on raw images.

    For a comparison this is the headline student (the last method, first seed); any cell's folder can be named as
    well, e.g. `runs/demo/kd/seed0`. A network that is not of the zoo cannot be built from its name: give it as `model`.

    Raises ValueError when the folder holds no student, or when `model` does not fit the weights.
    """
    folder = Path(run)
    if not (folder / CARD).exists():
        raise ValueError(f"{folder} holds no student: expected {CARD} and {WEIGHTS} in it")
    card = json.loads((folder / CARD).read_text())
    if model is None:
        if "name" not in card["model"]:
            raise ValueError(
                f"the student in {folder} is a {card['model']['class']}, which is not of the zoo; build it yourself "
                "and call potstill.load(run, model=…)"
            )
        model = build(**card["model"])
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {type(model).__name__}: {error}") from None
    preprocess = Preprocess.from_dict(card["preprocess"]) if card.get("preprocess") else None
    return Predictor(model.eval(), preprocess, tuple(card.get("classes") or ()), card.get("channels"))


class Predictor(nn.Module):
    """A network with its preprocessing and its class names.

    >>> predictor = potstill.load("runs/demo")            # doctest: +SKIP
    >>> predictor.predict([Image.open("seven.png")])      # doctest: +SKIP
    ['7']
    """

    def __init__(
        self, model: nn.Module, preprocess: Preprocess | None, classes: Sequence[str], channels: int | None = None
    ):
        super().__init__()
        self.model, self.preprocess, self.classes, self.channels = model, preprocess, tuple(classes), channels

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, K]` of raw images: uint8 `[B, C, H, W]`, or floating point in [0, 1]."""
        ready = images if self.preprocess is None else self.preprocess(images)
        output = self.model(ready)
        return output if self.preprocess is None else self.preprocess.labels(output)

    @torch.no_grad()
    def predict(self, images: Any) -> list[str]:
        """Class names, one per image.

        `images` is a tensor as for `forward`, one image or a list of them: PIL images, paths, or arrays `[H, W]` or
        `[H, W, C]` of uint8.
        """
        device = next(self.model.parameters()).device
        if not isinstance(images, Tensor):
            images = images if isinstance(images, list | tuple) else [images]
            rows = [self.forward(self._tensor(image)[None].to(device)).argmax(1) for image in images]
            answers = torch.cat(rows)
        else:
            answers = self.forward(images.to(device)).argmax(1)
        return [self.classes[k] if self.classes else str(k) for k in answers.tolist()]

    def _tensor(self, image: Any) -> Tensor:
        if isinstance(image, str | Path):
            image = Image.open(image)
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("L" if self.channels == 1 else "RGB"))
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
