"""A plain small convolutional network for demonstrations and tests.

It has no paper. Protocol: the digits demo, 8x8 grey images in ten classes, where the student is
`small_cnn(10)` (5,026 parameters) and the teacher the same function, wider and deeper. Student and teacher
have three stages each, of equal map sizes, so every tap of one has a partner in the other.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import init_convolutions


class SmallCNN(nn.Module):
    """Stages of `depth` conv-bn-relu layers, `width`, 2 and 3 times `width` wide, at full, 1/2, 1/4 size."""

    def __init__(self, num_classes: int, in_channels: int, width: int, depth: int):
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth are at least 1, got width={width}, depth={depth}")
        self.stage1 = _stage(depth, in_channels, width, stride=1)
        self.stage2 = _stage(depth, width, 2 * width, stride=2)
        self.stage3 = _stage(depth, 2 * width, 3 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3 * width, num_classes)
        init_convolutions(self)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`.

        The stem is the first layer, which with `depth=1` is all of stage 1.
        """
        last = len(self.stage1) - 1
        return {
            "stem": "stage1.0",
            "stage1": "stage1",
            "stage2": "stage2",
            "stage3": "stage3",
            "stage1.pre": f"stage1.{last}.bn",
            "stage2.pre": f"stage2.{last}.bn",
            "stage3.pre": f"stage3.{last}.bn",
            "last_map": "stage3",
            "embedding": "fc.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _layer(in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False),
            bn=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
        )
    )


def _stage(depth: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_layer(in_width, width, stride), *(_layer(width, width, 1) for _ in range(depth - 1)))


def small_cnn(num_classes: int, in_channels: int = 1, width: int = 8, depth: int = 1) -> SmallCNN:
    """Small plain network for images of 8x8 and more; `depth` layers in each of three stages."""
    return SmallCNN(num_classes, in_channels, width, depth)
