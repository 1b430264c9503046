"""FT: factor transfer (Kim et al. 2018), and its paraphraser."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import layer_shapes, to_smaller
from potstill.functional import at_least_float32, attention_map, mean_of_rest
from potstill.stages import Stage
from potstill.terms import Spec, Term
from potstill.types import Objective, Tensors


class FT(Objective):
    r"""The student's factor must look where the teacher's does. With $A(F) = v / \| v \|_2$,
    $v = vec(\frac{1}{C} \sum_c F_c^{p_1})$,

    $$L = \frac{1}{HW} \| A(translator(F_s)) - A(paraphraser(F_t)) \|_{p_2}^{p_2}.$$

    Translator and paraphraser are three 3x3 convolutions with LeakyReLU (0.1), the translator with batch norm. The
    method has two stages: for 30 of the run's 240 epochs in front of them, `ft_paraphraser` trains an autoencoder on
    the teacher, at a learning rate of at most 0.01; its encoder is the paraphraser here, and gets no gradient.

    Shapes: student map `[B, C_s, H, W]`, teacher map `[B, C_t, H, W]`, result `[B]`. Where sizes differ, the larger
    factor is average-pooled to the smaller, not only to squares.

    Defaults: the last feature map, `rate=0.5` (channels of a factor for each of the teacher's), `p1=2`, `p2=1` and
    weight 200: RepDistiller's. Raises ValueError for other taps than one feature map, a rate that leaves no channel, or
    powers that are not positive integers.

    Where we differ: nothing in the loss; the golden pins RepDistiller's value and gradient. As there, an odd `p2` above
    1 keeps the sign of the difference, so that the loss may be negative. The first stage's share of a run of another
    length is ours, and so is its rate of 0.01 for VGG students (0.05 there). A ready objective in a term has no first
    stage: bring its paraphraser trained.
    """

    zero_at_match = False
    batch_statistics = True
    default_weight = 200.0
    default_taps = ("last_map", "last_map")
    matches = "features"
    weight_from = "RepDistiller's command"
    paper = (
        "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018. "
        "arXiv:1802.04977"
    )

    def __init__(self, student_channels: int, teacher_channels: int, rate: float = 0.5, p1: int = 2, p2: int = 1):
        super().__init__()
        for name, power in (("p1", p1), ("p2", p2)):
            if power < 1 or power != int(power):
                raise ValueError(f"ft: {name} must be a positive integer, got {power}")
        self.p1, self.p2 = int(p1), int(p2)
        factor = factor_channels("ft", teacher_channels, rate)
        self.translator = encoder(student_channels, factor, batch_norm=True)
        self.paraphraser = encoder(teacher_channels, factor, batch_norm=False).requires_grad_(False)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = one_layer("ft", student, teacher)
        return cls(ours[1], theirs[1], **kw)

    @classmethod
    def expand(cls, term):
        if isinstance(term.objective, Objective):
            return (), (term,)
        asked = dict(term.objective.kwargs) if isinstance(term.objective, Spec) else {}
        rate = {key: value for key, value in asked.items() if key == "rate"}
        name = f"{term.label}_paraphraser"
        autoencoder = Term(Spec.of(FTParaphraser, **rate), None, term.teacher, name=name)
        first = Stage(name, (autoencoder,), share=1 / 8, lr=0.01)
        return (first,), (replace(term, init=(("paraphraser", f"{name}.encoder"),)),)

    def forward(
        self, student: Float[Tensor, "B C_s H_s W_s"], teacher: Float[Tensor, "B C_t H_t W_t"]
    ) -> Float[Tensor, "B"]:
        dtype = next(self.parameters()).dtype  # autocast casts it back
        factors = self.translator(student.to(dtype)), self.paraphraser(teacher.to(dtype))
        ours, theirs = (attention_map(factor, self.p1) for factor in to_smaller(*factors))
        difference = ours - theirs
        return mean_of_rest(difference.abs() if self.p2 == 1 else difference.pow(self.p2))


class FTParaphraser(Objective):
    r"""$\frac{1}{CHW} \| decoder(encoder(F_t)) - F_t \|_2^2$: an autoencoder of the teacher's last map, whose code is
    the factor that FT transfers. This is the loss of the method's first stage; it has no student side.

    Shapes: teacher map `[B, C, H, W]`, result `[B]`.

    Defaults: the last feature map, `rate=0.5` and weight 1, RepDistiller's; 3x3 convolutions and LeakyReLU (0.1), also
    after the last layer. Raises ValueError for other taps than one feature map, or a rate that leaves no channel.

    Where we differ: nothing; the golden pins RepDistiller's value and gradient.
    """

    zero_at_match = False
    default_taps = (None, "last_map")
    part_of = "ft: it trains the paraphraser in ft's first stage"
    paper = FT.paper

    def __init__(self, teacher_channels: int, rate: float = 0.5):
        super().__init__()
        factor = factor_channels("ft_paraphraser", teacher_channels, rate)
        self.encoder = encoder(teacher_channels, factor, batch_norm=False)
        widths = ((factor, factor), (factor, teacher_channels), (teacher_channels, teacher_channels))
        self.decoder = stack(nn.ConvTranspose2d, widths, batch_norm=False)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        shape, _ = one_layer("ft_paraphraser", teacher, teacher)
        return cls(shape[1], **kw)

    def forward(self, student: None, teacher: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
        again = at_least_float32(self.decoder(self.encoder(teacher.to(next(self.parameters()).dtype))))
        return mean_of_rest(F.mse_loss(again, teacher.to(again.dtype), reduction="none"))


def factor_channels(name: str, channels: int, rate: float) -> int:
    if int(channels * rate) < 1:
        raise ValueError(f"{name}: a rate of {rate} leaves none of the teacher's {channels} channels")
    return int(channels * rate)


def encoder(channels: int, factor: int, batch_norm: bool) -> nn.Sequential:
    """From maps of `channels` to factors; numbered as in RepDistiller."""
    return stack(nn.Conv2d, ((channels, channels), (channels, factor), (factor, factor)), batch_norm)


def stack(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: tuple[tuple[int, int], ...], batch_norm: bool
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in widths:
        norm = nn.BatchNorm2d(width_out) if batch_norm else nn.Identity()
        layers += [kind(width_in, width_out, 3, padding=1), norm, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def one_layer(name: str, student: Tensors, teacher: Tensors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shapes = layer_shapes(name, student, teacher)
    if len(shapes) != 1:
        raise ValueError(f"{name}: an address names {len(shapes)} taps, expected one feature map, such as last_map")
    return shapes[0]
