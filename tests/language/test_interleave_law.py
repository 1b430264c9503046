"""The law of SKD's interleaved sampling: enumerated over whole texts, against frequencies."""

from collections import Counter
from itertools import product

import pytest
import torch
from causal_networks import Table
from scipy.stats import chisquare

from potstill.language.generation import Ends, Sampling
from potstill.language.speculative import as_released, interleave

PLAIN = Sampling(max_new_tokens=3)
STOP = 3


def tables(seed: int, sharp: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, 4, generator=generator, dtype=torch.float64) * sharp).softmax(-1)


def one_token(p, q, k):
    """m = q·1[topK] + (1 − q(topK))·p, written out."""
    inside = sorted(range(len(p)), key=lambda token: -p[token])[:k]
    share = sum(q[token] for token in inside)
    return [(q[token] if token in inside else 0.0) + (1 - share) * p[token] for token in range(len(p))]


def texts(prompt, p, q, k, longest=3):
    """Every text that can be written after `prompt`, with its probability."""
    law: dict[tuple[int, ...], float] = {}

    def go_on(written, chance):
        if len(written) == longest or STOP in written:
            law[written] = law.get(written, 0.0) + chance
            return
        row = (sum(prompt) + sum(written)) % len(p)
        most = k(len(written)) if callable(k) else k
        for token, more in enumerate(one_token(p[row].tolist(), q[row].tolist(), most)):
            go_on((*written, token), chance * more)

    go_on((), 1.0)
    return law


def fits(rollout, rows, law):
    """The p-value of Pearson's test that these rows of a rollout come from `law`; impossible texts give 0."""
    counts = Counter(
        tuple(token for token, real in zip(text, mask, strict=True) if real)
        for text, mask in zip(rollout.tokens[rows].tolist(), rollout.mask[rows].tolist(), strict=True)
    )
    if set(counts) - {text for text, chance in law.items() if chance > 0}:
        return 0.0
    total = sum(counts.values())
    often = [text for text, chance in law.items() if chance * total >= 5]
    seen = [counts[text] for text in often]
    expected = [law[text] * total for text in often]
    return chisquare([*seen, total - sum(seen) + 1e-9], [*expected, total - sum(expected) + 1e-9]).pvalue


