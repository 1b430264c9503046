"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.black_box import BlackBox
from potstill.schemes.ckd import CKD
from potstill.schemes.dml import DML
from potstill.schemes.mixed_kd import CutMixKD, MixupKD

SCHEMES: dict[str, type[Scheme]] = {
    "black_box": BlackBox,
    "ckd": CKD,
    "cutmix_kd": CutMixKD,
    "dml": DML,
    "mixup_kd": MixupKD,
}

__all__ = ["CKD", "DML", "SCHEMES", "BlackBox", "CutMixKD", "MixupKD"]
