"""GOLD: general online logit distillation, between two tokenizers by the bytes that their tokens cover (2025)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from potstill.functional import jsd, log_probabilities, sorted_l1
from potstill.types import Objective

EPS = 1e-8
"""The least probability of an actual token that enters a product (TRL's)."""


class GOLD(Objective):
    r"""Tokens of both sides that cover the same bytes are a group g, each group one distribution on either side:

    $$\tilde p_g(v) = p(v \mid y_{<e}) \prod_{k \in g, \, k < e} \max(p(y_k \mid y_{<k}), \epsilon), \qquad
    L_g = \sum_i |\tilde p_{(i),g} - \tilde q_{(i),g}|,$$

    where $e$ is the last token of the group (`merge=bayesian`, the chain rule; `observed`: the first token's
    distribution, and the later ones' probabilities) and entries are in descending order, as in ULD. `hybrid`: entries
    of tokens that both vocabularies have are compared by name and the others in descending order,

    $$L_g = w \, JSD_\beta(\tilde P \| \tilde Q) + (1 - w) \sum_{i \notin M} |\tilde p_{(i),g} - \tilde q_{(i),g}|,$$

    with $w$ the share of the teacher's vocabulary that is matched, or both weights as given. Merged rows do not sum to
    one; at the ends of $\beta$ the difference of masses is added (I-divergence). A group's loss stands at its last
    student token, such that a sample's mean over its tokens is its mean over groups.

    Shapes: logits `[B, R, V]` of the student and `[B, Q, W]` of the teacher; `label`, `group` and `mask` `[B, R]`,
    `teacher_label` and `teacher_group` `[B, Q]`: actual tokens, and the numbers of their groups, ascending from 0, -1
    for tokens in none (`potstill.language.alignment.aligned` makes them) -> `[B, R]`. `matched` `[2, M]`, for
    `hybrid`: ids of common tokens, the student's and the teacher's.

    Defaults: `beta=0.5`, `temperature=1`, `hybrid=False`, no label term: TRL's.

    Where we differ: TRL takes `observed` by default and an answer slice that is one position late with it; `bayesian`
    is the one whose rows belong together. `EPS` bounds the probabilities of actual tokens alone, as there. No golden.

    Raises ValueError for an unknown merge, a beta outside [0, 1], a single weight, and `hybrid` without common tokens.
    """

    common: Tensor
    mine: Tensor
    theirs: Tensor
    needs = ("mask", "label", "group", "teacher_label", "teacher_group")
    matches = "logits"
    wants = "texts cut by two tokenizers (potstill.language.crossing)"
    weight_from = "TRL"
    default_taps = ("output", "teacher:output@teacher")
    paper_terms = "ce:0+gold:1"
    paper = (
        "Patiño, Rasul, Gallouédec, Burtenshaw, Paniego, Srivastav, Frere, Beeching, Tunstall, von Werra, Wolf: "
        "Unlocking On-Policy Distillation for Any Model Family. HuggingFace 2025."
    )

    def __init__(
        self,
        vocabularies: tuple[int, int],
        matched: Int64[Tensor, "2 M"] | None = None,
        hybrid: bool = False,
        merge: str = "bayesian",
        beta: float = 0.5,
        temperature: float = 1.0,
        matched_weight: float | None = None,
        unmatched_weight: float | None = None,
    ):
        super().__init__()
        if merge not in ("bayesian", "observed") or not 0 <= beta <= 1 or temperature <= 0:
            wanted = "merge 'bayesian' or 'observed', beta in [0, 1], temperature above 0"
            raise ValueError(f"GOLD: expected {wanted}; got {merge!r}, {beta} and {temperature}")
        if (matched_weight is None) != (unmatched_weight is None):
            raise ValueError("GOLD: give both matched_weight and unmatched_weight, or none of them")
        self.hybrid, self.bayesian, self.beta, self.temperature = hybrid, merge == "bayesian", beta, temperature
        if hybrid:
            share = self._match(vocabularies, matched)
            given = matched_weight is not None and unmatched_weight is not None
            self.weights = (matched_weight, unmatched_weight) if given else (share, 1 - share)

    def _match(self, vocabularies: tuple[int, int], matched: Tensor | None) -> float:
        """The columns of both sides that are compared by name, and those left; the share of the teacher's."""
        if matched is None:
            raise ValueError("GOLD: hybrid needs matched [2, M], ids of common tokens (language.pieces.matched)")
        for side, size in zip(matched, vocabularies, strict=True):
            if len(side) and not 0 <= int(side.min()) <= int(side.max()) < size:
                raise ValueError(f"GOLD: matched names token {int(side.max())}, and a side answers with {size} logits")
        self.register_buffer("common", matched.clone(), persistent=False)
        for name, side, size in zip(("mine", "theirs"), matched.cpu(), vocabularies, strict=True):
            left = torch.ones(size, dtype=torch.bool).index_fill(0, side, False)
            self.register_buffer(name, left.nonzero().flatten(), persistent=False)
        return matched.shape[1] / vocabularies[1]

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if student.ndim != 3 or teacher.ndim != 3:
            raise ValueError(f"GOLD: expected logits [B, R, V]; got {list(student.shape)} and {list(teacher.shape)}")
        return cls((student.shape[-1], teacher.shape[-1]), **{"matched": data.matched, **kw})

    def forward(
        self,
        student: Float[Tensor, "B R V"],
        teacher: Float[Tensor, "B Q W"],
        mask: Bool[Tensor, "B *R"],
        label: Int64[Tensor, "B R"],
        group: Int64[Tensor, "B R"],
        teacher_label: Int64[Tensor, "B Q"],
        teacher_group: Int64[Tensor, "B Q"],
    ) -> Float[Tensor, "B R"]:
        slots = group.clamp(min=0)  # a row for each student token; those that close a group count
        q = self._merged(student, label, group, slots)
        p = self._merged(teacher, teacher_label, teacher_group, slots)
        closes = _edges(group, last=True) & (mask if mask.ndim == 2 else mask[:, None])
        counted = mask.sum(1, keepdim=True) if mask.ndim == 2 else group.shape[1] * mask[:, None]
        share = counted.to(q.dtype) / closes.sum(1, keepdim=True).clamp(min=1)
        return torch.where(closes, self._between(p, q) * share, 0)

    def _merged(self, logits: Tensor, label: Tensor, group: Tensor, slots: Tensor) -> Float[Tensor, "B R V"]:
        """Logarithms of the merged rows of each slot's group."""
        log = log_probabilities(logits, self.temperature)
        base = _edges(group, last=self.bayesian)
        places = torch.arange(group.shape[1], device=group.device).expand_as(group)
        none = slots.shape[1]  # a group that nobody asks for
        size = (len(group), none + 1)
        at = places.new_zeros(size).scatter(1, group.where(base, none), places).gather(1, slots)
        actual = log.gather(2, label[..., None])[..., 0].clamp(min=math.log(EPS))
        others = group.where((group >= 0) & ~base, none)
        factor = actual.new_zeros(size).scatter_add(1, others, actual).gather(1, slots)
        rows = log.gather(1, at[..., None].expand(-1, -1, log.shape[2])) + factor[..., None]
        return rows.clamp(min=torch.finfo(rows.dtype).min)

    def _between(self, p: Tensor, q: Tensor) -> Float[Tensor, "B R"]:
        """From logarithms of merged rows: the teacher's, then the student's."""
        if not self.hybrid:
            return sorted_l1(p.exp(), q.exp())
        common_q, common_p = q.index_select(2, self.common[0]), p.index_select(2, self.common[1])
        named = jsd(common_p, common_q, self.beta)
        if self.beta in (0, 1):
            named = named + (1 - 2 * self.beta) * (common_q.exp() - common_p.exp()).sum(2)
        rest = sorted_l1(p.index_select(2, self.theirs).exp(), q.index_select(2, self.mine).exp())
        return self.weights[0] * named + self.weights[1] * rest


def _edges(group: Int64[Tensor, "B R"], last: bool) -> Bool[Tensor, "B R"]:
    """Which tokens are the last (or the first) of their group."""
    neighbour = F.pad(group[:, 1:], (0, 1), value=-1) if last else F.pad(group[:, :-1], (1, 0), value=-1)
    return (group >= 0) & (group != neighbour)
