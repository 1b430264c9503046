"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.dml import DML
from potstill.schemes.hkd import HKD

SCHEMES: dict[str, type[Scheme]] = {
    "dml": DML,
    "hkd": HKD,
}

__all__ = ["DML", "HKD", "SCHEMES"]
