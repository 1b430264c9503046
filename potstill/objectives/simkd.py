"""SimKD: the reused teacher classifier (Chen et al. 2022)."""

from __future__ import annotations

import threading

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import Bottleneck, check_maps, to_smaller
from potstill.functional import at_least_float32, mean_of_rest
from potstill.taps import Taps
from potstill.types import Objective

_ALONE = threading.RLock()


class SimKD(Objective):
    r"""$\frac{1}{CHW} \| r(F_s) - F_t \|_2^2$ per sample: the student's projected map must be the teacher's.

    This is the paper's only loss (CE 0, KD 0), because the student is another network at inference too (`Reused`): it
    answers with its projected map, averaged, in the teacher's frozen classifier. Training such a student adapts it
    first: `adapt`.

    Shapes: projected student map `[B, C_t, H_s, W_s]`, teacher map `[B, C_t, H_t, W_t]`, result `[B]`. A larger student
    map is pooled in front of the projector, a larger teacher map here.

    Defaults: `factor=2`, the width of $r$ inside being `C_t / factor`, and weight 1. The maps are those whose average
    the classifiers read (`pooled_map`). Raises ValueError for taps that are no maps, different numbers of channels, a
    factor that leaves no channel, and a teacher whose classifier reads no average of a map.

    Where we differ: the released code pools to squares; the golden `simkd` pins value, gradient and logits.
    """

    default_taps = ("projected", "pooled_map")
    paper_terms = "ce:0+simkd:1"
    matches = "features"
    needs_modules = True
    weight_from = "the authors' code"
    paper = (
        "Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022. "
        "arXiv:2203.14001"
    )

    def __init__(self, factor: int = 2):
        super().__init__()
        self.factor = factor  # of the projector, which belongs to the adapted student

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_maps("simkd", (student,), (teacher,))
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"simkd: a projected map has {student.shape[1]} channels, expected the teacher's {teacher.shape[1]}"
            )
        return cls(**kw)

    @classmethod
    def adapt(cls, student, teacher, listen, factor=2):
        if isinstance(student.module, Reused):
            raise ValueError(
                "simkd: the student ends in a reused classifier already; give the network in it, its .body"
            )
        head = teacher.names.get("embedding", "").removesuffix(".input")
        classifier = dict(teacher.module.named_modules()).get(head)
        plain = isinstance(classifier, nn.Linear) and type(classifier).forward is nn.Linear.forward
        if "pooled_map" not in teacher.names or not plain:
            raise ValueError(
                "simkd: it reuses the teacher's classifier, which must be an nn.Linear and read the average of a "
                f"feature map; {type(teacher.module).__name__} has no such classifier. srrl and icd learn from its "
                "embedding"
            )
        path = student.names.get("pooled_map") or student.names.get("last_map")
        if path is None:
            raise ValueError(f"simkd: {type(student.module).__name__} has no feature map [B, C, H, W] to project")
        ours, theirs = (
            tuple(listen(source, (tap,)).get(tap).shape) for source, tap in ((student, path), (teacher, "pooled_map"))
        )
        mapped = None if teacher.preprocess is None else teacher.preprocess.label_map
        rows = slice(None) if mapped is None else list(mapped)
        weights = {"weight": classifier.weight.detach()[rows]}
        if classifier.bias is not None:
            weights["bias"] = classifier.bias.detach()[rows]
        sizes = {"classes": len(weights["weight"]), "bias": "bias" in weights, "factor": factor}
        reused = Reused(student.module, path, (ours[1], theirs[1]), theirs[2:], **sizes)
        reused.classifier.load_state_dict(weights)
        return reused.to(classifier.weight.device)

    def forward(
        self, student: Float[Tensor, "B C H_s W_s"], teacher: Float[Tensor, "B C H_t W_t"]
    ) -> Float[Tensor, "B"]:
        student, teacher = to_smaller(at_least_float32(student), teacher)
        return mean_of_rest(F.mse_loss(student, teacher.to(student.dtype), reduction="none"))


class Reused(nn.Module):
    """A student that ends in a projector and the teacher's frozen classifier; what is behind `path` in it is unused.

    `path` names the student's map `[B, channels[0], H, W]`, `channels[1]` are the teacher's, `size` is its map's.
    """

    def __init__(
        self,
        body: nn.Module,
        path: str,
        channels: tuple[int, int],
        size: tuple[int, int],
        classes: int,
        bias: bool = True,
        factor: int = 2,
    ):
        super().__init__()
        if not 1 <= factor <= channels[1]:
            raise ValueError(f"simkd: factor must lie between 1 and the teacher's {channels[1]}, got {factor}")
        self.described = {"path": path, "channels": list(channels), "size": list(size), "classes": classes}
        self.described |= {"bias": bias, "factor": factor}
        self.body, self.size = body, (size[0], size[1])
        self.projector = Bottleneck(channels[0], channels[1] // factor, channels[1], activated=True)
        self.classifier = nn.Linear(channels[1], classes, bias=bias).requires_grad_(False)
        self._features = Taps(body, {"features": path}, needs_gradient=False)

    @property
    def taps(self) -> dict[str, str]:
        """`projected`, and what the student names itself, but for its answer's."""
        own = dict(getattr(self.body, "taps", None) or {})
        inner = {name: f"body.{path}" for name, path in own.items() if name not in ("embedding", "pooled_map")}
        return inner | {"projected": "projector"}

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        with _ALONE:  # the tap is a hook: two threads of a server must not see each other's
            features = self._features(lambda: self.body(x)).taps["features"]
        return self.classifier(self.project(features).mean((2, 3)))

    def project(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_t h w"]:
        size = min(features.shape[2], self.size[0]), min(features.shape[3], self.size[1])
        return self.projector(features if features.shape[2:] == size else F.adaptive_avg_pool2d(features, size))
