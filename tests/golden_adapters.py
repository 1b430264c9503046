"""How a golden file becomes an objective: one row per file, sizes from the tensors and the hyper-parameters."""

from adapter import Adapter
from adapters_contrast import CONTRAST
from adapters_divergences import DIVERGENCES
from adapters_features import FEATURES
from adapters_flow import FLOW
from adapters_logits import LOGITS

from potstill.objectives import ICD, KD, FitNet


def icd(hyper, tensors):
    weights = {side: next(v for k, v in tensors.items() if f"embed_{side}." in k and v.ndim == 2) for side in "st"}
    options = {"ceiling": hyper["max_tau"]} if hyper["trainable"] else {"temperature": hyper["nce_t"]}
    return ICD(
        weights["s"].shape[1],
        weights["t"].shape[1],
        width=weights["s"].shape[0],
        alpha=hyper["alpha"],
        scale="trained" if hyper["trainable"] else "released_fixed",
        **options,
    )


ICD_NAMES = {
    "params.tau": "log_scale",
    "params.b": "bias",
    "embed_s.linear.": "student_head.",
    "embed_t.linear.": "teacher_head.",
    "embed_s.": "student_head.",
    "embed_t.": "teacher_head.",
}

ADAPTERS = {
    **CONTRAST,
    **DIVERGENCES,
    **FEATURES,
    **FLOW,
    **LOGITS,
    "fitnet": Adapter(lambda hyper, tensors: FitNet(hyper["s_shape"], hyper["t_shape"]), "f_s", "f_t"),
    "kd": Adapter(lambda hyper, tensors: KD(hyper["T"]), "y_s", "y_t"),
    **{file: Adapter(icd, "f_s", "f_t", names=ICD_NAMES) for file in ("icd_v1", "icd_v2", "dcd", "dcd_fixed")},
}
