"""What MiniLLM's policy gradient learns from: texts of a mixture of student and teacher, and what each token was worth.

B prompts, R response positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potstill.language.generation import Ends, Rollout, Sampling, draw, limited, prefilled
from potstill.language.reading import checked_prompt, quiet, reader
from potstill.language.sequences import speaker
from potstill.language.views import PROMPT, PROMPT_MASK, rewritten
from potstill.language.writers import Writer
from potstill.types import Batch, Progress, Source

DATA = "data"
"""The view of the data's own texts, beside those that were written."""
CLIP = 100.0
"""Rewards lie in ± this."""


@dataclass(frozen=True)
class Trace:
    """A rollout with the log-probabilities `[B, R]` of its tokens: the student's, the teacher's, the mixture's."""

    rollout: Rollout
    student: Tensor
    teacher: Tensor
    mixture: Tensor


def mixed(
    student: nn.Module,
    teacher: nn.Module,
    prompt: Tensor,
    prompt_mask: Tensor,
    share: float,
    sampling: Sampling,
    ends: Ends,
    generator: torch.Generator,
    vocabulary: int | None = None,
) -> Trace:
    r"""Sample every token from $\tilde p = \alpha p + (1 - \alpha) q$, the teacher's and the student's law at
    temperature 1, with $\alpha$ = `share`.

    Raises ValueError as `generate` does.
    """
    new = sampling.max_new_tokens
    networks = {"student": student, "teacher": teacher}
    tokens, length, longest = checked_prompt(prompt, prompt_mask, new, networks)
    stop = torch.tensor(ends.stop, device=prompt.device)
    columns: list[tuple[Tensor, ...]] = []
    with quiet(student, teacher):
        readers = {name: reader(network, len(tokens), longest + new) for name, network in networks.items()}
        last = prefilled(readers, tokens, length)
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=prompt.device)
        for step in range(new):
            q, p = (
                limited(one.read(last[:, None], length - 1, longest + step)[:, -1], vocabulary).float().log_softmax(-1)
                for one in readers.values()
            )
            law = q if share == 0 else torch.logaddexp(p + math.log(share), q + math.log1p(-share))
            last = torch.where(ended, last, draw(law, sampling, generator))
            said = [side.gather(-1, last[:, None])[:, 0] for side in (q, p, law)]
            columns.append((last, ~ended, *said))
            length = length + (~ended).long()
            ended = ended | torch.isin(last, stop)
            if bool(ended.all()):
                break
    written, mask, *laws = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    rollout = Rollout(written.masked_fill(~mask, ends.pad), mask, ended)
    return Trace(rollout, *(law.masked_fill(~mask, 0.0) for law in laws))


def returns(reward: Tensor, mask: Tensor, discount: float) -> Tensor:
    r"""$R_t = \frac{1}{T - t + 1} \sum_{t' \ge t} \gamma^{t' - t} r_{t'}$ with t from 1 to a row's own length T, then
    whitened over all tokens that count.

    >>> returns(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, True]]), 0.5)
    tensor([[-0.7071,  0.7071]])
    """
    width = reward.shape[1]
    ahead = torch.arange(width, device=reward.device)[None] - torch.arange(width, device=reward.device)[:, None]
    weights = torch.where(ahead >= 0, discount ** ahead.clamp(min=0).to(reward.dtype), 0.0)
    left = mask.flip(1).cumsum(1).flip(1).clamp(min=1)
    total = (reward * mask) @ weights.T / left
    count = mask.sum()
    mean = (total * mask).sum() / count.clamp(min=1)
    deviation = ((total - mean).square() * mask).sum() / (count - 1).clamp(min=1)
    return (total - mean) * (deviation + 1e-8).rsqrt() * mask


class Traced(Writer):
    """Writes with `mixed`, and says of every token its advantage, the student's log-probability and its importance."""

    def __init__(
        self,
        ends: Ends,
        sampling: Sampling,
        share: float,
        scale: float,
        discount: float,
        vocabulary: int | None = None,
    ):
        super().__init__("minillm", ends, sampling, vocabulary)
        self.share, self.scale, self.discount = share, scale, discount

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch:
        main = batch.main
        trace = mixed(
            speaker(sources, "student", self.method),
            speaker(sources, "teacher", self.method),
            main.extras[PROMPT],
            main.extras[PROMPT_MASK],
            self.share,
            self.sampling,
            self.ends,
            self.generator(main.index.device, progress, seed),
            self.vocabulary,
        )
        self.tally.add(trace.rollout)
        reward = ((trace.teacher - trace.student) / self.scale).clamp(-CLIP, CLIP)
        extras = {
            "advantage": returns(reward, trace.rollout.mask, self.discount),
            "before": trace.student,
            "importance": (trace.student - trace.mixture).exp(),
        }
        return rewritten(batch.with_view(DATA, main), trace.rollout.tokens, trace.rollout.mask, **extras)
