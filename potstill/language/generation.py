"""Text from a causal network: batched sampling with a cache, from a generator of its own.

B prompts, P their width, R response positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potstill.language.reading import Reader, agreed, checked_prompt, quiet, reader

CANDIDATES = 64
"""On a CPU the nucleus is first looked for among so many tokens: sorting all can cost more than a small network."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from logits: temperature, then top-k, then top-p, as in transformers."""

    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus: the smallest set of most probable tokens that holds this mass; 1 keeps all."""
    top_k: int = 0
    """Only so many most probable tokens (and what ties with the last of them); 0 keeps all."""
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a number of at least 0 (0 is greedy), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1] (1 keeps all tokens), got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 keeps all tokens), got {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


@dataclass(frozen=True)
class Ends:
    """What ends a text, and what fills the rest of its row."""

    stop: tuple[int, ...]
    """Token ids that end a text (they belong to it); () writes on to the maximum length."""
    pad: int

    def __post_init__(self) -> None:
        if any(token < 0 for token in (*self.stop, self.pad)):
            raise ValueError(f"token ids are at least 0, got stop {self.stop} and pad {self.pad}")


@dataclass(frozen=True)
class Rollout:
    """Texts that a network wrote, right-padded. Carries no gradient."""

    tokens: Tensor
    """int64 `[B, R]`, `Ends.pad` where `mask` is False."""
    mask: Tensor
    """bool `[B, R]`, True for every generated token, the end-of-text token included."""
    ended: Tensor
    """bool `[B]`: a stop token was written (False: cut at the maximum length)."""
    replaced: Tensor | None = None
    """bool `[B, R]`, speculative sampling: the teacher wrote this token."""
    entropy: Tensor | None = None
    """float32 `[B, R]`, if measured: the entropy in nats of the writer's law at temperature 1; 0 where not `mask`."""
    overlap: Tensor | None = None
    """float32 `[B, R]`, if measured: the share of the teacher's top-k that is in the student's; 0 where not `mask`."""


def warped(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits of the law that is sampled from, in at least float32: what is cut off is `-inf`.

    Temperature, then top-k, then top-p, by transformers' definitions: top-k keeps what ties with the k-th logit; top-p
    keeps a token if the tokens before it (in descending order, after top-k) hold less than `top_p`. Temperature 0
    leaves the largest logit alone (the first of equal ones).

    >>> warped(torch.tensor([2.0, 1.0, 0.0]), Sampling(temperature=0.5, top_k=2))
    tensor([4., 2., -inf])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if sampling.temperature == 0:
        best = torch.full_like(logits, -torch.inf)
        return best.scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        out = _before(ordered.softmax(-1)) >= sampling.top_p
        out[..., 0] = False
        logits = logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)
    return logits


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token for each row of `logits` `[N, V]`: int64 `[N]`, by the law of `warped`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    if sampling.top_p < 1 and sampling.top_k == 0 and logits.device.type == "cpu":
        found = _draw_nucleus(logits, sampling, generator)
        if found is not None:
            return found
    return _race(warped(logits, sampling).softmax(-1), generator)


