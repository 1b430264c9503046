"""Plain convolutional networks of 2 to 10 layers, between which teacher assistants were first compared.

Paper: S. I. Mirzadeh, M. Farajtabar, A. Li, N. Levine, A. Matsukawa, H. Ghasemzadeh, Improved Knowledge Distillation
via Teacher Assistant, AAAI 2020, arXiv 1902.03393 (TAKD), which calls them plane networks.
Protocol: the layers are those of its code's table for CIFAR-100 (its table for CIFAR-10 is narrower), as DGKD's
repository publishes it: 3x3 convolutions with bias, batch norm and ReLU, 2x2 maximum pooling, and one or two fully
connected layers on the flattened map. The initial weights are PyTorch's defaults there and here.
Flattening ties the reference to 32x32 images. Ours averages a map of another size to that of a 32x32 image first, so
that any image will do (of 16x16 and more for the two largest); at 32x32 this changes nothing.
"""

from jaxtyping import Float
from torch import Tensor, nn

HALF = "half"
"""A 2x2 maximum pooling between two blocks."""
LAYERS: dict[int, tuple[tuple[int | str, ...], int | None]] = {
    2: ((32, HALF, 32, HALF), None),
    4: ((32, 32, HALF, 64, 64, HALF), None),
    6: ((32, 32, HALF, 64, 64, HALF, 128, 128), None),
    8: ((32, 32, HALF, 64, 64, HALF, 128, 128, HALF, 256, 256, HALF), 64),
    10: ((32, 32, HALF, 64, 64, HALF, 128, 128, HALF, 256, 256, 256, 256, HALF), 512),
}
"""By name: widths of the convolutions with the poolings between them, and the width of a hidden layer, if any."""
SIDE = 32
"""Pixels a side of the images for which the layers were chosen."""


class Plane(nn.Module):
    """Blocks of convolutions at one size each, then the flattened map; a stage is a block before its pooling."""

    def __init__(self, size: int, num_classes: int, in_channels: int):
        super().__init__()
        if size not in LAYERS:
            raise ValueError(f"plane networks have {', '.join(map(str, LAYERS))} layers, not {size}")
        convolutions, hidden = LAYERS[size]
        blocks: list[list[nn.Module]] = [[]]
        self.pools, width = 0, in_channels
        for one in convolutions:
            if isinstance(one, str):
                self.pools += 1
                blocks.append([])
                continue
            blocks[-1] += [nn.Conv2d(width, one, 3, padding=1), nn.BatchNorm2d(one), nn.ReLU()]
            width = one
        self.blocks = nn.ModuleList(nn.Sequential(*block) for block in blocks if block)
        self.pool = nn.MaxPool2d(2)
        side = SIDE // 2**self.pools
        self.grid = nn.AdaptiveAvgPool2d(side)
        flat = width * side**2
        self.hidden = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(flat, hidden), nn.ReLU())
        self.fc = nn.Linear(flat if hidden is None else hidden, num_classes)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        last = len(self.blocks) - 1
        stages = {f"stage{number + 1}": f"blocks.{number}" for number in range(last + 1)}
        before = {
            f"stage{number + 1}.pre": f"blocks.{number}.{len(block) - 2}"
            for number, block in enumerate(self.blocks)
            if isinstance(block, nn.Sequential)
        }
        return {"stem": "blocks.0.2", **stages, **before, "last_map": f"blocks.{last}", "embedding": "fc.input"}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        for number, block in enumerate(self.blocks):
            x = block(x)
            x = self.pool(x) if number < self.pools else x
        return self.fc(self.hidden(self.grid(x).flatten(1)))


def plane2(num_classes: int, in_channels: int = 3) -> Plane:
    """Plain CNN: 2 convolutions."""
    return Plane(2, num_classes, in_channels)


def plane4(num_classes: int, in_channels: int = 3) -> Plane:
    """Plain CNN: 4 convolutions."""
    return Plane(4, num_classes, in_channels)


def plane6(num_classes: int, in_channels: int = 3) -> Plane:
    """Plain CNN: 6 convolutions."""
    return Plane(6, num_classes, in_channels)


def plane8(num_classes: int, in_channels: int = 3) -> Plane:
    """Plain CNN: 8 convolutions and a hidden layer of 64."""
    return Plane(8, num_classes, in_channels)


def plane10(num_classes: int, in_channels: int = 3) -> Plane:
    """Plain CNN: 10 convolutions and a hidden layer of 512."""
    return Plane(10, num_classes, in_channels)
