"""Residual networks for ImageNet: 18, 34 and 50 layers behind a 7x7 stem of stride 4, for images of about 224 pixels.

Paper: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv
1512.03385, table 1.
Layouts and key names are torchvision's, so that its published checkpoints load as they are. The stride of a
bottleneck is in its 3x3 convolution, as there (the paper's is in the first 1x1).
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import BasicBlock, init_convolutions
from potstill.models.resnet50 import EXPANSION

WIDTHS = (64, 128, 256, 512)
"""Of the four stages, inside a block (the paper's)."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut; `relu3.input` is the block's map before its last activation."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        inner = width // EXPANSION
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = (
            nn.Identity()
            if stride == 1 and in_width == width
            else nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )
        self.relu3 = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        residual = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(residual)) + self.downsample(x))


class ImageNetResNet(nn.Module):
    """A residual network of four stages of `blocks` blocks each; stage 1 works at a quarter of the image's size."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
    ):
        super().__init__()
        times = EXPANSION if block is Bottleneck else 1
        widths = (WIDTHS[0], *(times * width for width in WIDTHS))
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, blocks[0], widths[0], widths[1], stride=1)
        self.layer2 = _stage(block, blocks[1], widths[1], widths[2], stride=2)
        self.layer3 = _stage(block, blocks[2], widths[2], widths[3], stride=2)
        self.layer4 = _stage(block, blocks[3], widths[3], widths[4], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[4], num_classes)
        self._last = "relu3" if block is Bottleneck else "relu2"
        init_convolutions(self)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        layers = enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1)
        before = {f"stage{n}.pre": f"layer{n}.{len(layer) - 1}.{self._last}.input" for n, layer in layers}
        stages = {f"stage{n}": f"layer{n}" for n in range(1, 5)}
        return {"stem": "maxpool", **stages, **before, "last_map": "layer4", "embedding": "fc.input"}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, in_width: int, width: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(block(in_width, width, stride), *(block(width, width, 1) for _ in range(blocks - 1)))


def resnet18_imagenet(num_classes: int, in_channels: int = 3) -> ImageNetResNet:
    """ResNet-18: 11.7 million parameters with 1,000 classes."""
    return ImageNetResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet34_imagenet(num_classes: int, in_channels: int = 3) -> ImageNetResNet:
    """ResNet-34: 21.8 million parameters with 1,000 classes."""
    return ImageNetResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels)


def resnet50_imagenet(num_classes: int, in_channels: int = 3) -> ImageNetResNet:
    """ResNet-50: 25.6 million parameters with 1,000 classes."""
    return ImageNetResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)
