"""ResNet-50 for CIFAR: the ImageNet network's bottleneck stages behind a stem for 32x32 images.

Paper: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv
1512.03385, table 1: four stages of 3, 4, 6, 3 bottlenecks.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: a 3x3 stem
without stride or pooling, so the stages work at full, half, quarter and eighth size, and the stride of a
bottleneck is in its 3x3 convolution (the paper's is in the first 1x1).
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import init_convolutions

EXPANSION = 4
"""A bottleneck's output is this many times as wide as its inside (the paper's)."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut; `relu3.input` is the block's map before its last activation."""

    def __init__(self, in_width: int, inner: int, stride: int):
        super().__init__()
        width = EXPANSION * inner
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_width == width
            else nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )
        self.relu3 = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        residual = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(residual)) + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """A residual network of four stages of `blocks` bottlenecks each."""

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks[0], 64, 64, stride=1)
        self.layer2 = _stage(blocks[1], 64 * EXPANSION, 128, stride=2)
        self.layer3 = _stage(blocks[2], 128 * EXPANSION, 256, stride=2)
        self.layer4 = _stage(blocks[3], 256 * EXPANSION, 512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512 * EXPANSION, num_classes)
        init_convolutions(self)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "relu",
            "stage1": "layer1",
            "stage2": "layer2",
            "stage3": "layer3",
            "stage4": "layer4",
            "stage1.pre": f"layer1.{len(self.layer1) - 1}.relu3.input",
            "stage2.pre": f"layer2.{len(self.layer2) - 1}.relu3.input",
            "stage3.pre": f"layer3.{len(self.layer3) - 1}.relu3.input",
            "stage4.pre": f"layer4.{len(self.layer4) - 1}.relu3.input",
            "last_map": "layer4",
            "embedding": "linear.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.avgpool(x).flatten(1))


def _stage(blocks: int, in_width: int, inner: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_width, inner, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * inner, inner, 1) for _ in range(blocks - 1)))


def resnet50(num_classes: int, in_channels: int = 3) -> BottleneckResNet:
    """ResNet-50 for 32x32 images: 3, 4, 6 and 3 bottlenecks."""
    return BottleneckResNet((3, 4, 6, 3), num_classes, in_channels)
