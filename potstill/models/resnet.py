"""Residual networks for CIFAR, in the widths that the distillation literature compares.

Paper: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv
1512.03385, section 4.2: a 3x3 stem, three stages of basic blocks at full, half and quarter size, 6n + 2
layers.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: shortcuts
are 1x1 convolutions where the width or the size changes (the first paper pads with zeros), and `x4`
quadruples the widths of the stages and doubles that of the stem.
"""

from jaxtyping import Float
from torch import Tensor, nn


def init_convolutions(model: nn.Module) -> None:
    """He's normal initialisation (fan out) for every convolution; batch norms start at 1 and 0 by default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `relu2.input` is the block's map before its last activation."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = (
            nn.Identity()
            if stride == 1 and in_width == width
            else nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )
        self.relu2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.downsample(x))


class ResNet(nn.Module):
    """A CIFAR residual network of `depth` = 6n + 2 layers; `widths` are those of the stem and the stages."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        blocks, left_over = divmod(depth - 2, 6)
        if left_over or blocks < 1:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20 …), not {depth}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, widths[0], widths[1], stride=1)
        self.layer2 = _stage(blocks, widths[1], widths[2], stride=2)
        self.layer3 = _stage(blocks, widths[2], widths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        last = len(self.layer1) - 1
        return {
            "stem": "relu",
            "stage1": "layer1",
            "stage2": "layer2",
            "stage3": "layer3",
            "stage1.pre": f"layer1.{last}.relu2.input",
            "stage2.pre": f"layer2.{last}.relu2.input",
            "stage3.pre": f"layer3.{last}.relu2.input",
            "last_map": "layer3",
            "embedding": "fc.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_width, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


PLAIN = (16, 16, 32, 64)
TIMES_FOUR = (32, 64, 128, 256)


def resnet8(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-8: one block per stage."""
    return ResNet(8, PLAIN, num_classes, in_channels)


def resnet14(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-14: two blocks per stage."""
    return ResNet(14, PLAIN, num_classes, in_channels)


def resnet20(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-20: three blocks per stage."""
    return ResNet(20, PLAIN, num_classes, in_channels)


def resnet26(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-26: four blocks per stage."""
    return ResNet(26, PLAIN, num_classes, in_channels)


def resnet32(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-32: five blocks per stage."""
    return ResNet(32, PLAIN, num_classes, in_channels)


def resnet44(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-44: seven blocks per stage."""
    return ResNet(44, PLAIN, num_classes, in_channels)


def resnet56(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-56: nine blocks per stage."""
    return ResNet(56, PLAIN, num_classes, in_channels)


def resnet110(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-110: eighteen blocks per stage."""
    return ResNet(110, PLAIN, num_classes, in_channels)


def resnet8x4(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-8 with four times the width."""
    return ResNet(8, TIMES_FOUR, num_classes, in_channels)


def resnet32x4(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-32 with four times the width."""
    return ResNet(32, TIMES_FOUR, num_classes, in_channels)
