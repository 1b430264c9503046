"""One row per objective. A new objective joins `test_contract.py` by adding its row here.

A row is the name that method strings use and the shapes of both sides; the objective is sized from them. What an
objective does not promise is waived by the name of the check, with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from potstill.objectives import OBJECTIVES
from potstill.types import DataInfo, Objective, Tensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """`student` and `teacher` are shapes, tuples of shapes for several taps, or None for a side that does not exist.

    `units` is the shape of the losses, (rows,) when left out. Labels lie in [0, classes).
    """

    name: str
    student: Shape | tuple[Shape, ...] | None
    teacher: Shape | tuple[Shape, ...] | None
    options: Mapping[str, object] = field(default_factory=dict)
    units: Shape | None = None
    classes: int = 10
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    waive: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        shape = self.student or self.teacher
        return shape[0] if isinstance(shape[0], int) else shape[0][0]

    @property
    def unit_shape(self) -> Shape:
        return self.units or (self.rows,)

    def build(self, dtype=torch.float64, seed: int = 0) -> Objective:
        torch.manual_seed(seed)
        labels = self.extras.get("label", torch.arange(50) % self.classes)
        data = DataInfo(samples=50, batch_size=self.rows, classes=self.classes, labels=labels)
        student, teacher = self.sides(dtype)
        return OBJECTIVES[self.name].sized(student, teacher, data, self.modules, **self.options).to(dtype)

    def sides(self, dtype=torch.float64, seed: int = 1) -> tuple[Tensors | None, Tensors | None]:
        generator = torch.Generator().manual_seed(seed)

        def draw(shape):
            if shape is None:
                return None
            if isinstance(shape[0], tuple):
                return tuple(draw(one) for one in shape)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        return draw(self.student), draw(self.teacher)

    def all_extras(self) -> dict[str, Tensor]:
        """Everything that a view can give, by name."""
        generator = torch.Generator().manual_seed(2)
        return {
            "label": torch.randint(self.classes, self.unit_shape, generator=generator),
            "index": torch.randperm(50, generator=generator)[: self.rows],
            "draw": torch.randint(2**62, (self.rows,), generator=generator),
            "mask": torch.ones(self.rows, dtype=torch.bool),
            **self.extras,
        }


NO_PAPER = {"paper": "not a published distillation method"}

OWN_KEY = {"gradcheck": "the batch's own keys in the queue get no gradient, as released; the golden pins gradients"}

BY_BATCH_ORDER = {
    "permuting_the_batch_permutes_the_units": "its perceptrons read a sample's similarities in the order of the batch"
}
OFD_OPTIONS = {"batch_norms": ("bn1", "bn2")}
DETACHED = {"gradcheck": "the weight of a sample carries no gradient, as published; the golden pins the gradient"}
CONSTANT_SHARE = {
    "gradcheck": "the share of the head carries no gradient, as published; test_divergence_core pins the gradient"
}
BATCH_NORMS = {"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(3)}

AS_RELEASED = {
    "gradcheck": "the kernel's width is a constant to the gradient, as released; the golden pins gradients",
    "zero_at_match": "the authors' epsilon in their Kullback-Leibler divergence",
}

NEIGHBOURS = {"permuting_the_batch_permutes_the_units": "only neighbouring rows are compared, as released"}

TEXT = {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()}
"""Padding behind and in front of a text."""
HEADS, WIDER = (4, 3, 2, 1), (4, 3, 2, 2)
"""Queries, keys or values of two heads."""
CUT = torch.tensor([[0, 0, 1, 2], [0, 1, 1, -1], [0, 1, 2, 3], [0, 0, 0, 0], [0, 1, -1, -1]])
"""Groups of tokens of the same bytes; `OTHER_CUT` are those of the same five texts by another tokenizer."""
OTHER_CUT = torch.tensor([[0, 1, 1, 2, 2], [0, 0, 1, 1, -1], [0, 1, 2, 3, -1], [0, 0, -1, -1, -1], [0, 1, 1, 1, 1]])
TOKENS = {"label": CUT.clamp(min=0) + 1, "group": CUT, "teacher_label": CUT.clamp(min=0) + 1, "teacher_group": CUT}
OTHER_TOKENS = {**TOKENS, "teacher_label": OTHER_CUT.clamp(min=0) + 2, "teacher_group": OTHER_CUT}
NAMED = {"hybrid": True, "matched": torch.tensor([[1, 3, 4], [0, 6, 5]])}
ALIKE = NAMED["matched"][:1].expand(2, -1)
CUT_OTHERWISE = {"zero_at_match": "the two sides' tokens are cut otherwise, so their products differ"}
ROLLOUT = {
    "advantage": torch.linspace(-1.0, 1.5, 15).reshape(5, 3),
    "before": torch.linspace(-3.0, -1.5, 15).reshape(5, 3),
    "importance": torch.linspace(0.5, 1.2, 15).reshape(5, 3),
}
"""What MiniLLM knows of the tokens that were written."""

CASES = [
    Case("ce", (7, 10), None, waive=NO_PAPER),
    Case("ce", (5, 3, 10), None, units=(5, 3), waive=NO_PAPER),
    Case("score_mse", (7, 1), None, extras={"label": torch.linspace(0, 5, 7)}, waive=NO_PAPER),
    Case("logit_mse", (7, 10), (7, 10)),
    Case("logit_mse", (5, 3, 1), (5, 3, 1), units=(5, 3)),
    Case("crd", (7, 6), (7, 6), {"width": 4, "negatives": 20, "exclude": "self"}),
    Case("crd", (7, 6), (7, 9), {"width": 4, "negatives": 20, "memory": "fifo", "order": "score_first"}),
    Case("crd", (7, 6), (7, 9), {"width": 4, "negatives": 20, "memory": "fifo"}, waive=OWN_KEY),
    Case("crd", (7, 6), (7, 9), {"width": 4, "negatives": 20}),
    Case("fitnet", (5, 3, 4, 4), (5, 6, 4, 4)),
    Case("fitnet", (5, 3, 8, 6), (5, 4, 4, 3)),
    Case("fitnet", (5, 3, 2, 2), (5, 4, 4, 4)),
    Case("icd", (7, 6), (7, 9), {"width": 4}),
    Case("icd", (7, 6), (7, 6), {"width": 4, "alpha": 0, "scale": "fixed"}),
    Case("kd", (7, 10), (7, 10)),
    Case("kd", (5, 3, 10), (5, 3, 10), {"temperature": 1}, units=(5, 3)),
    Case("forward_kl", (7, 10), (7, 10), {"temperature": 2.0}),
    Case("forward_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("reverse_kl", (7, 10), (7, 10)),
    Case("reverse_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("symmetric_kl", (7, 10), (7, 10), {"beta": 0.9}),
    Case("symmetric_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("tvd", (7, 10), (7, 10)),
    Case("tvd", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("jsd", (7, 10), (7, 10), {"beta": 0.1, "temperature": 2.0}),
    Case("jsd", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("skew_kl", (7, 10), (7, 10), {"alpha": 0.3}),
    Case("skew_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("skew_reverse_kl", (7, 10), (7, 10)),
    Case("skew_reverse_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("mixture_kl", (7, 10), (7, 10), {"temperature": 2.0}),
    Case("mixture_kl", (5, 3, 10), (5, 3, 10), units=(5, 3)),
    Case("akl", (7, 10), (7, 10), {"mu": 0.3, "temperature": 2.0}, waive=CONSTANT_SHARE),
    Case("akl", (5, 3, 10), (5, 3, 10), units=(5, 3), waive=CONSTANT_SHARE),
    Case("jsd", (4, 10), (4, 10), {"beta": 0.0}),
    Case("jsd", (5, 10), (5, 10), {"beta": 1.0}),
    Case("uld", (5, 3, 5), (5, 3, 6), units=(5, 3), extras={"teacher_mask": CUT[:, :3] >= 0}),
    Case("gold", (5, 4, 5), (5, 4, 6), units=(5, 4), extras=TOKENS),
    Case("gold", (5, 4, 5), (5, 4, 5), {"hybrid": True, "matched": ALIKE, "beta": 0.0}, units=(5, 4), extras=TOKENS),
    Case("gold", (5, 4, 5), (5, 5, 7), NAMED, units=(5, 4), extras=OTHER_TOKENS, waive=CUT_OTHERWISE),
    Case("gold", (5, 4, 5), (5, 5, 6), {"merge": "observed"}, units=(5, 4), extras=OTHER_TOKENS, waive=CUT_OTHERWISE),
    Case("policy_gradient", (5, 3, 10), None, units=(5, 3), extras=ROLLOUT),
    Case("rrd", (7, 6), (7, 9), {"width": 4, "size": 20}),
    Case("rrd", (7, 6), (7, 9), {"width": 4, "size": 20, "version": "2025"}),
    Case("rrd", (7, 6), (7, 9), {"width": 4, "size": 20, "memory": "momentum"}),
    Case("dkd", (7, 10), (7, 10)),
    Case("dkd", (5, 3, 2), (5, 3, 2), {"temperature": 1}, units=(5, 3), classes=2),
    Case("dist", (7, 10), (7, 10)),
    Case("dist", (3, 5, 2, 4), (3, 5, 2, 4), {"temperature": 1}),
    Case("value_distance", (7, 10), (7, 10)),
    Case("rank_distance", (7, 10), (7, 10)),
    Case("rank_distance", (7, 10), (7, 10), {"rank": "soft", "softness": 0.5}),
    Case("ls_kd", (7, 10), (7, 10)),
    Case("ls_dkd", (7, 10), (7, 10)),
    Case("wsld", (7, 10), (7, 10), waive=DETACHED),
    Case("wsld", (5, 3, 10), (5, 3, 10), {"hard": 1.0, "label_smoothing": 0.1}, units=(5, 3), waive=DETACHED),
    Case("ega", (7, 6), (7, 6)),
    Case("ega", (7, 6), (7, 9)),
    Case("srrl", (7, 6), ((7, 9), (7, 10)), modules={"body": nn.Linear(6, 9), "fc": nn.Linear(9, 10)}),
    Case("simkd", (5, 6, 4, 4), (5, 6, 4, 4)),
    Case("simkd", (5, 4, 4, 6), (5, 4, 8, 3), {"factor": 4}),
    Case("semckd", ((4, 2, 4, 4), (4, 3, 2, 2)), ((4, 2, 4, 3), (4, 3, 3, 2)), waive=BY_BATCH_ORDER),
    Case("semckd", (4, 2, 4, 4), (4, 2, 2, 2), {"factor": 2, "temperature": 2.0}, waive=BY_BATCH_ORDER),
    Case("afd", ((5, 2, 4, 4), (5, 3, 2, 2), (5, 3, 2, 1)), ((5, 4, 4, 3), (5, 3, 3, 2)), {"width": 4}),
    Case("afd", (5, 2, 4, 4), (5, 3, 4, 4), {"width": 4}),
    Case("rtk", ((5, 2, 4, 4), (5, 3, 2, 2)), ((5, 4, 4, 3), (5, 3, 3, 2), (5, 2, 2, 2)), {"width": 4}),
    Case("rtk", (5, 2, 4, 4), ((5, 3, 4, 4), (5, 4, 2, 2)), {"width": 4, "r": 0, "threshold": 1.0}),
    Case("rtk", ((5, 2, 4, 4), (5, 3, 2, 2)), (5, 3, 4, 4), {"width": 4, "r": 1, "direction": "teacher"}),
    Case("ofd", ((5, 2, 4, 4), (5, 3, 2, 2)), ((5, 4, 4, 4), (5, 3, 4, 2)), OFD_OPTIONS, modules=BATCH_NORMS),
    Case("reviewkd", ((5, 2, 8, 6), (5, 3, 4, 3), (5, 3)), ((5, 3, 4, 6), (5, 2, 4, 3), (5, 4))),
    Case("reviewkd", ((5, 2, 4, 4), (5, 3, 2, 2)), ((5, 3, 4, 4), (5, 2, 2, 2)), {"hidden": 4}),
    Case("at", ((5, 3, 4, 4), (5, 2, 3, 2)), ((5, 6, 2, 4), (5, 4, 5, 2))),
    Case("at", (5, 3, 4, 4), (5, 6, 4, 4), {"p": 3}),
    Case("sp", (7, 3, 4, 2), (7, 6, 2, 2)),
    Case("sp", ((7, 3, 4), (7, 6)), ((7, 2, 4), (7, 9))),
    Case("cc", (7, 6), (7, 9), {"width": 4}, waive=NEIGHBOURS),
    Case("hidden_mse", ((4, 3, 3),) * 2, ((4, 3, 2),) * 3, extras=TEXT),
    Case("hidden_mse", ((4, 3, 2),) * 2, ((4, 3, 2),) * 2, {"projection": "paper", "pads": "counted"}, extras=TEXT),
    Case("hidden_mse", (4, 3, 3), (4, 3, 3), {"projection": "none"}, extras=TEXT),
    Case("hidden_cosine", (4, 3, 3), (4, 3, 3), units=(4, 3)),
    Case("hidden_cosine", (4, 3, 3), (4, 3, 2), {"per": "sample"}, extras=TEXT),
    Case("attention_mse", (HEADS,) * 2, (WIDER,) * 4, extras=TEXT),
    Case("attention_mse", (HEADS,) * 2, (HEADS,) * 2, {"pads": "counted"}, extras=TEXT),
    Case("minilm_relations", (HEADS,) * 3, ((4, 3, 4, 3),) * 3, {"heads": 2}, extras=TEXT),
    Case("minilm_relations", (4, 3, 2), (4, 3, 4), {"heads": 1}, extras=TEXT),
    Case("minilm_attention", (HEADS,) * 3, (WIDER,) * 3, extras=TEXT),
    Case("vid", ((5, 3, 4, 4), (5, 2, 3, 2)), ((5, 6, 2, 4), (5, 4, 5, 2))),
    Case("vid", (5, 3, 4, 4), (5, 6, 4, 4), {"hidden": 2, "initial_variance": 1.0}),
    Case("rkd", (7, 6), (7, 9)),
    Case("rkd", (6, 3, 2, 2), (6, 4, 2), {"distance_weight": 1, "angle_weight": 0}),
    Case("pkt", (7, 6), (7, 9)),
    Case("pkt", (6, 3, 2, 2), (6, 4, 2), {"eps": 1e-5}),
    Case("info_flow", ((7, 3, 4, 2), (7, 6)), ((7, 6, 2, 2), (7, 9))),
    Case("info_flow", (7, 6), (7, 9), {"kernel": "rbf", "divergence": "kagan"}),
    Case("info_flow", (7, 6), (7, 9), {"kernel": "cauchy", "divergence": "exponential"}),
    Case("info_flow", (7, 6), (7, 9), {"kernel": "adaptive_rbf", "divergence": "kl"}, waive=AS_RELEASED),
    Case("pkt_supervised", (7, 6), None, classes=3),
    Case("nst", ((5, 3, 4, 4), (5, 2, 3, 2)), ((5, 6, 2, 4), (5, 4, 5, 2))),
    Case("nst", (5, 9, 2, 2), (5, 8, 2, 2)),
    Case("fsp", ((5, 3, 4, 4), (5, 2, 3, 2), (5, 3, 2, 4)), ((5, 3, 2, 4), (5, 2, 5, 2), (5, 3, 4, 4))),
    Case("ab", ((5, 3, 4, 4), (5, 2, 3, 2)), ((5, 3, 4, 4), (5, 4, 3, 2))),
    Case("ab", (5, 3, 4, 4), (5, 3, 4, 4), {"margin": 2.0}),
    Case("ft", (5, 3, 4, 4), (5, 4, 2, 3)),
    Case("ft", (5, 3, 4, 4), (5, 4, 4, 4), {"rate": 0.3, "p1": 1, "p2": 2}),
    Case("ft_paraphraser", None, (5, 4, 3, 2)),
    Case("itrd", (7, 6), (7, 9)),
    Case("itrd", (7, 6), (7, 6), {"alpha": 1.01, "lambda_mutual": 1.0}),
    Case("several_kd", (6, 10), (6, 3, 10)),
    Case("kdsvd", ((5, 6, 4, 4), (5, 9, 3, 2)), ((5, 6, 2, 4), (5, 9, 5, 2))),
    Case("kdsvd", ((5, 4, 3, 2), (5, 3, 4, 4)), ((5, 4, 3, 2), (5, 3, 4, 4)), {"k": 2}),
]
