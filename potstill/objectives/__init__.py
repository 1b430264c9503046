"""Every objective, by the name that method strings use. One method, one file."""

from potstill.objectives.ab import AB
from potstill.objectives.afd import AFD
from potstill.objectives.akl import AKL
from potstill.objectives.at import AT
from potstill.objectives.attention_mse import AttentionMSE
from potstill.objectives.cc import CC
from potstill.objectives.crd import CRD
from potstill.objectives.cross_entropy import CrossEntropy
from potstill.objectives.dist import DIST
from potstill.objectives.divergences import TVD, ForwardKL, ReverseKL, SymmetricKL
from potstill.objectives.dkd import DKD
from potstill.objectives.ega import EGA
from potstill.objectives.fitnet import FitNet
from potstill.objectives.fsp import FSP
from potstill.objectives.ft import FT, FTParaphraser
from potstill.objectives.gold import GOLD
from potstill.objectives.hidden_cosine import HiddenCosine
from potstill.objectives.hidden_mse import HiddenMSE
from potstill.objectives.icd import ICD
from potstill.objectives.info_flow import InfoFlow
from potstill.objectives.itrd import ITRD
from potstill.objectives.kd import KD
from potstill.objectives.kdsvd import KDSVD
from potstill.objectives.logit_mse import LogitMSE
from potstill.objectives.minilm import MiniLMAttention, MiniLMRelations
from potstill.objectives.mixtures import JSD, MixtureKL, SkewKL, SkewReverseKL
from potstill.objectives.nst import NST
from potstill.objectives.ofd import OFD
from potstill.objectives.pkt import PKT, PKTSupervised
from potstill.objectives.policy_gradient import PolicyGradient
from potstill.objectives.rank_distance import RankDistance
from potstill.objectives.reviewkd import ReviewKD
from potstill.objectives.rkd import RKD
from potstill.objectives.rrd import RRD
from potstill.objectives.rtk import RTK
from potstill.objectives.score_mse import ScoreMSE
from potstill.objectives.semckd import SemCKD
from potstill.objectives.several_kd import SeveralKD
from potstill.objectives.simkd import SimKD
from potstill.objectives.sp import SP
from potstill.objectives.srrl import SRRL
from potstill.objectives.standardised import LSDKD, LSKD, Standardised
from potstill.objectives.uld import ULD
from potstill.objectives.value_distance import ValueDistance
from potstill.objectives.vid import VID
from potstill.objectives.wsld import WSLD
from potstill.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "ab": AB,
    "afd": AFD,
    "akl": AKL,
    "at": AT,
    "attention_mse": AttentionMSE,
    "cc": CC,
    "ce": CrossEntropy,
    "crd": CRD,
    "dist": DIST,
    "dkd": DKD,
    "ega": EGA,
    "fitnet": FitNet,
    "forward_kl": ForwardKL,
    "fsp": FSP,
    "ft": FT,
    "ft_paraphraser": FTParaphraser,
    "hidden_cosine": HiddenCosine,
    "hidden_mse": HiddenMSE,
    "gold": GOLD,
    "icd": ICD,
    "info_flow": InfoFlow,
    "itrd": ITRD,
    "jsd": JSD,
    "kd": KD,
    "kdsvd": KDSVD,
    "logit_mse": LogitMSE,
    "ls_dkd": LSDKD,
    "ls_kd": LSKD,
    "minilm_attention": MiniLMAttention,
    "minilm_relations": MiniLMRelations,
    "mixture_kl": MixtureKL,
    "nst": NST,
    "ofd": OFD,
    "pkt": PKT,
    "pkt_supervised": PKTSupervised,
    "policy_gradient": PolicyGradient,
    "rank_distance": RankDistance,
    "reverse_kl": ReverseKL,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "rrd": RRD,
    "rtk": RTK,
    "score_mse": ScoreMSE,
    "semckd": SemCKD,
    "several_kd": SeveralKD,
    "simkd": SimKD,
    "skew_kl": SkewKL,
    "skew_reverse_kl": SkewReverseKL,
    "sp": SP,
    "srrl": SRRL,
    "symmetric_kl": SymmetricKL,
    "tvd": TVD,
    "uld": ULD,
    "value_distance": ValueDistance,
    "vid": VID,
    "wsld": WSLD,
}

__all__ = [
    "AB",
    "AFD",
    "AKL",
    "AT",
    "CC",
    "CRD",
    "DIST",
    "DKD",
    "EGA",
    "FSP",
    "FT",
    "GOLD",
    "ICD",
    "ITRD",
    "JSD",
    "KD",
    "KDSVD",
    "LSDKD",
    "LSKD",
    "NST",
    "OBJECTIVES",
    "OFD",
    "PKT",
    "RKD",
    "RRD",
    "RTK",
    "SP",
    "SRRL",
    "TVD",
    "ULD",
    "VID",
    "WSLD",
    "AttentionMSE",
    "CrossEntropy",
    "FTParaphraser",
    "FitNet",
    "ForwardKL",
    "HiddenCosine",
    "HiddenMSE",
    "InfoFlow",
    "LogitMSE",
    "MiniLMAttention",
    "MiniLMRelations",
    "MixtureKL",
    "PKTSupervised",
    "PolicyGradient",
    "RankDistance",
    "ReverseKL",
    "ReviewKD",
    "ScoreMSE",
    "SemCKD",
    "SeveralKD",
    "SimKD",
    "SkewKL",
    "SkewReverseKL",
    "Standardised",
    "SymmetricKL",
    "ValueDistance",
]
