"""Golden files of the contrastive methods with a memory: CRD and RRD, as banks by sample and as queues."""

import json

from adapter import Adapter

from potstill.objectives import CRD, RRD

NAMES = {
    "embed_s.linear.": "student_head.",
    "embed_t.linear.": "teacher_head.",
    "embed_s.": "student_head.",
    "embed_t.": "teacher_head.",
    "contrast.memory_v1": "banks.student",
    "contrast.memory_v2": "banks.teacher",
    "contrast.normalizer": "banks.normalizer",
    "queue_ptr": "queue.pointer",
    "queue": "queue.keys",
}


def memory(case):
    """Of the reference's five parameters two are numbers that it measures; the own sample is no negative.

    Z is a buffer of ours that the reference keeps in `contrast.params`: `[K, T, Z_v1, Z_v2, momentum]`.
    """
    found = dict(case)
    for key in ("buffer.contrast.params", "out.buffer.contrast.params"):
        if key in found:
            found[key.replace("params", "normalizer")] = found.pop(key)[2:4]
    if "in.contrast_idx" in found:
        assert (found["in.contrast_idx"][:, 0] == found["in.idx"]).all()
        found["in.contrast_idx"] = found["in.contrast_idx"][:, 1:]
    if "buffer.contrast.memory_v1" in found:
        hyper = json.loads(str(found["hyper"]))
        assert len(found["buffer.contrast.memory_v1"]) == hyper["n_data"]
    return found


def widths(tensors):
    weights = [next(v for k, v in tensors.items() if k.startswith(f"embed_{s}.") and v.ndim == 2) for s in "st"]
    return {
        "student_width": weights[0].shape[1],
        "teacher_width": weights[1].shape[1],
        "width": weights[0].shape[0],
        "samples": len(tensors.get("contrast.memory_v1", ())),
    }


def crd(hyper, tensors):
    banks = {"momentum": hyper["nce_m"], "exclude": "self"} if "nce_m" in hyper else {"memory": "fifo"}
    return CRD(**widths(tensors), negatives=hyper["nce_k"], temperature=hyper["nce_t"], **banks)


def rrd(hyper, tensors):
    banks = {"memory": "momentum", "momentum": hyper["nce_m"], "exclude": "self"} if "nce_m" in hyper else {}
    return RRD(
        **widths(tensors),
        size=hyper["nce_k"],
        version="2025",
        tau_s=hyper["nce_t_s"],
        tau_t=hyper["nce_t_t"],
        temperature=hyper["nce_t"],
        **banks,
    )


BY_SAMPLE = {"index": "idx", "negatives": "contrast_idx"}
CONTRAST = {
    "crd": Adapter(crd, "f_s", "f_t", BY_SAMPLE, NAMES, rewrite=memory),
    "crd_momentum": Adapter(crd, "f_s", "f_t", BY_SAMPLE, NAMES, rewrite=memory),
    "crd_fifo": Adapter(crd, "f_s", "f_t", names=NAMES),
    "rrd_momentum": Adapter(rrd, "f_s", "f_t", BY_SAMPLE, NAMES, rewrite=memory),
    "rrd_fifo": Adapter(rrd, "f_s", "f_t", names=NAMES),
}
