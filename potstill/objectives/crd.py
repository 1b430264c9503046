"""CRD: Contrastive Representation Distillation (Tian, Krishnan and Isola 2020)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from potstill.connectors import check_embeddings
from potstill.functional import full_precision
from potstill.memory import Banks, OtherSamples, Queue, unit_embedding
from potstill.types import Objective

EPS = 1e-7  # the released code's, Eq. 18


class CRD(Objective):
    r"""Tell a sample's own embedding by the other network from those of K samples of other classes.

    With $u_i, v_i$ the L2-normalised linear projections of student and teacher embedding, $\bar u_j, \bar v_j$ their
    memories (one row per training sample), $n$ training samples and $P^s_{ij} = e^{\langle u_i, \bar v_j \rangle / T}
    / Z_s$ (the teacher's $P^t$ mirrored: $v_i$ against $\bar u_j$),

    $$L_i = \sum_{P \in \{P^s, P^t\}} -\log \frac{P_{ii}}{P_{ii} + K/n}
      - \sum_{k=1}^{K} \log \frac{K/n}{P_{i j_k} + K/n}.$$

    $Z$ is fixed by the first global batch: mean score times $n$. A row follows its sample's embedding with a momentum.

    `memory="fifo"` is the later re-implementation with a queue of K teacher embeddings $q_k$: InfoNCE, and no index,
    $L_i = -\log \left( e^{\langle u_i, v_i \rangle / T} / (e^{\langle u_i, v_i \rangle / T} + \sum_k
    e^{\langle u_i, q_k \rangle / T}) \right)$.

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, `index [B]` and `draw [B]` int64, result `[B]`. `negatives [B, K]`,
    rows of the memory, replace the drawn ones. A bank keeps 2 · n · `width` numbers.

    Defaults are the authors': `width=128`, `negatives=16384` (K), `temperature=0.07`, `momentum=0.5`, weight 0.8
    (1 · CE + 0.8 · CRD; CRD+KD adds 1 · KD). `exclude="class"` draws from other classes ("exact"), `"self"` from all
    other samples, which needs no labels. With `memory="fifo"`: `order="enqueue_first"`, as released (the batch's own
    keys are in the queue when it is scored, so a positive is also among its negatives, and samples are related), or
    `"score_first"`; `initial="columns"` is the released start of the queue (see `Queue`).

    Raises ValueError where an embedding is no `[B, D]`, labels are unknown, or an option does not fit.

    Where we differ: negatives are drawn with replacement, anew each step, on the device (RepDistiller: without, by
    NumPy); the memory moves after the backward pass, not in the forward. A queue takes any batch size. The goldens
    `crd` (RepDistiller), `crd_momentum` (the `distillers` repository; the same formula) and `crd_fifo` pin value,
    gradient and memory.

    >>> crd = CRD(8, 16, samples=20, labels=torch.arange(20) % 4, width=4, negatives=5)
    >>> crd(torch.randn(3, 8), torch.randn(3, 16), index=torch.tensor([4, 0, 9]), draw=torch.arange(3)).shape
    torch.Size([3])
    """

    needs = ("index", "draw")
    zero_at_match = False
    default_weight = 0.8
    default_taps = ("embedding", "embedding")
    matches = "contrast"
    weight_from = "RepDistiller's command"
    paper = "Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020. arXiv:1910.10699"

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        samples: int,
        labels: Tensor | None = None,
        *,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        memory: Literal["momentum", "fifo"] = "momentum",
        momentum: float = 0.5,
        exclude: Literal["class", "self"] = "class",
        order: Literal["enqueue_first", "score_first"] = "enqueue_first",
        initial: Literal["rows", "columns"] = "rows",
    ):
        super().__init__()
        if memory not in ("momentum", "fifo") or order not in ("enqueue_first", "score_first"):
            raise ValueError(
                "crd: memory must be 'momentum' or 'fifo' and order 'enqueue_first' or 'score_first', "
                f"got {memory!r} and {order!r}"
            )
        if temperature <= 0 or negatives < 1:
            raise ValueError(f"crd: temperature and negatives must be positive, got {temperature} and {negatives}")
        self.temperature, self.order = temperature, order
        self.student_head = nn.Linear(student_width, width)
        self.teacher_head = nn.Linear(teacher_width, width)
        if memory == "fifo":
            self.queue, self.needs = Queue(negatives, width, initial), ()
            self.scope = "batch" if order == "enqueue_first" else "unit"
        else:
            self.queue = None
            self.banks = Banks(samples, width, temperature, momentum)
            self.others = OtherSamples("crd", samples, labels, negatives, exclude)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_embeddings("crd", student, teacher)
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
            if self.queue is not None:
                return self._info_nce(u, v, self.queue.scored(v, self.order))
            rows = self.others.rows(index, draw, negatives)
            by_student, by_teacher = self.banks.log_probabilities(u, v, *rows)
            return self._nce(by_student) + self._nce(by_teacher)

    def prime(self, student, teacher, *, index=None, draw=None, negatives=None):
        if self.queue is None:
            rows = self.others.rows(index, draw, negatives)
            self.banks.prime(*self._embeddings(student, teacher), *rows)

    def update(self, student, teacher, *, index: Any = None, draw=None, negatives=None):
        u, v = self._embeddings(student, teacher)
        self.banks.update(u, v, index) if self.queue is None else self.queue.enqueue(v)

    def _embeddings(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return unit_embedding(self.student_head, student), unit_embedding(self.teacher_head, teacher)

    def _nce(self, log_p: Tensor) -> Tensor:
        """Eq. 18 of one anchor; the own sample stands first."""
        noise = (log_p.shape[1] - 1) / len(self.banks.student)
        log_ratio = log_p - math.log(noise)
        # log((P + noise + eps) / noise), of which float32 keeps the many small ones.
        return (log_ratio.exp() + EPS / noise).log1p().sum(1) - log_ratio[:, 0]

    def _info_nce(self, u: Tensor, v: Tensor, keys: Tensor) -> Tensor:
        logits = torch.cat([(u * v).sum(1, keepdim=True), u @ keys.T], 1) / self.temperature
        return -F.log_softmax(logits, dim=1)[:, 0]
