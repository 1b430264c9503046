"""Bring a student tensor to a teacher's width and size. Owned by objectives, dropped on export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.functional import as_tuple, at_least_float32, attention_map


class ConvRegressor(nn.Module):
    """FitNet's regressor: convolution, batch norm, ReLU; the convolution is chosen by the ratio of heights.

    Twice the teacher's height: 3x3, stride 2. Half of it: transposed 4x4, stride 2. Otherwise a valid convolution
    of size `1 + difference`, so the student's map must not be smaller. `relu=False` leaves the ReLU out.

    Shapes: `[B, C_s, H_s, W_s] -> [B, C_t, H_t, W_t]`. Raises ValueError where none of the three fits.
    """

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], relu: bool = True):
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
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, value: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(value)))


class Bottleneck(nn.Sequential):
    """SimKD's and SemCKD's projector: 1x1, 3x3, 1x1 convolutions without bias, batch norm and ReLU between them.

    `activated` ends it with batch norm and ReLU too. Shapes: `[B, C_s, H, W] -> [B, C_t, H, W]`.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int, activated: bool):
        layers: list[nn.Module] = []
        for width_in, width_out, size in ((channels_in, hidden, 1), (hidden, hidden, 3), (hidden, channels_out, 1)):
            layers += [nn.Conv2d(width_in, width_out, size, padding=size // 2, bias=False)]
            layers += [nn.BatchNorm2d(width_out), nn.ReLU()]
        super().__init__(*(layers if activated else layers[:-2]))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(next(self.parameters()).dtype))  # autocast casts it back


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps `[B, C, H, W]` at the smaller height and the smaller width, by adaptive average pooling."""
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    ours, theirs = (
        value if value.shape[-2:] == size else F.adaptive_avg_pool2d(at_least_float32(value), size)
        for value in (student, teacher)
    )
    return ours, theirs


class LayerAttention(nn.Module):
    r"""Which layers attend to which: AFD's attention from the maps of one network to those of another.

    $$\alpha_{iqk} = softmax_k
      \frac{\langle W_q \kappa_{ik}, \theta_{iq} \rangle + \langle P_q, P_k \rangle}{\sqrt d},$$

    queries $\theta_q = BN(Linear(GAP(F_q)))$, keys $\kappa_k = ReLU(BN(Linear(GAP(F_k))))$, $W$ one linear layer with
    batch norm for all keys that gives one for each query, $P$ learnt positions.

    Shapes: Q maps and K maps `[B, C, H, W]` of any sizes -> `[B, Q, K]`, a distribution over the keys for each query.
    """

    def __init__(self, query_channels: Sequence[int], key_channels: Sequence[int], width: int):
        super().__init__()
        self.queries = nn.ModuleList(_embedding(channels, width) for channels in query_channels)
        self.keys = nn.ModuleList(_embedding(channels, width) for channels in key_channels)
        self.bilinear = _embedding(width, width * len(query_channels))
        self.query_positions = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(query_channels), width)))
        self.key_positions = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(key_channels), width)))

    def forward(self, queries: tuple[Tensor, ...], keys: tuple[Tensor, ...]) -> Tensor:
        dtype = self.query_positions.dtype
        query = torch.stack([f(x.to(dtype).mean((2, 3))) for f, x in zip(self.queries, queries, strict=True)], 1)
        key = torch.stack([f(x.to(dtype).mean((2, 3))) for f, x in zip(self.keys, keys, strict=True)], 1).relu()
        each = self.bilinear(key.flatten(0, 1)).view(*key.shape[:2], len(queries), -1)
        logits = torch.einsum("bkqd,bqd->bqk", each, query) + self.query_positions @ self.key_positions.T
        return (logits / key.shape[-1] ** 0.5).softmax(-1)


def attention_distances(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
    """Mean squares between the attention maps of all pairs of layers, our map averaged to the size of theirs first.

    Shapes: S maps and T maps `[B, C, H, W]` -> `[B, S, T]`.
    """
    energy = [at_least_float32(x).square().mean(1, keepdim=True) for x in ours]
    values = {size: _pooled(energy, *size) for size in {tuple(x.shape[-2:]) for x in theirs}}
    found = [(values[tuple(x.shape[-2:])] - attention_map(x)[:, None]).square().mean(2) for x in theirs]
    return torch.stack(found, 2)


def _embedding(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width))


def _pooled(energy: list[Tensor], height: int, width: int) -> Tensor:
    """Maps `[B, 1, H, W]` at one size, as vectors of length 1: `[B, S, H * W]`."""
    return F.normalize(torch.cat([F.adaptive_avg_pool2d(x, (height, width)) for x in energy], 1).flatten(2), dim=2)


def check_maps(name: str, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> None:
    """Raises ValueError, for the objective `name`, where a tap is no feature map `[B, C, H, W]`."""
    for side, values in (("student", student), ("teacher", teacher)):
        for value in values:
            if value.ndim != 4:
                raise ValueError(
                    f"{name}: a {side} tap has shape {list(value.shape)}, expected feature maps [B, C, H, W]"
                    + (
                        "; tokens are read as maps by the usual taps (stages, stage1, last_map), and with .map behind "
                        "a module's path"
                        if value.ndim == 3
                        else ""
                    )
                )


def layer_shapes(
    name: str, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of both maps, layer by layer. Raises ValueError, for the objective `name`, where they are no pairs."""
    students, teachers = as_tuple(student), as_tuple(teacher)
    check_maps(name, students, teachers)
    if len(students) != len(teachers):
        raise ValueError(
            f"{name}: the student gives {len(students)} maps and the teacher {len(teachers)}, expected pairs; name as "
            "many taps on both sides, such as stage1,stage2"
        )
    return [(tuple(ours.shape), tuple(theirs.shape)) for ours, theirs in zip(students, teachers, strict=True)]


class TokenLinear(nn.Linear):
    """A linear map of each token's state, `[B, L, D_s] -> [B, L, D_t]`, in the dtype of its own weights."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))  # autocast casts it back


def mapped_layers(name: str, ours: int, theirs: int, first: int) -> list[int]:
    """TinyBERT's map: for layer m of the student's M the place of the teacher's m N / M, among its taps.

    `first` 0 says that taps begin with the embeddings, layer 0, and 1 that they do not. Raises ValueError, for the
    objective `name`, where M does not divide N.

    >>> mapped_layers("x", 4, 12, first=0), mapped_layers("x", 4, 12, first=1)
    ([0, 3, 6, 9, 12], [2, 5, 8, 11])
    """
    if ours == theirs:
        return list(range(ours + 1 - first))
    if not ours or theirs % ours:
        raise ValueError(
            f"{name}: the student has {ours} layers and the teacher {theirs}, which is no multiple of it; name as many "
            "taps on both sides in a potstill.Term, such as hidden0,hidden2,hidden5"
        )
    return [number * theirs // ours - first for number in range(first, ours + 1)]


def check_pads(name: str, pads: str) -> None:
    """Raises ValueError, for the objective `name`, where it is not known what becomes of padding."""
    if pads not in ("ignored", "counted"):
        raise ValueError(f"{name}: pads is ignored or counted, got {pads!r}")


def check_tokens(
    name: str, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...], *, heads: bool = False
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Both sides, one tensor a tap. Raises ValueError, for the objective `name`, where one is no states of tokens
    `[B, L, D]` (or `heads`: `[B, L, h, d]`), or the texts have different lengths.
    """
    lengths = set()
    for side, values in (("student", as_tuple(student)), ("teacher", as_tuple(teacher))):
        for value in values:
            if value.ndim != 3 and not (heads and value.ndim == 4):
                raise ValueError(
                    f"{name}: a {side} tap has shape {list(value.shape)}, expected states of tokens [B, L, D], such as "
                    "last_hidden"
                )
            lengths.add(value.shape[1])
    if len(lengths) > 1:
        raise ValueError(
            f"{name}: texts of {' and '.join(map(str, sorted(lengths)))} tokens; both networks must read the same ones"
        )
    return as_tuple(student), as_tuple(teacher)


def check_scores(
    name: str, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...]
) -> tuple[int, int]:
    """How many taps each side has. Raises ValueError, for the objective `name`, where one is no queries, keys or values
    by heads `[B, L, h, d]`, or their numbers of heads differ.
    """
    ours, theirs = check_tokens(name, student, teacher, heads=True)
    if any(value.ndim != 4 for value in (*ours, *theirs)):
        raise ValueError(f"{name}: expected queries and keys by heads [B, L, h, d], such as layer1.q, layer1.k")
    found = [sorted({value.shape[2] for value in side}) for side in (ours, theirs)]
    if found[0] != found[1] or len(found[0]) > 1:
        counts = [" and ".join(map(str, side)) for side in found]
        raise ValueError(
            f"{name}: the student has {counts[0]} attention heads and the teacher {counts[1]}; it compares them one by "
            "one, so there must be as many. minilm_relations and hidden_mse do without"
        )
    return len(ours), len(theirs)


def check_embeddings(name: str, *sides: Tensor | tuple[Tensor, ...]) -> None:
    """Raises ValueError, for the objective `name`, where a side is not one embedding `[B, D]`."""
    for value in sides:
        if isinstance(value, tuple):
            raise ValueError(f"{name}: an address names {len(value)} taps, expected one embedding [B, D]")
        if value.ndim != 2:
            raise ValueError(f"{name}: a tap has shape {list(value.shape)}, expected an embedding [B, D]")


def _map_shape(shape: tuple[int, ...], side: str) -> tuple[int, ...]:
    if len(shape) != 4:
        raise ValueError(f"the {side} tap has shape {list(shape)}, expected a feature map [B, C, H, W]")
    return shape
