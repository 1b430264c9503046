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
        data = DataInfo(samples=50, batch_size=self.rows, classes=self.classes)
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

CASES = [
    Case("ce", (7, 10), None, waive=NO_PAPER),
    Case("ce", (5, 3, 10), None, units=(5, 3), waive=NO_PAPER),
    Case("fitnet", (5, 3, 4, 4), (5, 6, 4, 4)),
    Case("fitnet", (5, 3, 8, 6), (5, 4, 4, 3)),
    Case("fitnet", (5, 3, 2, 2), (5, 4, 4, 4)),
    Case("icd", (7, 6), (7, 9), {"width": 4}),
    Case("icd", (7, 6), (7, 6), {"width": 4, "alpha": 0, "scale": "fixed"}),
    Case("kd", (7, 10), (7, 10)),
    Case("kd", (5, 3, 10), (5, 3, 10), {"temperature": 1}, units=(5, 3)),
]
