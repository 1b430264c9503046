"""Networks and images that Potstill has never seen."""

import torch
from torch import nn
from torch.nn import functional as F


class PlainCNN(nn.Module):
    """Convolution, batch norm, pooling, classifier. `unused` is never run."""

    def __init__(self, width=12, classes=3, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(width * 9, classes)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), 3).flatten(1))


class TinyViT(nn.Module):
    """Nine patches, one encoder layer with dropout."""

    def __init__(self, width=16, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 9, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2) + self.position).mean(1))


def bars(count, seed=0):
    """Noise with a bright third: which one is the class. `[N, 1, 12, 12]` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.rand(count, 1, 12, 12, generator=generator) * 0.7
    for number, label in enumerate(y.tolist()):
        x[number, :, :, 4 * label : 4 * label + 4] += 0.3
    return x, y


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
