"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.dml import DML
from potstill.schemes.dual import Dual
from potstill.schemes.ema import EMA
from potstill.schemes.hkd import HKD
from potstill.schemes.r2kd import R2KD
from potstill.schemes.teachers import Teachers

SCHEMES: dict[str, type[Scheme]] = {
    "dml": DML,
    "dual": Dual,
    "ema": EMA,
    "hkd": HKD,
    "r2kd": R2KD,
    "teachers": Teachers,
}

__all__ = ["DML", "EMA", "HKD", "R2KD", "SCHEMES", "Dual", "Teachers"]