def sampled(p, q, rows=5000, seed=0, **settings):
    """Half of the rows continue the prompt (1,), half of them (2, 1, 2)."""
    prompt = torch.tensor([[0, 0, 1], [2, 1, 2]]).repeat(rows // 2, 1)
    mask = torch.tensor([[False, False, True], [True, True, True]]).repeat(rows // 2, 1)
    generator = torch.Generator().manual_seed(seed)
    settings = {"student_sampling": PLAIN, "teacher_sampling": PLAIN, **settings}
    return interleave(Table(q), Table(p), prompt, mask, ends=Ends((STOP,), 0), generator=generator, **settings)


@pytest.mark.parametrize("draft", [1, 2])
@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_texts_have_the_law_of_algorithm_1_for_any_draft_and_prompt(k, draft):
    p, q = tables(1), tables(2)
    rollout = sampled(p, q, k=k, draft=draft)
    for first, prompt in enumerate([(1,), (2, 1, 2)]):
        rows = slice(first, None, 2)
        assert fits(rollout, rows, texts(prompt, p, q, k)) > 1e-3
        # The neighbours are told apart: K is what decides.
        assert fits(rollout, rows, texts(prompt, p, q, (k + 1) % 5)) < 1e-6


def test_k_of_the_whole_vocabulary_is_on_policy_and_zero_is_the_teacher():
    p, q = tables(1), tables(2)
    for k, law in ((4, q), (0, p)):
        rollout = sampled(p, q, k=k)
        assert fits(rollout, slice(0, None, 2), texts((1,), law, law, 4)) > 1e-3
        assert bool((rollout.replaced == (rollout.mask if k == 0 else torch.zeros_like(rollout.mask))).all())


@pytest.mark.parametrize(("k", "law"), [(1, (0.82, 0.12, 0.06)), (2, (0.54, 0.44, 0.02))])
def test_the_worked_example(k, law):
    p, q = (torch.tensor([row], dtype=torch.float64) for row in ([0.7, 0.2, 0.1], [0.4, 0.4, 0.2]))
    one = Sampling(max_new_tokens=1)
    prompt = torch.zeros(20000, 1, dtype=torch.int64)
    rollout = interleave(
        Table(q),
        Table(p),
        prompt,
        torch.ones_like(prompt).bool(),
        k=k,
        student_sampling=one,
        teacher_sampling=one,
        ends=Ends((), 0),
        generator=torch.Generator().manual_seed(5),
    )
    seen = torch.bincount(rollout.tokens[:, 0], minlength=3)
    assert chisquare(seen.tolist(), [chance * 20000 for chance in law]).pvalue > 1e-3
    refused = 1 - q[0, :k].sum()
    assert float(rollout.replaced.double().mean()) == pytest.approx(float(refused), abs=0.015)


def test_each_network_has_its_own_sampler():
    p, q = tables(1), tables(2)
    cold, warm = Sampling(temperature=0.5, max_new_tokens=3), Sampling(temperature=2.0, max_new_tokens=3)
    rollout = sampled(p, q, k=2, student_sampling=warm, teacher_sampling=cold)
    law = texts((1,), p.pow(2) / p.pow(2).sum(-1, keepdim=True), q.sqrt() / q.sqrt().sum(-1, keepdim=True), 2)
    assert fits(rollout, slice(0, None, 2), law) > 1e-3


def test_k_decays_over_the_places_of_a_response():
    p, q = tables(1), tables(2)
    for draft in (1, 3):
        rollout = sampled(p, q, k=3, decay=3, draft=draft)
        assert fits(rollout, slice(0, None, 2), texts((1,), p, q, lambda place: 3 - place)) > 1e-3


def test_the_teachers_nucleus_instead_of_k():
    p, q = tables(1), tables(2)

    def holding(row):
        falling = sorted(row, reverse=True)
        return next(n for n in range(1, 5) if sum(falling[:n]) >= 0.6)

    sizes = [holding(row) for row in p.tolist()]
    rollout = sampled(p, q, teacher_p=0.6)
    law = {}
    for written in product(range(4), repeat=3):
        cut = written[: written.index(STOP) + 1] if STOP in written else written
        chance = 1.0
        for place, token in enumerate(cut):
            row = (1 + sum(cut[:place])) % 5
            chance *= one_token(p[row].tolist(), q[row].tolist(), sizes[row])[token]
        law[cut] = chance
    assert fits(rollout, slice(0, None, 2), law) > 1e-3


def test_the_released_code_tests_another_token_than_it_keeps():
    p, q = tables(1, sharp=2), tables(2)
    rollout = sampled(p, q, k=2, tested="resampled")
    # The draft stays with the chance that another sample passes, whatever it is itself.
    mixed = []
    for ours, theirs in zip(p.tolist(), q.tolist(), strict=True):
        inside = sum(theirs[token] for token in sorted(range(4), key=lambda token: -ours[token])[:2])
        mixed.append([inside * b + (1 - inside) * a for a, b in zip(ours, theirs, strict=True)])
    law = texts((1,), torch.tensor(mixed), torch.tensor(mixed), 4)
    assert fits(rollout, slice(0, None, 2), law) > 1e-3
    assert fits(rollout, slice(0, None, 2), texts((1,), p, q, 2)) < 1e-6


def test_warped_acceptance_never_keeps_what_the_teachers_sampler_cuts_off():
    p, q = tables(1), tables(2)
    narrow = Sampling(temperature=0.2, top_p=0.5, max_new_tokens=3)
    rollout = sampled(p, q, k=3, accept_on="warped", teacher_sampling=narrow)
    best = p.argmax(-1)
    first = rollout.tokens[::2, 0]
    assert torch.equal(first, torch.full_like(first, int(best[1])))
    settings = as_released(narrow)
    assert settings["student_sampling"] == settings["teacher_sampling"] == narrow
    assert sampled(p, q, k=3, **settings).mask.any()
