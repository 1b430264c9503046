"""The row by which a golden file becomes an objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from potstill.types import Objective


@dataclass(frozen=True)
class Adapter:
    """`build(hyper, tensors)` makes the objective; `student`, `teacher` and `extras` name inputs of the reference.

    `tensors` are the case's inputs, parameters and buffers by name. `student` or `teacher` may be a list's name: `g_s`
    stands for `g_s.0`, `g_s.1` …; several names follow each other, None is a side that does not exist. `names` maps
    prefixes of the reference's parameter and buffer names to ours; what it does not mention keeps its name.
    `rewrite` first puts a case into our form, where the reference keeps its numbers otherwise.
    """

    build: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Objective]
    student: str | tuple[str, ...] | None
    teacher: str | tuple[str, ...] | None
    extras: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rewrite: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def ours(self, theirs: str) -> str:
        for prefix, name in self.names.items():
            if theirs.startswith(prefix):
                return name + theirs.removeprefix(prefix)
        return theirs
