"""What a network's own responses are worth: it answers validation prompts, and the answers are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from potstill.evaluation.scores import Measure
from potstill.language.generation import Ends, Sampling, generate
from potstill.language.scores import Measure as Scorer
from potstill.language.scores import cut
from potstill.language.views import padded
from potstill.language.vocabulary import real
from potstill.sources import evaluated

BATCH = 32


@dataclass
class Judge:
    """Greedy answers to prompts, compared with references.

    `prompts` are tokens, `texts` the same as they are read, `references` what may be answered. `stop` are strings at
    which an answer is cut before it is scored. `samples` are the answers of the network that was judged last.
    """

    tokenizer: Any
    prompts: Sequence[Sequence[int] | np.ndarray]
    texts: Sequence[str]
    references: Sequence[Sequence[str]]
    scores: Mapping[str, Scorer]
    ends: Ends
    longest: int
    stop: Sequence[str] = ()
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measures(self) -> list[Measure]:
        return [Measure(name, one.title, one.higher_is_better) for name, one in self.scores.items()]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The scores of a network by name."""
        answers = self.answers(model)
        rows = zip(self.texts, self.references, answers, strict=True)
        self.samples = [{"prompt": text, "references": list(some), "response": answer} for text, some, answer in rows]
        return {name: one.of(answers, self.references) for name, one in self.scores.items() if one.of is not None}

    def answers(self, model: nn.Module) -> list[str]:
        """What the network writes, as text, in the order of the prompts."""
        device = next(model.parameters()).device
        # Alike in length, so that little is padded; given back in their own order.
        order = sorted(range(len(self.prompts)), key=lambda row: len(self.prompts[row]))
        found: dict[int, str] = {}
        with evaluated(model):
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                prompt, mask = padded([self.prompts[row] for row in some], left=True, pad=self.ends.pad)
                rollout = generate(
                    model,
                    prompt.to(device),
                    mask.to(device),
                    Sampling(temperature=0.0, max_new_tokens=self.longest),
                    self.ends,
                    torch.Generator(device).manual_seed(0),
                    vocabulary=real(self.tokenizer),
                )
                written = (rollout.tokens * rollout.mask).tolist()
                counts = rollout.mask.sum(1).tolist()
                for row, ids, count in zip(some, written, counts, strict=True):
                    found[row] = cut(self.tokenizer.decode(ids[:count], skip_special_tokens=True), self.stop)
        return [found[row] for row in range(len(order))]
