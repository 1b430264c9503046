"""Goldens of the losses that compare maps, embeddings, and how samples or layers relate to each other."""

import re

from adapter import Adapter

from potstill.objectives import AB, AT, CC, FSP, FT, ITRD, KDSVD, NST, PKT, RKD, SP, VID, FTParaphraser, PKTSupervised


def shapes(tensors, prefix):
    return [
        tuple(tensors[f"{prefix}.{n}"].shape) for n in range(sum(name.startswith(f"{prefix}.") for name in tensors))
    ]


def widths(tensors):
    return tensors["f_s"].shape[1], tensors["f_t"].shape[1]


def vid(hyper, tensors):
    channels = ((width,) for width in widths(tensors))
    return VID(*channels, hyper["num_mid_channel"], hyper["init_pred_var"], hyper["eps"])


def with_signs(case):
    """The teacher's singular vectors that the reference had, as inputs."""
    found = {name: re.fullmatch(r"out\.v_t(\d+)", name) for name in case}
    return {**case, **{f"in.sign.{match[1]}": case[name] for name, match in found.items() if match}}


def kdsvd(hyper, tensors):
    """Each teacher vector points where the reference's did."""
    objective = KDSVD(hyper["k"])
    layers = iter([tensors[f"sign.{n}"] for n in range(sum(name.startswith("sign.") for name in tensors))])
    objective.sign = lambda vectors: (vectors * next(layers)).sum(1, keepdim=True).sign()
    return objective


def ft(hyper, tensors):
    """The golden has the frozen paraphraser's gradients too."""
    objective = FT(*widths(tensors), rate=hyper["k"], p1=hyper["p1"], p2=hyper["p2"])
    objective.paraphraser.requires_grad_()
    return objective


CC_NAMES = {"embed_s.linear.": "student_head.", "embed_t.linear.": "teacher_head."}
FT_NAMES = {"translator.encoder.": "translator.", "paraphraser.encoder.": "paraphraser."}

FEATURES = {
    "ab": Adapter(
        lambda hyper, tensors: AB(shapes(tensors, "g_s"), shapes(tensors, "g_t"), hyper["margin"]),
        "g_s",
        "g_t",
        names={"connector.": ""},
    ),
    "at": Adapter(lambda hyper, tensors: AT(hyper["p"]), "g_s", "g_t"),
    "at_p4": Adapter(lambda hyper, tensors: AT(hyper["p"]), "g_s", "g_t"),
    "cc": Adapter(lambda hyper, tensors: CC(*widths(tensors), hyper["feat_dim"]), "f_s", "f_t", names=CC_NAMES),
    "fsp": Adapter(lambda hyper, tensors: FSP(), "g_s", "g_t"),
    "ft": Adapter(ft, "f_s", "f_t", names=FT_NAMES),
    "ft_paraphraser": Adapter(
        lambda hyper, tensors: FTParaphraser(tensors["f_t"].shape[1], hyper["k"]),
        None,
        "f_t",
        names={"paraphraser.": ""},
    ),
    "itrd": Adapter(
        lambda hyper, tensors: ITRD(*widths(tensors), lambda_corr=1, lambda_mutual=1, alpha=hyper["alpha_it"]),
        "f_s",
        "f_t",
        names={"embed.linear.": "embed."},
    ),
    "kdsvd": Adapter(kdsvd, "g_s", "g_t", rewrite=with_signs),
    "nst": Adapter(lambda hyper, tensors: NST(), "g_s", "g_t"),
    "pkt": Adapter(lambda hyper, tensors: PKT(hyper["eps"]), "f_s", "f_t"),
    "pkt_supervised": Adapter(
        lambda hyper, tensors: PKTSupervised(hyper["eps"]), "f_s", None, extras={"label": "labels"}
    ),
    "rkd": Adapter(lambda hyper, tensors: RKD(hyper["w_d"], hyper["w_a"]), "f_s", "f_t"),
    "sp": Adapter(lambda hyper, tensors: SP(), "g_s", "g_t"),
    "vid": Adapter(vid, "f_s", "f_t", names={"": "layers.0."}),
}
