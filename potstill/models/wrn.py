"""Wide residual networks for CIFAR: `wrn_<depth>_<times the width>`.

Paper: S. Zagoruyko, N. Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146: residual blocks that
normalise and activate *before* each convolution, three stages, 6n + 4 layers. No dropout.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load. In
particular a stage's map is the raw residual sum, and its map "before activation" is that sum after the *next*
batch norm, the one that the following stage (after the last stage: the head) applies first. So `embedding` is
the pooled output of `relu`, not of `last_map`.
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import init_convolutions


class PreactivationBlock(nn.Module):
    """Batch norm, activation and 3x3 convolution, twice, plus a shortcut."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.same_width = in_width == width
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        # The name is the reference's: published checkpoints carry it.
        self.convShortcut = (
            nn.Identity() if self.same_width else nn.Conv2d(in_width, width, 1, stride=stride, bias=False)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        activated = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        # A shortcut that changes the width starts from the activated map, a plain one from the raw map.
        return residual + self.convShortcut(x if self.same_width else activated)


class Stage(nn.Module):
    """Blocks of one width. It exists for its name: the reference's keys read `block1.layer.0.…`."""

    def __init__(self, blocks: int, in_width: int, width: int, stride: int):
        super().__init__()
        first = PreactivationBlock(in_width, width, stride)
        self.layer = nn.Sequential(first, *(PreactivationBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide residual network of `depth` = 6n + 4 layers, `times` as wide as 16, 32, 64."""

    def __init__(self, depth: int, times: int, num_classes: int, in_channels: int):
        super().__init__()
        blocks, left_over = divmod(depth - 4, 6)
        if left_over or blocks < 1:
            raise ValueError(f"a wide ResNet has 6n + 4 layers (10, 16, 22 …), not {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(blocks, 16, 16 * times, stride=1)
        self.block2 = Stage(blocks, 16 * times, 32 * times, stride=2)
        self.block3 = Stage(blocks, 32 * times, 64 * times, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * times)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * times, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "conv1",
            "stage1": "block1",
            "stage2": "block2",
            "stage3": "block3",
            "stage1.pre": "block2.layer.0.bn1",
            "stage2.pre": "block3.layer.0.bn1",
            "stage3.pre": "bn1",
            "last_map": "block3",
            "embedding": "fc.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))


def wrn_16_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-1: two blocks per stage, plain width."""
    return WideResNet(16, 1, num_classes, in_channels)


def wrn_16_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-2: two blocks per stage, twice the width."""
    return WideResNet(16, 2, num_classes, in_channels)


def wrn_40_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-1: six blocks per stage, plain width."""
    return WideResNet(40, 1, num_classes, in_channels)


def wrn_40_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-2: six blocks per stage, twice the width."""
    return WideResNet(40, 2, num_classes, in_channels)
