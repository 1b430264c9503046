"""How a golden file becomes an objective: one row per file, sizes from the tensors and the hyper-parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from potstill.objectives import ICD, KD, FitNet
from potstill.types import Objective


@dataclass(frozen=True)
class Adapter:
    """`build(hyper, tensors)` makes the objective; `student`, `teacher` and `extras` name inputs of the reference.

    `student` or `teacher` may be a list's name: `g_s` stands for `g_s.0`, `g_s.1` … `names` maps prefixes of the
    reference's parameter and buffer names to ours; what it does not mention keeps its name.
    """

    build: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Objective]
    student: str
    teacher: str
    extras: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def ours(self, theirs: str) -> str:
        for prefix, name in self.names.items():
            if theirs.startswith(prefix):
                return name + theirs.removeprefix(prefix)
        return theirs


def icd(hyper, tensors):
    weights = {side: next(v for k, v in tensors.items() if f"embed_{side}." in k and v.ndim == 2) for side in "st"}
    options = {"ceiling": hyper["max_tau"]} if hyper["trainable"] else {"temperature": hyper["nce_t"]}
    return ICD(
        weights["s"].shape[1],
        weights["t"].shape[1],
        width=weights["s"].shape[0],
        alpha=hyper["alpha"],
        scale="trained" if hyper["trainable"] else "released_fixed",
        **options,
    )


ICD_NAMES = {
    "params.tau": "log_scale",
    "params.b": "bias",
    "embed_s.linear.": "student_head.",
    "embed_t.linear.": "teacher_head.",
    "embed_s.": "student_head.",
    "embed_t.": "teacher_head.",
}

ADAPTERS = {
    "fitnet": Adapter(lambda hyper, tensors: FitNet(hyper["s_shape"], hyper["t_shape"]), "f_s", "f_t"),
    "kd": Adapter(lambda hyper, tensors: KD(hyper["T"]), "y_s", "y_t"),
    **{file: Adapter(icd, "f_s", "f_t", names=ICD_NAMES) for file in ("icd_v1", "icd_v2", "dcd", "dcd_fixed")},
}
