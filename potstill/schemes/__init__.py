"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.bss import BSS
from potstill.schemes.dml import DML
from potstill.schemes.one import ONE

SCHEMES: dict[str, type[Scheme]] = {
    "bss": BSS,
    "dml": DML,
    "one": ONE,
}

__all__ = ["BSS", "DML", "ONE", "SCHEMES"]
