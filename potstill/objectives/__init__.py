"""Every objective, by the name that method strings use. One method, one file."""

from potstill.objectives.cross_entropy import CrossEntropy
from potstill.objectives.fitnet import FitNet
from potstill.objectives.icd import ICD
from potstill.objectives.kd import KD
from potstill.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "ce": CrossEntropy,
    "fitnet": FitNet,
    "icd": ICD,
    "kd": KD,
}

__all__ = ["ICD", "KD", "OBJECTIVES", "CrossEntropy", "FitNet"]
