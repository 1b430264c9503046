"""MiniLLM's pieces: the law of the mixture, what a token was worth, the clipped gradient, and the data beside it."""

import copy
import math

import pytest
import torch
from causal_networks import Table, causal
from test_interleave_law import fits, tables
from text_runs_kit import World

from potstill.language.generation import Ends, Sampling
from potstill.language.policy import CLIP, DATA, mixed, returns
from potstill.objectives.policy_gradient import PolicyGradient
from potstill.types import MAIN

STOP = 3


def mixture_texts(prompt, p, q, share, longest=3):
    """Every text that can be written after `prompt`, with its probability under p̃ = αp + (1 − α)q."""
    law = {}

    def go_on(written, chance):
        if len(written) == longest or STOP in written:
            law[written] = chance
            return
        row = (sum(prompt) + sum(written)) % len(p)
        for token in range(p.shape[1]):
            go_on((*written, token), chance * (share * p[row, token] + (1 - share) * q[row, token]).item())

    go_on((), 1.0)
    return law


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
def test_texts_have_the_law_of_the_mixture(share):
    p, q = tables(1, sharp=2.0), tables(2, sharp=2.0)
    prompt = torch.tensor([[0, 0, 1], [2, 1, 2]]).repeat(2500, 1)
    mask = torch.tensor([[False, False, True], [True, True, True]]).repeat(2500, 1)
    generator = torch.Generator().manual_seed(0)
    found = mixed(Table(q), Table(p), prompt, mask, share, Sampling(max_new_tokens=3), Ends((STOP,), 0), generator)
    for first, asked in enumerate([(1,), (2, 1, 2)]):
        rows = slice(first, None, 2)
        assert fits(found.rollout, rows, mixture_texts(asked, p, q, share)) > 1e-3
        assert fits(found.rollout, rows, mixture_texts(asked, p, q, share + 0.25)) < 1e-6


def test_log_probabilities_are_those_of_a_plain_forward():
    student, teacher = causal("llama", 1), causal("gpt2", 2)
    prompt, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[False, True, True], [True, True, True]])
    generator = torch.Generator().manual_seed(0)
    found = mixed(student, teacher, prompt, mask, 0.3, Sampling(max_new_tokens=5), Ends((4,), 0), generator)
    for row in range(2):
        asked, written = prompt[row][mask[row]], found.rollout.tokens[row][found.rollout.mask[row]]
        ids = torch.cat([asked, written])[None]
        with torch.no_grad():
            q, p = (
                model(input_ids=ids).logits[0, len(asked) - 1 : -1].log_softmax(-1)[range(len(written)), written]
                for model in (student, teacher)
            )
        law = (0.3 * p.exp() + 0.7 * q.exp()).log()
        for ours, theirs in ((found.student, q), (found.teacher, p), (found.mixture, law)):
            torch.testing.assert_close(ours[row][found.rollout.mask[row]], theirs, rtol=1e-4, atol=1e-5)
            assert (ours[row][~found.rollout.mask[row]] == 0).all()


def returns_by_hand(rewards, discount):
    """Row by row as the paper writes it, then whitened over all tokens."""
    found = []
    for row in rewards:
        last = len(row)
        for t in range(1, last + 1):
            total = sum(discount ** (later - t) * row[later - 1] for later in range(t, last + 1))
            found.append(total / (last - t + 1))
    mean = sum(found) / len(found)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in found) / (len(found) - 1))
    return [(value - mean) / deviation for value in found]


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.95, 1.0])
def test_returns(discount):
    rewards = [[1.0, -2.0, 0.5, 3.0], [4.0], [0.0, 1.0, -1.0]]
    mask = torch.zeros(3, 4, dtype=torch.bool)
    reward = torch.full((3, 4), 77.0, dtype=torch.float64)  # what is masked does not matter
    for number, row in enumerate(rewards):
        mask[number, : len(row)] = True
        reward[number, : len(row)] = torch.tensor(row)
    found = returns(reward, mask, discount)
    expected = torch.tensor(returns_by_hand(rewards, discount), dtype=torch.float64)
    torch.testing.assert_close(found[mask], expected, rtol=1e-6, atol=1e-7)
    assert (found[~mask] == 0).all()


def test_one_token_is_worth_nothing_special():
    """A single token has nothing to be compared with: an advantage of 0, and no NaN."""
    assert returns(torch.tensor([[5.0]]), torch.tensor([[True]]), 0.95).tolist() == [[0.0]]


def test_the_clipped_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(6, (4, 3), generator=generator)
    advantage, before = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    before = before * 0.3 - math.log(6)
    importance = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.5
    given = {"label": label, "advantage": advantage, "before": before, "importance": importance}
    losses = PolicyGradient(clip=0.2)(logits, None, **given)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    clipped = 0
    for row in range(4):
        for place in range(3):
            law = logits[row, place].detach().softmax(-1)
            token, worth = label[row, place], advantage[row, place].item()
            ratio = (law[token].log() - before[row, place]).exp().item()
            bounded = min(max(ratio, 0.8), 1.2)
            loss = max(-ratio * worth, -bounded * worth) * importance[row, place].item()
            assert losses[row, place].item() == pytest.approx(loss, rel=1e-12)
            slope = -worth * ratio * importance[row, place] * (torch.eye(6, dtype=torch.float64)[token] - law)
            if -bounded * worth > -ratio * worth:  # beyond the clip, and worth going further: no gradient
                slope, clipped = torch.zeros(6, dtype=torch.float64), clipped + 1
            torch.testing.assert_close(gradient[row, place], slope, rtol=1e-10, atol=1e-12)
    assert 0 < clipped < 12


def test_what_a_batch_of_minillm_holds():
    """Rewards of the rollout, the data's texts beside it, and several steps on one rollout."""
    world = World()
    run = world.engine("minillm(inner=3,alpha=0.4,scale=0.25,gamma=0.5,tokens=5)")
    run.begin()
    batch = next(iter(run.loader.epoch(0)))
    steps = list(run.prepared(batch))
    assert len(steps) == 3
    assert all(one is steps[0] for one in steps)
    assert run.total == 2 * run.loader.steps * 3
    made, main = steps[0], steps[0].main
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(made.views[DATA].input[name], batch.main.input[name])
    assert torch.equal(made.views[DATA].label, batch.main.label)
    q, p = (run.sources[who](run.task, made, MAIN, ()).output.dense().log_softmax(-1) for who in ("student", "teacher"))
    q, p = (law.detach().gather(-1, main.label[..., None])[..., 0] for law in (q, p))
    reward = ((p - q) / 0.25).clamp(-CLIP, CLIP)
    torch.testing.assert_close(main.extras["advantage"], returns(reward, main.mask, 0.5), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(main.extras["before"], q * main.mask, rtol=1e-4, atol=1e-5)
    importance = (q - (0.4 * p.exp() + 0.6 * q.exp()).log()).exp()
    torch.testing.assert_close(main.extras["importance"][main.mask], importance[main.mask], rtol=1e-4, atol=1e-5)
    # In the first of the steps the ratio is 1: the policy term is -A·w, whatever the clip.
    run.differentiate(made)
    names = [term.name for term in run.system.wired]
    assert names == ["policy", "single_step", "data_label", "data_kl"]
    expected = -(main.extras["advantage"] * main.extras["importance"])[main.mask].mean()
    torch.testing.assert_close(run.sums[0], expected.double(), rtol=1e-3, atol=1e-4)
    moved = copy.deepcopy(run.sums)
    run.move()
    run.differentiate(made)
    assert not torch.allclose(run.sums, 2 * moved)  # the second step sees another student on the same texts
