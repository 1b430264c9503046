"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.ces_kd import CESKD
from potstill.schemes.dgkd import DGKD
from potstill.schemes.dml import DML
from potstill.schemes.dual import Dual
from potstill.schemes.ema import EMA
from potstill.schemes.r2kd import R2KD
from potstill.schemes.takd import TAKD
from potstill.schemes.teachers import Teachers

SCHEMES: dict[str, type[Scheme]] = {
    "ces_kd": CESKD,
    "dgkd": DGKD,
    "dml": DML,
    "dual": Dual,
    "ema": EMA,
    "r2kd": R2KD,
    "takd": TAKD,
    "teachers": Teachers,
}

__all__ = ["CESKD", "DGKD", "DML", "EMA", "R2KD", "SCHEMES", "TAKD", "Dual", "Teachers"]
