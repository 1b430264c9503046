"""ShuffleNetV2 for CIFAR at full width.

Paper: N. Ma, X. Zhang, H.-T. Zheng, J. Sun, ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design, ECCV 2018, arXiv 1807.11164, table 5, 1x.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: a 1x1 stem
without stride or pooling, so the stages work at half, quarter and eighth size.

Every unit's last activation runs on the whole map after the shuffle, not on the newly computed half before it. The
untouched half is positive already, so values are the same and so is every weight's gradient; and the map before
activation, the reference's, is the input of a module. `last_map` is the last stage's; the pooled map is the wider
output of `relu2`.
"""

from jaxtyping import Float
from torch import Tensor, cat, nn

STEM, HEAD = 24, 1024
"""Channels of the stem and in front of the classifier (table 5)."""


class DownUnit(nn.Module):
    """Halves the size: two branches see the whole input; their maps are joined, shuffled and activated."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, stride=2, padding=1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return self.relu(self.shuffle(cat([left, right], 1)))


class Unit(nn.Module):
    """Passes the first half of the channels on, computes the second; `relu.input` is the map before activation."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        kept, y = x.chunk(2, 1)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(y)))))
        y = self.bn3(self.conv3(y))
        return self.relu(self.shuffle(cat([kept, y], 1)))


class ShuffleNetV2(nn.Module):
    """Three stages of `widths` channels and `units` units."""

    def __init__(self, widths: tuple[int, int, int], units: tuple[int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(units[0], STEM, widths[0])
        self.layer2 = _stage(units[1], widths[0], widths[1])
        self.layer3 = _stage(units[2], widths[1], widths[2])
        self.conv2 = nn.Conv2d(widths[2], HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(HEAD, num_classes)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "relu1",
            "stage1": "layer1",
            "stage2": "layer2",
            "stage3": "layer3",
            "stage1.pre": f"layer1.{len(self.layer1) - 1}.relu.input",
            "stage2.pre": f"layer2.{len(self.layer2) - 1}.relu.input",
            "stage3.pre": f"layer3.{len(self.layer3) - 1}.relu.input",
            "last_map": "layer3",
            "embedding": "linear.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _stage(units: int, in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_width, width), *(Unit(width) for _ in range(units - 1)))


def shufflev2(num_classes: int, in_channels: int = 3) -> ShuffleNetV2:
    """ShuffleNetV2, 1x: the literature's `ShuffleV2` on CIFAR-100."""
    return ShuffleNetV2((116, 232, 464), (4, 8, 4), num_classes, in_channels)
