"""Divergences between what student and teacher predict, token by token: the losses of language distillation.

Throughout, P is the teacher's softmax(z_t / T) and Q the student's softmax(z_s / T).
"""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from potstill.functional import kl, log_laws, same_classes
from potstill.types import Objective, TopLogits


class Divergence(Objective):
    """The divergence of two distributions, each a softmax at `temperature` (1, as published).

    There is no factor $T^2$. Over a large vocabulary both sides may be LazyLogits. Of a teacher of which only the k
    largest probabilities are known (TopLogits), it is the divergence over k + 1 classes, these and one for all others:
    the same for k = V, else a lower bound. A logit of -inf is a probability of 0 without gradient. Raises ValueError
    for a temperature that is not positive, for a share outside its range, or for networks with different numbers of
    classes.
    """

    matches = "logits"
    lazy = True
    takes_top = True

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"{type(self).__name__}: temperature must be positive, got {temperature}")
        self.temperature = temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes(cls.__name__, student, teacher)
        return cls(**kw)

    def forward(
        self, student: Float[Tensor, "*B V"], teacher: Float[Tensor, "*B V"] | TopLogits
    ) -> Float[Tensor, "*B"]:
        return self.between(*log_laws(student, teacher, self.temperature))

    @abstractmethod
    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """From log-probabilities: the teacher's, then the student's."""
        raise NotImplementedError

    def share(self, name: str, value: float, below_one: bool = False) -> float:
        if not 0 <= value <= 1 or (below_one and value == 1):
            raise ValueError(f"{type(self).__name__}: {name} must lie in [0, 1{')' if below_one else ']'}, got {value}")
        return value


class ForwardKL(Divergence):
    r"""$KL(P \| Q) = \sum_v p_v (\log p_v - \log q_v)$: word-level distillation, which covers the teacher's mass.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `temperature=1`, no label term.

    Where we differ: DistiLLM's code leaves out the teacher's entropy, a constant. The golden `forward_kl` (TRL) pins
    value and gradient, `distillm_forward_kl` the gradient, and the value less that constant.
    """

    paper_terms = "ce:0+forward_kl:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = "Kim, Rush: Sequence-Level Knowledge Distillation. EMNLP 2016. arXiv:1606.07947"

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return kl(p, q)


class ReverseKL(Divergence):
    r"""$KL(Q \| P) = \sum_v q_v (\log q_v - \log p_v)$, which seeks one of the teacher's modes.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `temperature=1`, no label term.

    Where we differ: MiniLLM takes the divergence of whole sequences, by policy gradient; this is its single step, over
    the full vocabulary. Goldens `reverse_kl` (TRL) and `distillm_reverse_kl` pin value and gradient.
    """

    paper_terms = "ce:0+reverse_kl:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = (
        "Gu, Dong, Wei, Huang: MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024. arXiv:2306.08543"
    )

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return kl(q, p)


class SymmetricKL(Divergence):
    r"""$(1 - \beta) KL(P \| Q) + \beta KL(Q \| P)$.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `beta=0.5` (DistiLLM's code: 0.9), `temperature=1`, no label term.

    Where we differ: DistiLLM's code leaves out the teacher's entropy, a constant. The golden `distillm_symmetric_kl`
    pins the gradient, and the value less that constant.
    """

    paper_terms = "ce:0+symmetric_kl:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = (
        "Ko, Kim, Chen, Yun: DistiLLM: Towards Streamlined Distillation for Large Language Models. "
        "ICML 2024. arXiv:2402.03898"
    )

    def __init__(self, beta: float = 0.5, temperature: float = 1.0):
        super().__init__(temperature)
        self.beta = self.share("beta", beta)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return (1 - self.beta) * kl(p, q) + self.beta * kl(q, p)


class TVD(Divergence):
    r"""Total variation: $\frac{1}{2} \sum_v |p_v - q_v|$, in [0, 1].

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `temperature=1`, no label term.

    Where we differ: the paper averages it over sequences of the teacher and of the student; which sequences a loss
    sees is not its own choice. The golden `distillm_tv_distance` pins value and gradient.
    """

    paper_terms = "ce:0+tvd:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = (
        "Wen, Li, Du, Mou: f-Divergence Minimization for Sequence-Level Knowledge Distillation. "
        "ACL 2023. arXiv:2307.15190"
    )

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return (p.exp() - q.exp()).abs().sum(-1) / 2
