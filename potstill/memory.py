"""Memories of past embeddings, and negatives drawn from them. Owned by objectives, saved and resumed with them.

They change in an objective's `update` only; whatever else they offer has no side effect. Letters in shapes: B batch,
D width, N training samples, Q queue length, K drawn samples.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from potstill.functional import full_precision
from potstill.hashing import hash_index

FULL_BYTES = 64 * 2**20
"""Scores against a whole bank are computed up to this size; beyond it rows are gathered."""
BLOCK_BYTES = 16 * 2**20
"""Size of one block of gathered rows."""


def unit_embedding(head: nn.Linear, value: Float[Tensor, "B D_in"]) -> Float[Tensor, "B D"]:
    """The head's answer on the unit sphere, in the precision of its weights."""
    with full_precision(value):
        return F.normalize(head(value.to(head.weight.dtype)), dim=1)


class Queue(nn.Module):
    """The last Q embeddings; the newest overwrite the oldest, whatever the batch size.

    It starts with random directions. `initial="columns"` normalises them along the wrong axis, as released by the
    authors of RRD (rows of length about sqrt(D / Q)); it washes out once the queue was filled.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int, initial: Literal["rows", "columns"] = "rows"):
        super().__init__()
        if initial not in ("rows", "columns"):
            raise ValueError(f"initial must be 'rows' or 'columns', got {initial!r}")
        self.register_buffer("keys", F.normalize(torch.randn(size, width), dim=1 if initial == "rows" else 0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    def after(self, new: Float[Tensor, "B D"]) -> Float[Tensor, "Q D"]:
        """The keys as they will be once `new` is in the queue, without a gradient to `new`."""
        return self.keys.index_copy(0, *self._places(new))

    def scored(self, new: Float[Tensor, "B D"], order: str) -> Float[Tensor, "Q D"]:
        """The keys that `new` is compared with: its own are among them where the order is "enqueue_first"."""
        return self.after(new) if order == "enqueue_first" else self.keys

    def enqueue(self, new: Float[Tensor, "B D"]) -> None:
        self.keys.index_copy_(0, *self._places(new))
        self.pointer.add_(len(new)).remainder_(len(self.keys))

    def _places(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Where which embeddings go. Of a batch longer than the queue only the end stays."""
        kept = new[-len(self.keys) :].detach().to(self.keys.dtype)
        steps = torch.arange(len(new) - len(kept), len(new), device=new.device)
        return (self.pointer + steps) % len(self.keys), kept


