"""MobileNetV2 for CIFAR at half width.

Paper: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, MobileNetV2: Inverted Residuals and Linear
Bottlenecks, CVPR 2018, arXiv 1801.04381, table 2.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: the second
group of blocks has stride 1 (the paper's 2), the first block expands too, by 1, activations are plain ReLU (the
paper's ReLU6), there is no dropout, and the 1280 channels in front of the classifier stay at half width.

A stage ends in a *linear* bottleneck: no activation follows, so there is nothing before one. `stage1.pre` … are the
stages themselves, as in the reference. `last_map` is the last stage's; the pooled map is the wider output of `conv2`.
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import init_convolutions

STEM, HEAD = 32, 1280
"""Channels of the first convolution, times the width, and of the last, which narrow networks keep (table 2)."""
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels (times the width), number of blocks and stride of the first: table 2, strides the protocol's."""


class InvertedResidual(nn.Module):
    """Widen by `expansion`, filter each channel on its own, narrow again without activation; a shortcut if it fits."""

    def __init__(self, in_width: int, width: int, stride: int, expansion: int):
        super().__init__()
        inner = expansion * in_width
        self.residual = stride == 1 and in_width == width
        self.conv = nn.Sequential(
            nn.Conv2d(in_width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Seven groups of inverted residuals, `times` as wide as the paper's."""

    def __init__(self, times: float, num_classes: int, in_channels: int):
        super().__init__()
        width = int(STEM * times)
        head = int(HEAD * max(times, 1.0))
        self.conv1 = _layer(in_channels, width, 3, stride=2)
        self.blocks = nn.ModuleList()
        for expansion, channels, blocks, stride in GROUPS:
            in_width, width = width, int(channels * times)
            first = InvertedResidual(in_width, width, stride, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(first, *rest))
        self.conv2 = _layer(width, head, 1, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(head, num_classes)
        self.classifier = nn.Sequential(linear)
        init_convolutions(self)
        nn.init.normal_(linear.weight, std=0.01)  # RepDistiller's
        nn.init.zeros_(linear.bias)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "conv1",
            "stage1": "blocks.1",
            "stage2": "blocks.2",
            "stage3": "blocks.4",
            "stage4": "blocks.6",
            "stage1.pre": "blocks.1",
            "stage2.pre": "blocks.2",
            "stage3.pre": "blocks.4",
            "stage4.pre": "blocks.6",
            "last_map": "blocks.6",
            "embedding": "classifier.0.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.conv1(x)
        for group in self.blocks:
            x = group(x)
        return self.classifier(self.avgpool(self.conv2(x)).flatten(1))


def _layer(in_width: int, width: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, width, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def mobilenetv2(num_classes: int, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 at half width, expansion 6: the literature's `MobileNetV2` on CIFAR-100."""
    return MobileNetV2(0.5, num_classes, in_channels)
