"""ResNet-18 for CIFAR: ImageNet's four stages behind a 3x3 stem that keeps the size, for images of 32x32 pixels.

Paper: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385.
`preact_resnet18_cifar` is the teacher in the released code of HKD (arXiv 2005.00727), which calls it ResNet-18: its
blocks normalise and activate before they convolve, every shortcut starts behind the activation, and nothing normalises
the last map. PyTorch's own initialisation there.
"""

from jaxtyping import Float
from torch import Tensor, nn

from potstill.models.resnet import BasicBlock, init_convolutions

WIDTHS = (64, 128, 256, 512)
"""Of the four stages."""


class PreActBlock(nn.Module):
    """Batch norm, ReLU, 3x3 convolution, twice; the shortcut starts behind the first ReLU."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_width == width
            else nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = self.relu1(self.bn1(x))
        return self.conv2(self.relu2(self.bn2(self.conv1(x)))) + self.shortcut(x)


class CIFARResNet18(nn.Module):
    """Four stages of two blocks at full, half, quarter and an eighth of the image's size."""

    def __init__(self, block: type[BasicBlock] | type[PreActBlock], num_classes: int, in_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(block(WIDTHS[0], WIDTHS[0], 1), block(WIDTHS[0], WIDTHS[0], 1))
        self.layer2 = nn.Sequential(block(WIDTHS[0], WIDTHS[1], 2), block(WIDTHS[1], WIDTHS[1], 1))
        self.layer3 = nn.Sequential(block(WIDTHS[1], WIDTHS[2], 2), block(WIDTHS[2], WIDTHS[2], 1))
        self.layer4 = nn.Sequential(block(WIDTHS[2], WIDTHS[3], 2), block(WIDTHS[3], WIDTHS[3], 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[3], num_classes)
        # What a block of the first kind adds up is activated afterwards, of the second kind it is not.
        self._before = ".1.relu2.input" if block is BasicBlock else ""

    @property
    def taps(self) -> dict[str, str]:
        """Tap name to module path: that module's output, or its input where the path ends in `.input`."""
        stages = {f"stage{n}": f"layer{n}" for n in range(1, 5)}
        before = {f"{name}.pre": path + self._before for name, path in stages.items()}
        return {"stem": "relu", **stages, **before, "last_map": "layer4", "embedding": "fc.input"}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18_cifar(num_classes: int, in_channels: int = 3) -> CIFARResNet18:
    """ResNet-18 with a stem for small images: 11.2 million parameters."""
    model = CIFARResNet18(BasicBlock, num_classes, in_channels)
    init_convolutions(model)
    return model


def preact_resnet18_cifar(num_classes: int, in_channels: int = 3) -> CIFARResNet18:
    """The same of pre-activation blocks, as HKD's released code has it: 11.2 million parameters."""
    return CIFARResNet18(PreActBlock, num_classes, in_channels)