def _draw_nucleus(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor | None:
    """`draw` without sorting the vocabulary; None where a nucleus has more than `CANDIDATES` tokens."""
    scaled = warped(logits, Sampling(sampling.temperature))
    highest, token = scaled.topk(min(CANDIDATES, scaled.shape[-1]))
    chance = (highest - scaled.logsumexp(-1, keepdim=True)).exp()
    before = _before(chance)
    if chance.shape[-1] < scaled.shape[-1] and not bool(((before + chance)[:, -1] >= sampling.top_p).all()):
        return None
    inside = before < sampling.top_p
    inside[:, 0] = True
    return token.gather(-1, _race(chance * inside, generator)[:, None])[:, 0]


def _before(chance: Tensor) -> Tensor:
    """The mass in front of each entry of the last dimension."""
    return chance.cumsum(-1) - chance


def _race(chance: Tensor, generator: torch.Generator) -> Tensor:
    """An index `[N]` with the (unnormalised) chances `[N, C]`: exponential clocks, the first one to ring wins.

    Unlike an inverted cumulative sum it loses no precision in a large vocabulary, and needs no host.
    """
    clocks = torch.empty_like(chance).exponential_(generator=generator)
    # A clock of exactly 0 would let a token of chance 0 win as 0/0.
    return (chance / clocks.clamp_(min=torch.finfo(chance.dtype).tiny)).argmax(-1)


def limited(logits: Tensor, vocabulary: int | None) -> Tensor:
    """Logits without the padded columns behind the real vocabulary."""
    return logits if vocabulary is None else logits[..., :vocabulary]


def entropy(logits: Tensor) -> Tensor:
    """The entropy in nats of `softmax(logits)` over the last dimension, float32; `-inf` logits count as 0."""
    log = logits.float().log_softmax(-1)
    return -(log.exp() * log.clamp(min=torch.finfo(log.dtype).min)).sum(-1)


def generate(
    model: nn.Module,
    prompt: Tensor,
    prompt_mask: Tensor,
    sampling: Sampling,
    ends: Ends,
    generator: torch.Generator,
    *,
    vocabulary: int | None = None,
    measure: bool = False,
    sync_every: int | None = None,
) -> Rollout:
    """Continue each prompt until it writes a stop token or `sampling.max_new_tokens` tokens.

    Args:
        model: a causal language model of transformers (or one in a peft wrapper). It runs in evaluation mode without
            gradient and comes back unchanged.
        prompt: int64 `[B, P]`, padded on the left.
        prompt_mask: bool `[B, P]`, False on the padding.
        generator: on the model's device; all randomness comes from it, so the same seed gives the same bits.
        vocabulary: columns of the logits from here on are padding and never sampled.
        measure: also return `Rollout.entropy`.
        sync_every: ask the device only after so many tokens whether all rows have ended (default: 1 on a CPU, where
            asking costs nothing, 8 elsewhere). When half of the rows have ended they are left out from then on.

    Raises:
        ValueError: see `checked_prompt` and `reader`; NaN logits.
    """
    sync_every = sync_every or (1 if prompt.device.type == "cpu" else 8)
    new = sampling.max_new_tokens
    tokens, length, longest = checked_prompt(prompt, prompt_mask, new, {"network": model})
    page = Page.blank(len(prompt), new, 0, ends, prompt.device)
    with quiet(model):
        network = reader(model, len(tokens), longest + new)
        last = prefilled({"network": network}, tokens, length)
        rows = torch.arange(len(tokens), device=prompt.device)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        bad = torch.zeros((), dtype=torch.bool, device=prompt.device)
        for step in range(new):
            logits = limited(network.read(last[:, None], length - 1, longest + step)[:, -1], vocabulary)
            bad = bad | (logits.amax(-1).isnan() & ~ended).any()
            last = torch.where(ended, last, draw(logits, sampling, generator))
            page.write(rows, torch.full_like(rows, step), last[:, None], (~ended).long())
            if measure:
                page.note(rows, torch.full_like(rows, step), entropy=entropy(logits)[:, None])
            length = length + (~ended).long()
            ended = ended | torch.isin(last, page.stop)
            if (step + 1) % sync_every == 0 and step + 1 < new:
                going = (~ended).sum()
                most, wrong = agreed(torch.stack([going, bad.long()]), model).tolist()
                if wrong or not most:
                    break
                if 0 < 2 * int(going) <= len(rows):
                    page.ended[rows] = ended
                    alive = (~ended).nonzero()[:, 0]
                    network.keep(alive)
                    rows, last, length, ended = rows[alive], last[alive], length[alive], ended[alive]
        page.ended[rows] = ended
    refuse_nan(bad, "network")
    return page.rollout()


def prefilled(readers: Mapping[str, Reader], tokens: Tensor, length: Tensor) -> Tensor:
    """Let networks read all but the last token of right-padded prompts; the answer is that last token `[B]`.

    What they read of the padding lies behind the text and is overwritten before anything looks at it.
    """
    most = max(tokens.shape[1] - 1, 1)
    for network in readers.values():
        network.read(tokens[:, :most], torch.zeros_like(length), most, last=True)
    return tokens.gather(1, length[:, None] - 1)[:, 0]


def refuse_nan(bad: Tensor, who: str) -> None:
    if bool(bad):
        raise ValueError(
            f"the {who} gave NaN logits: nothing can be sampled from them; check its weights and precision"
        )


@dataclass
class Page:
    """What is being written: rows that grow by different amounts, and whatever stands behind a row's end is scrap."""

    tokens: Tensor
    count: Tensor
    ended: Tensor
    stop: Tensor
    pad: int
    width: int
    notes: dict[str, Tensor]

    @staticmethod
    def blank(rows: int, width: int, spare: int, ends: Ends, device: torch.device) -> Page:
        """`spare`: how far a row may be written beyond `width`."""
        tokens = torch.full((rows, width + spare), ends.pad, device=device)
        count = torch.zeros(rows, dtype=torch.int64, device=device)
        stop = torch.tensor(ends.stop, dtype=torch.int64, device=device)
        return Page(tokens, count, torch.zeros_like(count, dtype=torch.bool), stop, ends.pad, width, {})

    def write(self, rows: Tensor, start: Tensor, tokens: Tensor, count: Tensor) -> None:
        """Put `tokens` `[N, q]` into `rows` `[N]` from `start` `[N]` on; the first `count` `[N]` of them stay."""
        self.tokens[rows[:, None], self._columns(start, tokens)] = tokens
        self.count[rows] += count

    def note(self, rows: Tensor, start: Tensor, **values: Tensor) -> None:
        """Values `[N, q]` beside the tokens, at the same places."""
        for name, value in values.items():
            if name not in self.notes:
                self.notes[name] = torch.zeros(self.tokens.shape, dtype=value.dtype, device=value.device)
            self.notes[name][rows[:, None], self._columns(start, value)] = value

    def rollout(self) -> Rollout:
        mask = torch.arange(self.width, device=self.tokens.device) < self.count[:, None]
        tokens = self.tokens[:, : self.width].masked_fill(~mask, self.pad)
        notes = {name: value[:, : self.width].masked_fill(~mask, 0) for name, value in self.notes.items()}
        return Rollout(tokens, mask, self.ended, **notes)

    @staticmethod
    def _columns(start: Tensor, values: Tensor) -> Tensor:
        return start[:, None] + torch.arange(values.shape[1], device=start.device)
