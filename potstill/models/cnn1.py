"""CNN-1 and CNN-1-A: small plain networks for 32x32 images, the student and the auxiliary teacher of HKD.

Paper: N. Passalis, M. Tzelepi, A. Tefas, Heterogeneous Knowledge Distillation using Information Flow Modeling, CVPR
2020, arXiv 2005.00727.
Layers as in the authors' code: three 3x3 convolutions without padding, each with batch norm, ReLU and 2x2 max pooling,
then a hidden layer; PyTorch's own initialisation. Pooling stands before ReLU here, which gives the same maps and leaves
`stage1.pre` of the same size as `stage1`.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

LAST = 2
"""Pixels a side of the last map."""


class CNN1(nn.Module):
    """Stages of `widths` channels at 15x15, 6x6 and 2x2 pixels, and `hidden` units in front of the classifier.

    The authors' layers 0 to 3 are the taps `layer0` to `layer3`: the three stages and the embedding.
    """

    def __init__(self, widths: tuple[int, int, int], hidden: int, num_classes: int, in_channels: int):
        super().__init__()
        self.stage1 = _stage(in_channels, widths[0])
        self.stage2 = _stage(widths[0], widths[1])
        self.stage3 = _stage(widths[1], widths[2])
        self.fc1 = nn.Linear(widths[2] * LAST * LAST, hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        stages = {f"stage{n}": f"stage{n}" for n in (1, 2, 3)}
        before = {f"stage{n}.pre": f"stage{n}.pool" for n in (1, 2, 3)}
        layers = {"layer0": "stage1", "layer1": "stage2", "layer2": "stage3", "layer3": "fc2.input"}
        return {"stem": "stage1", **stages, **before, **layers, "last_map": "stage3", "embedding": "fc2.input"}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        size = tuple(x.shape[-2:])
        x = self.stage3(self.stage2(self.stage1(x)))
        if tuple(x.shape[-2:]) != (LAST, LAST):
            raise ValueError(f"CNN-1 is for images of 32x32 pixels, got {size[0]}x{size[1]}; resize them (size=32)")
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


def _stage(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(in_width, width, 3), bn=nn.BatchNorm2d(width), pool=nn.MaxPool2d(2), relu=nn.ReLU())
    )


def cnn1(num_classes: int, in_channels: int = 3) -> CNN1:
    """CNN-1, the student: 8, 16 and 32 channels, 64 hidden units; 15,050 parameters with 10 classes."""
    return CNN1((8, 16, 32), 64, num_classes, in_channels)


def cnn1_a(num_classes: int, in_channels: int = 3) -> CNN1:
    """CNN-1-A, the auxiliary teacher: 16, 32 and 64 channels, 128 hidden units; 57,994 parameters with 10 classes."""
    return CNN1((16, 32, 64), 128, num_classes, in_channels)
