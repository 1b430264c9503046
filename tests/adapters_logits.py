"""Goldens of the losses on logits, of learnt attention, and of what reuses parts of the teacher."""

from adapter import Adapter
from torch import nn

from potstill.objectives import (
    DIST,
    DKD,
    EGA,
    LSDKD,
    LSKD,
    OFD,
    SRRL,
    WSLD,
    ReviewKD,
    SemCKD,
    SimKD,
)
from potstill.objectives.ofd import margin_of
from potstill.objectives.reviewkd import hierarchical_context
from potstill.objectives.simkd import Reused
from potstill.taps import Taps
from potstill.types import Objective


def listed(tensors, prefix):
    """`prefix.0`, `prefix.1` … of a case."""
    return [tensors[f"{prefix}.{n}"] for n in range(sum(name.startswith(f"{prefix}.") for name in tensors))]


def weighted(objective, weight):
    """The reference multiplies by its own weight."""
    objective.register_forward_hook(lambda module, args, losses: weight * losses)
    return objective


class HCL(Objective):
    """The second half of ReviewKD alone."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(**kw)

    def forward(self, student, teacher):
        return sum(hierarchical_context(s, t, self.levels) for s, t in zip(student, teacher, strict=True))


def ls_kd(hyper, tensors):
    assert hyper["unbiased_std"]
    assert hyper["std_eps"] == 1e-7
    return LSKD(hyper["T"])


def wsld(hyper, tensors):
    return WSLD(hyper["T"], hyper["alpha"], hard=1.0, label_smoothing=hyper["label_smoothing"])


def srrl(hyper, tensors):
    classes, width = tensors["cls_t.weight"].shape
    classifier = nn.Linear(width, classes)
    classifier.load_state_dict({name: tensors[f"cls_t.{name}"] for name in ("weight", "bias")})
    return SRRL(hyper["s_n"], classifier)


def ega(hyper, tensors):
    widths = tensors["f_s"].shape[1], tensors["f_t"].shape[1]
    return EGA(*widths, node=hyper["node_weight"], edge=hyper["edge_weight"])


def reviewkd(hyper, tensors):
    hidden = tensors["abfs.0.conv1.0.weight"].shape[0]
    objective = ReviewKD(hyper["in_channels"], hyper["out_channels"], hidden)
    return weighted(objective, hyper["weight"])


def ofd(hyper, tensors):
    channels = [x.shape[1] for x in listed(tensors, "g_s")]
    pairs = zip(listed(tensors, "bn_weight"), listed(tensors, "bn_bias"), strict=True)
    objective = OFD(channels, [margin_of(w, b) for w, b in pairs], kernel_size=hyper["connector_kernel"])
    return weighted(objective, hyper["weight"])


def semckd(hyper, tensors):
    channels = ([x.shape[1] for x in listed(tensors, side)] for side in ("g_s", "g_t"))
    return SemCKD(*channels, hyper["batch"], factor=hyper["factor"], temperature=hyper["soft"])


class ReusedAndLoss(Objective):
    """The published forward: the student's map through the projector and the reused classifier, and the loss."""

    batch_statistics = True

    def __init__(self, channels, size, classes, factor):
        super().__init__()
        self.student = Reused(nn.Sequential(nn.Identity()), "0", channels, size, classes, factor=factor)
        self.loss, self.logits = SimKD(), None

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(**kw)

    def forward(self, student, teacher):
        said = Taps(self.student, self.student.taps)(lambda: self.student(student))
        self.logits = said.output
        return self.loss(said.taps["projected"], teacher)


def simkd(hyper, tensors):
    size, classes = tensors["f_t"].shape[2:], len(tensors["cls_t.weight"])
    return ReusedAndLoss((hyper["s_n"], hyper["t_n"]), size, classes, hyper["factor"])


LABEL = {"label": "labels"}
LAYERS = range(8)
SEMCKD_NAMES = {
    **{f"att.query_{n}.linear{m + 1}.": f"queries.{n}.{2 * m}." for n in LAYERS for m in range(2)},
    **{f"att.key_{n}.linear{m + 1}.": f"keys.{n}.{2 * m}." for n in LAYERS for m in range(2)},
    **{f"att.regressor{s}{t}.regressor.": f"projectors.{s}.{t}." for s in LAYERS for t in LAYERS},
}
REVIEWKD_NAMES = {
    **{f"abfs.{n}.att_conv.0.": f"fusions.{n}.attention." for n in LAYERS},
    "abfs.": "fusions.",
}
SRRL_NAMES = {"srrl.transfer.": "projector.", "cls_t.": "classifier_"}

LOGITS = {
    "dkd": Adapter(lambda hyper, tensors: DKD(hyper["alpha"], hyper["beta"], hyper["T"]), "y_s", "y_t", LABEL),
    "dist": Adapter(lambda hyper, tensors: DIST(hyper["beta"], hyper["gamma"], hyper["tau"]), "y_s", "y_t"),
    "dist_dense": Adapter(
        lambda hyper, tensors: DIST(hyper["beta"], hyper["gamma"], hyper.get("tau", 1.0)), "y_s", "y_t"
    ),
    "ls_kd": Adapter(ls_kd, "y_s", "y_t"),
    "ls_dkd": Adapter(lambda hyper, tensors: LSDKD(hyper["alpha"], hyper["beta"], hyper["T"]), "y_s", "y_t", LABEL),
    "wsld": Adapter(wsld, "y_s", "y_t", LABEL),
    "ega": Adapter(ega, "f_s", "f_t"),
    "srrl": Adapter(srrl, "f_s", ("f_t", "y_t"), names=SRRL_NAMES),
    "simkd": Adapter(
        simkd,
        "f_s",
        "f_t",
        names={"simkd.transfer.": "student.projector.", "cls_t.": "student.classifier."},
    ),
    "semckd": Adapter(semckd, "g_s", "g_t", names=SEMCKD_NAMES),
    "reviewkd": Adapter(reviewkd, ("feat_s", "pool_s"), ("feat_t", "pool_t"), names=REVIEWKD_NAMES),
    "hcl": Adapter(lambda hyper, tensors: HCL(hyper["levels"]), "g_s", "g_t"),
    "ofd": Adapter(ofd, "g_s", "g_t", names={"connectors.connectors.": "connectors."}),
}
