"""Divergences from a mixture of student and teacher: generalised JSD (GKD), the skewed KLs (DistiLLM), SKD's own.

P is the teacher's softmax(z_t / T), Q the student's. The gradient flows through the mixture.
"""

from __future__ import annotations

from torch import Tensor

from potstill.functional import jsd, kl, mixture
from potstill.objectives.divergences import Divergence


class JSD(Divergence):
    r"""Generalised Jensen-Shannon: $\beta KL(P \| M) + (1 - \beta) KL(Q \| M)$, $M = \beta P + (1 - \beta) Q$.

    At the ends, where that is 0, it is what it tends to when divided by its weight: forward KL for $\beta = 0$, reverse
    KL for $\beta = 1$.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `beta=0.5`, `temperature=1`, no label term: TRL's. The paper takes `beta=0.1` for
    translation and 0.9 for summaries.

    Where we differ: nothing from TRL; the golden `gjsd` pins value and gradient. DistiLLM's `js_distance` with share
    `lam` is `beta = 1 - lam`, pinned by `distillm_js_distance`.
    """

    paper_terms = "ce:0+jsd:1"
    weight_from = "TRL"
    paper = (
        "Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem: On-Policy Distillation of Language Models: "
        "Learning from Self-Generated Mistakes. ICLR 2024. arXiv:2306.13649"
    )

    def __init__(self, beta: float = 0.5, temperature: float = 1.0):
        super().__init__(temperature)
        self.beta = self.share("beta", beta)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return jsd(p, q, self.beta)


class SkewKL(Divergence):
    r"""$KL(P \| \alpha P + (1 - \alpha) Q)$: forward KL with a bounded gradient where the student gives no probability.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `alpha=0.1`, `temperature=1`, no label term: the authors'; `alpha=0` is forward KL.

    Where we differ: the authors' code leaves out the teacher's entropy, a constant. The golden
    `distillm_skewed_forward_kl` pins the gradient, and the value less that constant.
    """

    paper_terms = "ce:0+skew_kl:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = (
        "Ko, Kim, Chen, Yun: DistiLLM: Towards Streamlined Distillation for Large Language Models. "
        "ICML 2024. arXiv:2402.03898"
    )

    def __init__(self, alpha: float = 0.1, temperature: float = 1.0):
        super().__init__(temperature)
        self.alpha = self.share("alpha", alpha, below_one=True)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return kl(p, mixture(p, q, self.alpha) if self.alpha else q)


class SkewReverseKL(Divergence):
    r"""$KL(Q \| (1 - \alpha) P + \alpha Q)$: reverse KL, bounded where the teacher gives no probability.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `alpha=0.1`, `temperature=1`, no label term: the authors'; `alpha=0` is reverse KL.

    Where we differ: nothing; the golden `distillm_skewed_reverse_kl` pins value and gradient.
    """

    paper_terms = "ce:0+skew_reverse_kl:1"
    weight_from = "DistiLLM's scripts (no label term)"
    paper = SkewKL.paper

    def __init__(self, alpha: float = 0.1, temperature: float = 1.0):
        super().__init__(temperature)
        self.alpha = self.share("alpha", alpha, below_one=True)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return kl(q, mixture(q, p, self.alpha) if self.alpha else p)


class MixtureKL(Divergence):
    r"""$\frac{1}{2} KL(M \| P) + \frac{1}{2} KL(M \| Q)$, $M = \frac{1}{2} (P + Q)$: what SKD's code calls "jsd".

    It is Jensen-Shannon with its arguments the other way round; unlike that, it is not bounded where one side gives no
    probability. The paper's is `jsd`.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `temperature=1`, no label term.

    Where we differ: nothing that is known; no golden pins it.
    """

    paper_terms = "ce:0+mixture_kl:1"
    weight_from = "SKD's code (no label term)"
    paper = (
        "Xu, Han, Wang, Le, Madeka, Li, Wang, Agarwal, Lee, Pfister: Speculative Knowledge Distillation: Bridging the "
        "Teacher-Student Gap Through Interleaved Sampling. ICLR 2025. arXiv:2410.11325"
    )

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        middle = mixture(p, q, 0.5)
        return (kl(middle, p) + kl(middle, q)) / 2
