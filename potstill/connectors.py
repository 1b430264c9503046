"""Bring a student tensor to a teacher's width and size. Owned by objectives, dropped on export."""

from __future__ import annotations

from torch import Tensor, nn


class ConvRegressor(nn.Module):
    """FitNet's regressor: convolution, batch norm, ReLU; the convolution is chosen by the ratio of heights.

    Twice the teacher's height: 3x3, stride 2. Half of it: transposed 4x4, stride 2. Otherwise a valid convolution
    of size `1 + difference`, so the student's map must not be smaller.

    Shapes: `[B, C_s, H_s, W_s] -> [B, C_t, H_t, W_t]`. Raises ValueError where none of the three fits.
    """

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]):
        super().__init__()
        _, channels_in, height_in, width_in = _map_shape(student_shape, "student")
        _, channels_out, height_out, width_out = _map_shape(teacher_shape, "teacher")
        sizes = (height_in, width_in), (height_out, width_out)
        self.conv: nn.Module
        if height_in == 2 * height_out and (width_in + 1) // 2 == width_out:  # an odd width is rounded up
            self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        elif (2 * height_in, 2 * width_in) == (height_out, width_out):
            self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        elif height_in >= height_out and width_in >= width_out:
            kernel = (1 + height_in - height_out, 1 + width_in - width_out)
            self.conv = nn.Conv2d(channels_in, channels_out, kernel)
        else:
            raise ValueError(
                f"no regressor leads from a student map of {sizes[0]} to a teacher map of {sizes[1]}: expected twice "
                "or half the size, or a student map that is not smaller; choose other taps"
            )
        self.bn = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()

    def forward(self, value: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(value)))


def _map_shape(shape: tuple[int, ...], side: str) -> tuple[int, ...]:
    if len(shape) != 4:
        raise ValueError(f"the {side} tap has shape {list(shape)}, expected a feature map [B, C, H, W]")
    return shape
