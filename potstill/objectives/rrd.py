"""RRD: Relational Representation Distillation (Giakoumoglou and Stathaki 2024)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from potstill.connectors import check_embeddings
from potstill.functional import full_precision
from potstill.memory import Banks, OtherSamples, Queue, unit_embedding
from potstill.types import Objective

Version = Literal["2024", "2025", "2025_swapped"]
VERSIONS = {"2024": ("score_first", 0.04, 0.1), "2025": ("enqueue_first", 0.02, 0.1)}
VERSIONS["2025_swapped"] = ("enqueue_first", 0.1, 0.02)


class RRD(Objective):
    r"""Relate a sample to a memory of past teacher embeddings as the teacher does.

    With $u_i, v_i$ the L2-normalised linear projections of student and teacher embedding and $m_k$ the memory, a queue
    of the last K projected teacher embeddings,

    $$L_i = -\sum_k p^t_{ik} \log p^s_{ik}, \quad p^s_{ik} = softmax_k(\langle u_i, m_k \rangle / \tau_s), \quad
      p^t_{ik} = softmax_k(\langle v_i, m_k \rangle / \tau_t).$$

    $p^t$ and the memory get no gradient, so the teacher's projection $W_t$ stays the random one it began as.

    `memory="momentum"` scores like CRD instead: k runs over the own sample and K samples of other classes, and the
    softmaxes see $e^{\langle u_i, \bar v_k \rangle / T} / Z_s$ and $e^{\langle v_i, \bar u_k \rangle / T} / Z_t$, with
    one bank of embeddings by sample for each network and $Z$ fixed by the first global batch (mean score times n).

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, result `[B]`; with banks `index [B]` and `draw [B]` int64, and
    `negatives [B, K]`, rows of the banks, in place of the drawn ones.

    Defaults are the authors': `width=128`, `size=16384` (K), weight 1 (1 · CE + 1 · RRD; RRD+KD adds 1 · KD). The
    code's two revisions are two versions:

    - `version="2024"` (arXiv v1 to v4, and the published CIFAR-100 table; our default): score, then enqueue;
      $\tau_s=0.04$, $\tau_t=0.1$.
    - `version="2025"` (v5): the batch is in the queue when it is scored, own key included, so samples are related;
      $\tau_s=0.02$, $\tau_t=0.1$, as its docstring and abstract say (the student is the sharper one).
    - `version="2025_swapped"`: the same with its command line's 0.1 and 0.02, which we take for swapped; a check.

    `order`, `tau_s` and `tau_t` set each alone. Banks: `temperature=0.07` (T), `momentum=0.5`, `exclude` as in CRD.
    `initial="columns"` is the released start of the queue, normalised along the wrong axis; ours are rows.

    Raises ValueError where an embedding is no `[B, D]`, labels are unknown (banks only), or an option does not fit.

    Where we differ: a queue takes any batch size; the memory moves after the backward pass, which is the same. The
    goldens `rrd_fifo` (enqueue first) and `rrd_momentum` pin value, gradient and memory.

    >>> RRD(8, 16, width=4, size=5)(torch.randn(3, 8), torch.randn(3, 16)).shape
    torch.Size([3])
    """

    zero_at_match = False
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "the authors' code"
    paper = "Giakoumoglou, Stathaki: Relational Representation Distillation. 2024. arXiv:2407.12073"

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        samples: int = 0,
        labels: Tensor | None = None,
        *,
        width: int = 128,
        size: int = 16384,
        version: Version = "2024",
        order: Literal["score_first", "enqueue_first"] | None = None,
        tau_s: float | None = None,
        tau_t: float | None = None,
        initial: Literal["rows", "columns"] = "rows",
        memory: Literal["fifo", "momentum"] = "fifo",
        temperature: float = 0.07,
        momentum: float = 0.5,
        exclude: Literal["class", "self"] = "class",
    ):
        super().__init__()
        if str(version) not in VERSIONS:
            raise ValueError(f"rrd: version must be one of {', '.join(VERSIONS)}, got {version!r}")
        usual_order, usual_s, usual_t = VERSIONS[str(version)]  # a command line may read 2024 as a number
        self.order = order or usual_order
        self.tau_s, self.tau_t = usual_s if tau_s is None else tau_s, usual_t if tau_t is None else tau_t
        if memory not in ("fifo", "momentum") or self.order not in ("score_first", "enqueue_first"):
            raise ValueError(
                "rrd: memory must be 'fifo' or 'momentum' and order 'score_first' or 'enqueue_first', "
                f"got {memory!r} and {order!r}"
            )
        if min(self.tau_s, self.tau_t) <= 0 or size < 1:
            raise ValueError(f"rrd: tau_s, tau_t and size must be positive, got {self.tau_s}, {self.tau_t} and {size}")
        self.student_head = nn.Linear(student_width, width)
        self.teacher_head = nn.Linear(teacher_width, width).requires_grad_(False)
        if memory == "fifo":
            self.queue = Queue(size, width, initial)
            self.scope = "batch" if self.order == "enqueue_first" else "unit"
        else:
            self.queue, self.needs = None, ("index", "draw")
            self.banks = Banks(samples, width, temperature, momentum)
            self.others = OtherSamples("rrd", samples, labels, size, exclude)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_embeddings("rrd", student, teacher)
        return cls(student.shape[1], teacher.shape[1], data.samples, data.labels, **kw)

    def forward(
        self,
        student: Float[Tensor, "B D_s"],
        teacher: Float[Tensor, "B D_t"],
        *,
        index: Int64[Tensor, "B"] | None = None,
        draw: Int64[Tensor, "B"] | None = None,
        negatives: Int64[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B"]:
        with full_precision(student):
            u, v = self._embeddings(student, teacher)
            if self.queue is None:
                rows = self.others.rows(index, draw, negatives)
                ours, theirs = (p.exp() for p in self.banks.log_probabilities(u, v, *rows))
            else:
                keys = self.queue.scored(v, self.order)
                ours, theirs = u @ keys.T, v @ keys.T
            target = F.softmax(theirs / self.tau_t, dim=1)
            return -(target * F.log_softmax(ours / self.tau_s, dim=1)).sum(1)

    def prime(self, student, teacher, *, index=None, draw=None, negatives=None):
        if self.queue is None:
            rows = self.others.rows(index, draw, negatives)
            self.banks.prime(*self._embeddings(student, teacher), *rows)

    def update(self, student, teacher, *, index: Any = None, draw=None, negatives=None):
        u, v = self._embeddings(student, teacher)
        self.banks.update(u, v, index) if self.queue is None else self.queue.enqueue(v)

    def _embeddings(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            v = unit_embedding(self.teacher_head, teacher)
        return unit_embedding(self.student_head, student), v
