"""SKD's interleaved sampling: the student proposes every token, the teacher replaces those it ranks badly.

B prompts, P their width, R response positions, V vocabulary, g tokens drafted at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from potstill.errors import did_you_mean
from potstill.language.acceptance import Acceptance, AcceptOn
from potstill.language.generation import (
    Ends,
    Page,
    Rollout,
    Sampling,
    draw,
    entropy,
    limited,
    prefilled,
    refuse_nan,
)
from potstill.language.reading import Reader, agreed, checked_prompt, quiet, reader, text_config

Tested = Literal["kept", "resampled"]

STUDENT = Sampling(temperature=0.5, top_p=0.5)
"""The student's sampler in the authors' release."""
TEACHER = Sampling(temperature=0.2, top_p=0.5)
"""The teacher's sampler in the authors' release."""
MOST_OVERLAP = 100


def as_released(teacher_sampling: Sampling = TEACHER) -> dict[str, Any]:
    """Keywords with which `interleave` samples as the authors' released code does, where that departs from the paper.

    The acceptance test sees the teacher after temperature and top-p, it looks at a token sampled anew and not at the
    one that is kept, and the student drafts with the teacher's sampler.
    """
    return {
        "accept_on": "warped",
        "tested": "resampled",
        "student_sampling": teacher_sampling,
        "teacher_sampling": teacher_sampling,
    }


def interleave(
    student: nn.Module,
    teacher: nn.Module,
    prompt: Tensor,
    prompt_mask: Tensor,
    *,
    ends: Ends,
    generator: torch.Generator,
    k: int = 25,
    draft: int = 5,
    student_sampling: Sampling = STUDENT,
    teacher_sampling: Sampling = TEACHER,
    accept_on: AcceptOn = "raw",
    teacher_p: float | None = None,
    decay: int = 0,
    tested: Tested = "kept",
    vocabulary: int | None = None,
    measure: bool = False,
) -> Rollout:
    r"""Write a response to each prompt together: student proposals, teacher replacements.

    $$ y_i \sim q(\cdot \mid y_{<i}, x); \quad y_i \notin \mathrm{topK}(p(\cdot \mid y_{<i}, x)) \Rightarrow
    y_i \sim p(\cdot \mid y_{<i}, x) $$

    so a token's law is `m = q·1[topK] + (1 − q(topK))·p`, with `q` and `p` the laws of the two samplers and topK by the
    teacher's raw logits. The student drafts `draft` tokens; one teacher forward scores them; the leading accepted ones
    stay, the first refused one becomes an ordinary teacher sample (not a residual one), what follows it is dropped. If
    all are accepted nothing is added. `draft=1` is the token-by-token form; the law is the same for any `draft`.

    Every row goes on from its own position: see slots.py. Rows that have ended are left out once they are half of
    the rows.

    Args:
        student: causal language model; like the teacher in evaluation mode without gradient, and unchanged afterwards.
        teacher: causal language model with the same token ids. Its logits may be wider or narrower.
        prompt: int64 `[B, P]`, padded on the left.
        prompt_mask: bool `[B, P]`, False on the padding.
        generator: on the networks' device; the same seed gives the same bits.
        k, accept_on, teacher_p, decay: see `potstill.language.acceptance.Acceptance`.
        draft: γ, 5 in the release.
        student_sampling: default temperature 0.5, top-p 0.5; its `max_new_tokens` bounds the response.
        teacher_sampling: default temperature 0.2, top-p 0.5; its `max_new_tokens` is not used.
        tested: "kept" tests the token that is kept; "resampled" (the release) tests another sample of the student's law
            and keeps the draft if that one passes.
        vocabulary: columns of the logits from here on are padding: never sampled, no rank. Default: all, or the
            smaller of the two widths.
        measure: also return the student's entropy and the overlap of the two top-k (`min(k, 100)`, or 25 with
            `teacher_p` or `k=0`) at every token.

    Returns:
        A `Rollout` with `replaced`: True where the teacher wrote the token.

    Raises:
        ValueError: see `checked_prompt`, `reader` and `Acceptance`; NaN logits.

    Where we differ from the authors' code: its acceptance test runs on the teacher's warped logits, lets tokens of
    probability 0 that `torch.topk` happens to pick pass, looks at a token sampled anew instead of the one that is
    kept, and drafts with the teacher's sampler; `as_released` gives all but the arbitrary ties. Its K decays per block,
    ours per token, so that the law does not depend on `draft`. Its `teacher_p` drops the token that crosses the mass,
    ours keeps it.

    Xu, Han, Wang, Le, Madeka, Li, Wang, Agarwal, Lee, Pfister: Speculative Knowledge Distillation: Bridging the
    Teacher-Student Gap Through Interleaved Sampling. ICLR 2025. arXiv:2410.11325
    """
    accepts = Acceptance(k, accept_on, teacher_p, decay)
    if draft < 1:
        raise ValueError(f"draft must be at least 1 token, got {draft}")
    if tested not in get_args(Tested):
        raise ValueError(f"tested={tested!r} is unknown; {did_you_mean(str(tested), get_args(Tested))}")
    new = student_sampling.max_new_tokens
    tokens, length, longest = checked_prompt(prompt, prompt_mask, new, {"student": student, "teacher": teacher})
    columns = vocabulary if vocabulary is not None else _shared_columns(student, teacher)
    top = min(k, MOST_OVERLAP) if k and teacher_p is None else 25
    page = Page.blank(len(tokens), new, draft, ends, prompt.device)
    with quiet(student, teacher):
        readers = {name: reader(m, len(tokens), longest + new + draft) for name, m in _named(student, teacher)}
        last = prefilled(readers, tokens, length)
        rows = torch.arange(len(tokens), device=prompt.device)
        done = torch.zeros_like(rows)
        bad = torch.zeros(2, dtype=torch.bool, device=prompt.device)
        room, width = new, longest
        while room:
            g = min(draft, room)
            proposal = _drafted(
                readers["student"], last, length, width, g, columns, student_sampling, generator, tested, measure
            )
            drafts = proposal.tokens
            read = torch.cat([last[:, None], drafts[:, :-1]], 1)
            logits = limited(readers["teacher"].read(read, length - 1, width - 1 + g), columns)
            wrong = torch.stack([proposal.bad, logits.amax(-1).isnan().any(1)])
            bad = bad | (wrong & (done < new)).any(1)
            place = done[:, None] + torch.arange(g, device=rows.device)
            accepted = accepts(logits, proposal.tested, place, teacher_sampling)
            block, count, replaced = _merged(drafts, accepted, logits, teacher_sampling, generator)
            stops = torch.isin(block, page.stop)
            count = torch.minimum(torch.minimum(count, _through_first(stops)), new - done)
            page.write(rows, done, block, count)
            page.note(rows, done, replaced=replaced)
            if proposal.logits is not None:
                ours = proposal.logits
                page.note(rows, done, entropy=entropy(ours), overlap=overlap(ours, logits, top))
            ended = (stops & (place - done[:, None] < count[:, None])).any(1)
            page.ended[rows] |= ended
            wrote = count > 0
            last = torch.where(wrote, block.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0], last)
            # A row that has ended stays where it is and writes nothing: its `done` says there is no room.
            length, done = length + count, torch.where(ended, new, done + count)
            alive = done < new
            shared = agreed(torch.stack([new - done.min(), bad.any().long()]), student, teacher)
            room, failed, width, going = torch.cat([shared, torch.stack([length.max(), alive.sum()])]).tolist()
            if failed:
                break
            if room and 0 < 2 * going <= len(rows):
                stay = alive.nonzero()[:, 0]
                for network in readers.values():
                    network.keep(stay)
                rows, last, length, done = rows[stay], last[stay], length[stay], done[stay]
                width = int(length.max())
    refuse_nan(bad[0], "student")
    refuse_nan(bad[1], "teacher")
    return page.rollout()


def overlap(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """The share of the teacher's top-k that is in the student's top-k, over the last dimension of two logits."""
    k = min(k, student.shape[-1])
    ours, theirs = (logits.topk(k).indices for logits in (student, teacher))
    return (ours[..., :, None] == theirs[..., None, :]).any(-1).float().mean(-1)


@dataclass
class Proposal:
    """What a student drafted."""

    tokens: Tensor
    """`[B, g]`"""
    tested: Tensor
    """`[B, g]`: the tokens that the teacher is asked about."""
    bad: Tensor
    """bool `[B]`: NaN logits."""
    logits: Tensor | None
    """`[B, g, V]` if they are wanted."""


def _drafted(
    student: Reader,
    last: Tensor,
    length: Tensor,
    width: int,
    g: int,
    columns: int | None,
    sampling: Sampling,
    generator: torch.Generator,
    tested: Tested,
    measure: bool,
) -> Proposal:
    drafts, others, kept = [], [], []
    token, bad = last, torch.zeros_like(last, dtype=torch.bool)
    for j in range(g):
        logits = limited(student.read(token[:, None], length - 1 + j, width + j)[:, -1], columns)
        bad = bad | logits.amax(-1).isnan()
        token = draw(logits, sampling, generator)
        drafts.append(token)
        if tested == "resampled":
            others.append(draw(logits, sampling, generator))
        if measure:
            kept.append(logits)
    tokens = torch.stack(drafts, 1)
    return Proposal(tokens, torch.stack(others, 1) if others else tokens, bad, torch.stack(kept, 1) if kept else None)


def _merged(
    drafts: Tensor, accepted: Tensor, logits: Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Accepted tokens and the replacement `[B, g]`, how many of them count `[B]`, and which one is the replacement."""
    g = drafts.shape[1]
    kept = accepted.long().cumprod(1).sum(1)
    at = kept.clamp(max=g - 1)[:, None]
    chosen = draw(logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))[:, 0], sampling, generator)
    refused = kept < g
    replaced = torch.zeros_like(accepted).scatter(1, at, refused[:, None])
    return torch.where(replaced, chosen[:, None], drafts), kept + refused.long(), replaced


def _through_first(stops: Tensor) -> Tensor:
    """How many of each row's tokens there are up to the first stop, that one included; a large number without one."""
    return torch.where(stops.any(1), stops.long().argmax(1) + 1, torch.iinfo(torch.int64).max)


def _named(student: nn.Module, teacher: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    return ("student", student), ("teacher", teacher)


def _shared_columns(student: nn.Module, teacher: nn.Module) -> int | None:
    widths = [getattr(text_config(network), "vocab_size", None) for network in (student, teacher)]
    known = [width for width in widths if width is not None]
    return min(known) if len(known) == 2 and known[0] != known[1] else None
