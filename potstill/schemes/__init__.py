"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.dml import DML

SCHEMES: dict[str, type[Scheme]] = {
    "dml": DML,
}

__all__ = ["DML", "SCHEMES"]
