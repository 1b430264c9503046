"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.bss import BSS
from potstill.schemes.dml import DML
from potstill.schemes.dual import Dual
from potstill.schemes.ema import EMA
from potstill.schemes.one import ONE
from potstill.schemes.r2kd import R2KD
from potstill.schemes.teachers import Teachers

SCHEMES: dict[str, type[Scheme]] = {
    "bss": BSS,
    "dml": DML,
    "dual": Dual,
    "ema": EMA,
    "one": ONE,
    "r2kd": R2KD,
    "teachers": Teachers,
}

__all__ = ["BSS", "DML", "EMA", "ONE", "R2KD", "SCHEMES", "Dual", "Teachers"]
