"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.ckd import CKD
from potstill.schemes.dml import DML

SCHEMES: dict[str, type[Scheme]] = {
    "ckd": CKD,
    "dml": DML,
}

__all__ = ["CKD", "DML", "SCHEMES"]
