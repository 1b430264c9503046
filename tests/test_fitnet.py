"""FitNet's regressor: which convolution leads from one map to another."""

import pytest
import torch
from torch import nn

from potstill.objectives import FitNet
from potstill.types import DataInfo


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((8, 7), (4, 4), nn.Conv2d, (3, 3)),  # the reference looks at heights only: an odd width is rounded up
        ((8, 6), (4, 3), nn.Conv2d, (3, 3)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4)),
        ((4, 3), (8, 6), nn.ConvTranspose2d, (4, 4)),
        ((8, 8), (6, 5), nn.Conv2d, (3, 4)),
        ((8, 8), (4, 8), nn.Conv2d, (5, 1)),
    ],
)
def test_regressor(student, teacher, kind, kernel):
    maps = torch.randn(3, 2, *student), torch.randn(3, 5, *teacher)
    fitnet = FitNet.sized(*maps, DataInfo(10, 3), {})
    assert type(fitnet.regressor.conv) is kind
    assert fitnet.regressor.conv.kernel_size == kernel
    assert fitnet.regressor(maps[0]).shape == maps[1].shape
    assert fitnet(*maps).shape == (3,)


def test_refuses():
    with pytest.raises(ValueError, match=r"from a student map of \(4, 4\) to a teacher map of \(6, 6\).*other taps"):
        FitNet((2, 3, 4, 4), (2, 3, 6, 6))
    with pytest.raises(ValueError, match=r"teacher tap has shape \[2, 3\], expected a feature map \[B, C, H, W\]"):
        FitNet((2, 3, 4, 4), (2, 3))
