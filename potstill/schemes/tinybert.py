"""TinyBERT: hidden states and attention first, then the predictions (Jiao et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.objectives import KD, AttentionMSE, HiddenMSE
from potstill.scheme import Scheme
from potstill.stages import Stage
from potstill.terms import Spec, Term


@dataclass(frozen=True)
class TinyBERT(Scheme):
    r"""Two stages: the student's layers learn from the teacher's, then its answers from the teacher's,

    $$L_1 = \sum_{m=1}^{M} \mathrm{MSE}(A^s_m, A^t_{g(m)}) + \sum_{m=0}^{M} \mathrm{MSE}(H^s_m W, H^t_{g(m)}),
      \qquad L_2 = T^2 \mathrm{KL}(p_t \,\|\, p_s).$$

    `attention_mse` and `hidden_mse` say what the sums are: N, the teacher's layers, must be a multiple of M, and both
    need as many attention heads (`attention=0` does without). Written beside it, another loss trains in the second
    stage too: `tinybert+ce:1`, or for scores in place of classes `tinybert+kd:0+score_mse`.

    Defaults: the authors' weights, `temperature=1`, and `share`, how many times the recipe's epochs the first stage
    lasts, at a constant learning rate: 10 of 3 as for SST-2 and QNLI (MNLI, QQP 5; MRPC, STS-B, RTE 20; CoLA 50).
    `pads` is that of both losses. The general stage, in front of any task, is the first stage on plain text:
    `hidden_mse` and `attention_mse` as terms.

    Where we differ: the code's soft cross-entropy is also divided by the number of classes, a factor that Adam does not
    see. Data augmentation (words replaced by BERT's and GloVe's neighbours) belongs to the data.

    Raises:
        ValueError: negative weights, or a share or temperature that is not positive.

    >>> [stage.name for stage in TinyBERT().before()], [term.label for term in TinyBERT().terms()]
    (['intermediate'], ['kd'])
    """

    attention: float = 1.0
    hidden: float = 1.0
    share: float = 10 / 3
    temperature: float = 1.0
    projection: str = "shared"
    pads: str = "ignored"
    paper: ClassVar[str] = HiddenMSE.paper
    wants: ClassVar[str] = "transformers that read the same tokens"
    matches: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        for name in ("attention", "hidden"):
            if getattr(self, name) < 0:
                raise ValueError(f"tinybert: the weight {name} must not be negative, got {getattr(self, name)}")
        if not self.attention + self.hidden:
            raise ValueError(
                "tinybert: attention and hidden are both 0, so its first stage has no loss; write kd instead"
            )
        for name in ("share", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tinybert: {name} must be positive, got {getattr(self, name)}")

    def before(self) -> tuple[Stage, ...]:
        scores = Spec.of(AttentionMSE, pads=self.pads)
        states = Spec.of(HiddenMSE, projection=self.projection, pads=self.pads)
        terms = (
            Term(scores, weight=self.attention, name="attention_mse"),
            Term(states, weight=self.hidden, name="hidden_mse"),
        )
        return (Stage("intermediate", tuple(term for term in terms if term.weight), share=self.share),)

    def terms(self) -> tuple[Term, ...]:
        return (Term(Spec.of(KD, temperature=self.temperature), name="kd"),)
