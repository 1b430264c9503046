"""Plain deep networks for CIFAR: VGG with batch norm, in the depths that the distillation literature compares.

Paper: K. Simonyan, A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
arXiv 1409.1556: 3x3 convolutions in five blocks, maximum pooling between them. vgg11, 13, 16 and 19 are its
configurations A, B, D and E; vgg8 (one convolution a block) is the protocol's.
Protocol: Y. Tian, D. Krishnan, P. Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699
(RepDistiller). Layouts, key names and feature maps are its own, so that published checkpoints load: every
convolution has a bias and a batch norm, one linear layer on the pooled map replaces the paper's three, and images
under 64x64 are halved three times instead of four, so that the last two blocks work at the same size.
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import init_convolutions

FOURTH_POOLING = 64
"""The shorter side of an image from which it is halved a fourth time; the reference knows 32 and 64 only."""


class VGG(nn.Module):
    """Five blocks of `convolutions` layers each; every image of 8x8 and more will do."""

    def __init__(self, convolutions: tuple[int, int, int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        self.block0 = _block(convolutions[0], in_channels, 64)
        self.relu0 = nn.ReLU()
        self.pool0 = nn.MaxPool2d(2)
        self.block1 = _block(convolutions[1], 64, 128)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = _block(convolutions[2], 128, 256)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = _block(convolutions[3], 256, 512)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.block4 = _block(convolutions[4], 512, 512)
        self.relu4 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, num_classes)
        init_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)  # RepDistiller's
        nn.init.zeros_(self.classifier.bias)

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        return {
            "stem": "relu0",
            "stage1": "relu1",
            "stage2": "relu2",
            "stage3": "relu3",
            "stage4": "relu4",
            "stage1.pre": "block1",
            "stage2.pre": "block2",
            "stage3.pre": "block3",
            "stage4.pre": "block4",
            "last_map": "relu4",
            "embedding": "classifier.input",
        }

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        large = min(x.shape[-2:]) >= FOURTH_POOLING
        x = self.relu0(self.block0(x))
        x = self.relu1(self.block1(self.pool0(x)))
        x = self.relu2(self.block2(self.pool1(x)))
        x = self.relu3(self.block3(self.pool2(x)))
        x = self.relu4(self.block4(self.pool3(x) if large else x))
        return self.classifier(self.avgpool(x).flatten(1))


def _block(convolutions: int, in_width: int, width: int) -> nn.Sequential:
    """Convolution and batch norm, `convolutions` times, activations between them only: the last is the network's."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [nn.ReLU()] if number else []
        layers += [nn.Conv2d(width if number else in_width, width, 3, padding=1), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


def vgg8(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-8: one convolution per block."""
    return VGG((1, 1, 1, 1, 1), num_classes, in_channels)


def vgg11(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-11: configuration A."""
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels)


def vgg13(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-13: configuration B, two convolutions per block."""
    return VGG((2, 2, 2, 2, 2), num_classes, in_channels)


def vgg16(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-16: configuration D."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-19: configuration E."""
    return VGG((2, 2, 4, 4, 4), num_classes, in_channels)
