"""AutoAugment's learnt policies for CIFAR-10 and ImageNet (Cubuk et al. 2019), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from potstill.data import pixels
from potstill.errors import did_you_mean
from potstill.hashing import hash_int

Operation = tuple[str, float, int | None]
"""Name, probability, and strength in tenths from 0 to 9 (None where there is none to choose)."""
Policy = tuple[tuple[Operation, Operation], ...]

CIFAR10: Policy = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("colour", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
)
IMAGENET: Policy = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("equalize", 0.4, None), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, None)),
    (("posterize", 0.8, 5), ("equalize", 1.0, None)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, None), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("colour", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, None)),
    (("equalize", 0.0, None), ("equalize", 0.8, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("colour", 1.0, 2)),
    (("colour", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, None)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
    (("colour", 0.4, 0), ("equalize", 0.6, None)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
)
POLICIES = {"cifar10": CIFAR10, "imagenet": IMAGENET}

Apply = Callable[[Tensor, float], Tensor]
"""What an operation does to images at a strength, which may be negative where it has a sign."""


@dataclass(frozen=True)
class Kind:
    """An operation: its strengths lie on ten even steps from `least` to `most`."""

    apply: Apply
    least: float = 0.0
    most: float = 0.0
    signed: bool = False

    def strength(self, tenth: int) -> float:
        # In float32, where colours are rounded as torchvision's are.
        return torch.linspace(self.least, self.most, 10).tolist()[tenth]


KINDS = {
    "shear_x": Kind(lambda x, s: pixels.shear(x, across=s), most=0.3, signed=True),
    "shear_y": Kind(lambda x, s: pixels.shear(x, down=s), most=0.3, signed=True),
    "translate_x": Kind(lambda x, s: pixels.translate(x, across=int(s * x.shape[3])), most=150 / 331, signed=True),
    "translate_y": Kind(lambda x, s: pixels.translate(x, down=int(s * x.shape[2])), most=150 / 331, signed=True),
    "rotate": Kind(pixels.rotate, most=30.0, signed=True),
    "brightness": Kind(lambda x, s: pixels.brightness(x, 1 + s), most=0.9, signed=True),
    "colour": Kind(lambda x, s: pixels.colour(x, 1 + s), most=0.9, signed=True),
    "contrast": Kind(lambda x, s: pixels.contrast(x, 1 + s), most=0.9, signed=True),
    "sharpness": Kind(lambda x, s: pixels.sharpness(x, 1 + s), most=0.9, signed=True),
    "posterize": Kind(lambda x, s: pixels.posterize(x, 8 - round(s)), most=4.0),
    "solarize": Kind(pixels.solarize, least=255.0),
    "autocontrast": Kind(lambda x, s: pixels.autocontrast(x)),
    "equalize": Kind(lambda x, s: pixels.equalize(x)),
    "invert": Kind(lambda x, s: pixels.invert(x)),
}
"""The operations, with the strengths of the paper; sides of images are the unit of a translation."""


def autoaugment(
    input: UInt8[Tensor, "B C H W"], *salts: int | str, policy: str = "cifar10"
) -> UInt8[Tensor, "B C H W"]:
    """One of the policy's 25 pairs of operations, the same for every image of the batch.

    Each of the two happens with its own probability; where an operation has a sign, that is drawn too. The choices are
    a function of the salts, made on the host, so every rank makes the same. (AutoAugment as published draws for each
    image; drawing once a batch is what R2KD's code comes to, and what stays batched.)

    Raises:
        ValueError: an unknown policy, or input that is no uint8 images of 1 or 3 channels.
    """
    if policy not in POLICIES:
        raise ValueError(f"autoaugment: unknown policy {policy!r}; {did_you_mean(policy, POLICIES)}")
    images = isinstance(input, Tensor) and input.dtype == torch.uint8
    if not images or input.ndim != 4 or input.shape[1] not in (1, 3):
        found = f"{list(input.shape)} of {input.dtype}" if isinstance(input, Tensor) else type(input).__name__
        raise ValueError(
            f"autoaugment works on pixels: uint8 [B, C, H, W] with 1 or 3 channels, got {found}; normalise in the "
            "network's preprocessing and not before"
        )
    pairs = POLICIES[policy]
    chosen = pairs[hash_int(*salts, "policy") % len(pairs)]
    for number, (name, probability, tenth) in enumerate(chosen):
        if hash_int(*salts, "apply", number) / 2**63 < probability:
            kind, sign = KINDS[name], -1 if hash_int(*salts, "sign", number) % 2 else 1
            strength = kind.strength(tenth or 0)
            input = kind.apply(input, sign * strength if kind.signed else strength)
    return input