class Banks(nn.Module):
    """One embedding of each network for every training sample, and what turns scores into probabilities.

    The probability of sample j for the anchor i is exp(<embedding_i, bank_j> / temperature) / Z: the student is
    compared with the teacher's bank and the teacher with the student's. `normalizer` holds both Z, negative until
    `prime` has measured them; until then Z is its expectation for random directions. Rows start uniform in
    ±1 / sqrt(D / 3) and move by `momentum`.
    """

    student: Tensor
    teacher: Tensor
    normalizer: Tensor

    def __init__(self, samples: int, width: int, temperature: float, momentum: float):
        super().__init__()
        if temperature <= 0 or not 0 <= momentum < 1:
            raise ValueError(f"expected temperature > 0 and momentum in [0, 1), got {temperature} and {momentum}")
        self.temperature, self.momentum = temperature, momentum
        bound = math.sqrt(3 / width)
        for side in ("student", "teacher"):
            self.register_buffer(side, torch.empty(samples, width).uniform_(-bound, bound))
        self.register_buffer("normalizer", torch.full((2,), -1.0))

    def log_probabilities(
        self,
        student: Float[Tensor, "B D"],
        teacher: Float[Tensor, "B D"],
        index: Int64[Tensor, "B"],
        negatives: Int64[Tensor, "B K"],
    ) -> tuple[Float[Tensor, "B K+1"], Float[Tensor, "B K+1"]]:
        """Of the own sample (first) and the negatives: by the student's embedding, by the teacher's."""
        random = min(0.5 / (student.shape[1] * self.temperature**2), 1 / self.temperature)
        log_z = torch.where(self.normalizer < 0, math.log(len(self.student)) + random, self.normalizer.log())
        of_student, of_teacher = self._scores(student, teacher, index, negatives)
        return of_student - log_z[0], of_teacher - log_z[1]

    def prime(self, student: Tensor, teacher: Tensor, index: Tensor, negatives: Tensor) -> None:
        """Z is the mean score of the first global batch times N; it is never set again."""
        scores = self._scores(student, teacher, index, negatives)
        measured = torch.stack([score.exp().mean() * len(self.student) for score in scores])
        self.normalizer.copy_(torch.where(self.normalizer < 0, measured, self.normalizer))

    def update(self, student: Float[Tensor, "B D"], teacher: Float[Tensor, "B D"], index: Int64[Tensor, "B"]) -> None:
        """Row `index` becomes momentum · row + (1 - momentum) · embedding, normalised."""
        # A sample that is twice in the batch gets its last value, also where copies run in parallel.
        places = torch.arange(len(index), device=index.device)
        last = torch.where(index[:, None] == index, places, 0).amax(1)
        for bank, new in ((self.student, student), (self.teacher, teacher)):
            mixed = self.momentum * bank[index] + (1 - self.momentum) * new.to(bank.dtype)
            bank.index_copy_(0, index, F.normalize(mixed, dim=1)[last])

    def _scores(self, student: Tensor, teacher: Tensor, index: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        picked = torch.cat([index[:, None], negatives], 1)
        return (
            picked_scores(student / self.temperature, self.teacher, picked),
            picked_scores(teacher / self.temperature, self.student, picked),
        )


class OtherSamples(nn.Module):
    """K samples of other classes for every anchor, uniform, with replacement, drawn where the tensors lie.

    In the samples sorted by class those of one class stand together, so that all others follow its end, once around:
    the order is kept twice, one after the other. `exclude="self"` leaves out the anchor alone.

    Raises ValueError where labels are unknown, do not fit, or know one class only.
    """

    order: Tensor
    kind: Tensor
    first: Tensor
    size: Tensor

    def __init__(self, name: str, samples: int, labels: Tensor | None, count: int, exclude: str = "class"):
        super().__init__()
        if exclude not in ("class", "self"):
            raise ValueError(f"{name}: exclude must be 'class' or 'self', got {exclude!r}")
        if exclude == "self":
            labels = torch.arange(samples)
        if labels is None:
            raise ValueError(
                f"{name}: negatives come from other classes, which needs the label of every training sample, and your "
                "data does not give them; hand over the data set or a pair of tensors instead of a loader, or choose "
                f"{name}(exclude=self) or {name}(memory=fifo)"
            )
        if labels.shape != (samples,):
            raise ValueError(f"{name}: labels have shape {list(labels.shape)}, expected one for each of {samples}")
        _, kind, size = labels.cpu().unique(return_inverse=True, return_counts=True)
        if len(size) < 2:
            raise ValueError(f"{name}: all {samples} training samples are alike, so there are no negatives")
        self.name, self.count = name, count
        # Functions of the data, not of training: made anew instead of saved.
        self.register_buffer("order", kind.argsort(stable=True).repeat(2), persistent=False)
        self.register_buffer("kind", kind, persistent=False)
        self.register_buffer("first", size.cumsum(0) - size, persistent=False)
        self.register_buffer("size", size, persistent=False)

    def rows(self, index: Tensor | None, draw: Tensor | None, negatives: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows of the banks: the own, and the negatives, drawn unless they are given."""
        if index is None or (draw is None and negatives is None):
            raise ValueError(f"{self.name}: a memory by sample needs index, and draw or negatives")
        return index, self(index, draw) if negatives is None else negatives

    def forward(self, index: Int64[Tensor, "B"], draw: Int64[Tensor, "B"]) -> Int64[Tensor, "B K"]:
        kind = self.kind[index]
        first, size = self.first[kind][:, None], self.size[kind][:, None]
        # Two numbers of 31 bits from one hash: N / 2**31 is the largest bias, 2e-5 for CIFAR.
        counters = draw[:, None] + torch.arange((self.count + 1) // 2, device=draw.device)
        bits = hash_index(counters, "negatives").view(torch.int32)[:, : self.count] & (2**31 - 1)
        return self.order[((bits * (len(self.kind) - size)) >> 31) + (first + size)]


def picked_scores(
    query: Float[Tensor, "B D"], bank: Float[Tensor, "N D"], index: Int64[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """<query_i, bank_j> for the rows j = index[i, :]; a gradient to the query, and never `[B, K, D]` in memory.

    One product with the whole bank and a gather (backward: a scatter and a product) as long as `[B, N]` is small;
    for larger banks (ImageNet) rows are gathered in blocks.
    """
    if query.shape[0] * bank.shape[0] * query.element_size() <= FULL_BYTES:
        return (query @ bank.T).gather(1, index)
    return _BlockedScores.apply(query, bank, index)


class _BlockedScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(bank, index)
        ctx.block = max(1, BLOCK_BYTES // (query.numel() * query.element_size()))
        blocks = [F.embedding(rows, bank) @ query[:, :, None] for rows in index.split(ctx.block, 1)]
        return torch.cat(blocks, 1)[..., 0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        bank, index = ctx.saved_tensors
        blocks = zip(gradient.split(ctx.block, 1), index.split(ctx.block, 1), strict=True)
        return sum((part[:, None] @ F.embedding(rows, bank))[:, 0] for part, rows in blocks), None, None
