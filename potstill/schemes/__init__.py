"""Methods that are more than terms, one file each, under the names that method strings use."""

from __future__ import annotations

from potstill.scheme import Scheme
from potstill.schemes.black_box import BlackBox
from potstill.schemes.bss import BSS
from potstill.schemes.ces_kd import CESKD
from potstill.schemes.ckd import CKD
from potstill.schemes.dgkd import DGKD
from potstill.schemes.distilbert import DistilBERT
from potstill.schemes.distillm import DistiLLM
from potstill.schemes.dml import DML
from potstill.schemes.dual import Dual
from potstill.schemes.ema import EMA
from potstill.schemes.hkd import HKD
from potstill.schemes.imitkd import ImitKD
from potstill.schemes.minillm import MiniLLM
from potstill.schemes.minilm import MiniLM
from potstill.schemes.mixed_kd import CutMixKD, MixupKD
from potstill.schemes.mixkd import MixKD
from potstill.schemes.okd import OKD
from potstill.schemes.on_policy import GKD, OnPolicy
from potstill.schemes.one import ONE
from potstill.schemes.r2kd import R2KD
from potstill.schemes.seqkd import SeqKD
from potstill.schemes.skd import SKD
from potstill.schemes.takd import TAKD
from potstill.schemes.teachers import Teachers
from potstill.schemes.tinybert import TinyBERT

SCHEMES: dict[str, type[Scheme]] = {
    "black_box": BlackBox,
    "bss": BSS,
    "ces_kd": CESKD,
    "ckd": CKD,
    "cutmix_kd": CutMixKD,
    "dgkd": DGKD,
    "distilbert": DistilBERT,
    "distillm": DistiLLM,
    "dml": DML,
    "dual": Dual,
    "ema": EMA,
    "gkd": GKD,
    "hkd": HKD,
    "imitkd": ImitKD,
    "minillm": MiniLLM,
    "minilm": MiniLM,
    "mixkd": MixKD,
    "mixup_kd": MixupKD,
    "okd": OKD,
    "on_policy": OnPolicy,
    "one": ONE,
    "r2kd": R2KD,
    "seqkd": SeqKD,
    "skd": SKD,
    "takd": TAKD,
    "teachers": Teachers,
    "tinybert": TinyBERT,
}

__all__ = [
    "BSS",
    "CESKD",
    "CKD",
    "DGKD",
    "DML",
    "EMA",
    "GKD",
    "HKD",
    "OKD",
    "ONE",
    "R2KD",
    "SCHEMES",
    "SKD",
    "TAKD",
    "BlackBox",
    "CutMixKD",
    "DistiLLM",
    "DistilBERT",
    "Dual",
    "ImitKD",
    "MiniLLM",
    "MiniLM",
    "MixKD",
    "MixupKD",
    "OnPolicy",
    "SeqKD",
    "Teachers",
    "TinyBERT",
]
