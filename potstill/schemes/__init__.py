"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.dml import DML
from potstill.schemes.r2kd import R2KD

SCHEMES: dict[str, type[Scheme]] = {
    "dml": DML,
    "r2kd": R2KD,
}

__all__ = ["DML", "R2KD", "SCHEMES"]
