"""ShuffleNet for CIFAR, three groups.

Paper: X. Zhang, X. Zhou, M. Lin, J. Sun, ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
Devices, CVPR 2018, arXiv 1707.01083, table 1, g = 3.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: a 1x1 stem
without stride or pooling, so the stages work at half, quarter and eighth size, inner widths that count the channels
a block computes (the paper: those it returns), and an activation after the 3x3 convolution (the paper has none).
"""

from jaxtyping import Float
from torch import Tensor, cat, nn

STEM = 24
"""Channels of the stem (table 1)."""


class Unit(nn.Module):
    """Grouped 1x1, channel shuffle, 3x3 per channel, grouped 1x1; `relu3.input` is the map before the last activation.

    Plain units add their input. A unit of stride 2 appends its averaged input instead, which counts towards `width`.
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int):
        super().__init__()
        self.appends = stride == 2
        computed = width - in_width if self.appends else width
        inner = computed // 4  # the paper's bottleneck
        first = 1 if in_width == STEM else groups  # so few channels are not divided (section 3.2)
        self.conv1 = nn.Conv2d(in_width, inner, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(first)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, computed, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(computed)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if self.appends else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        kept = self.shortcut(x)
        return self.relu3(cat([y, kept], 1) if self.appends else y + kept)


class ShuffleNetV1(nn.Module):
    """Three stages of `widths` channels and `units` units, 1x1 convolutions in `groups` groups."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        units: tuple[int, int, int],
        groups: int,
        num_classes: int,
        in_channels: int,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(units[0], STEM, widths[0], groups)
        self.layer2 = _stage(units[1], widths[0], widths[1], groups)
        self.layer3 = _stage(units[2], widths[1], widths[2], groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], num_classes)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "relu",
            "stage1": "layer1",
            "stage2": "layer2",
            "stage3": "layer3",
            "stage1.pre": f"layer1.{len(self.layer1) - 1}.relu3.input",
            "stage2.pre": f"layer2.{len(self.layer2) - 1}.relu3.input",
            "stage3.pre": f"layer3.{len(self.layer3) - 1}.relu3.input",
            "last_map": "layer3",
            "embedding": "linear.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _stage(units: int, in_width: int, width: int, groups: int) -> nn.Sequential:
    first = Unit(in_width, width, 2, groups)
    return nn.Sequential(first, *(Unit(width, width, 1, groups) for _ in range(units - 1)))


def shufflev1(num_classes: int, in_channels: int = 3) -> ShuffleNetV1:
    """ShuffleNet, g = 3, full width: the literature's `ShuffleV1` on CIFAR-100."""
    return ShuffleNetV1((240, 480, 960), (4, 8, 4), 3, num_classes, in_channels)
