"""Numbers about texts: counted by hand, resumed exactly, and a warning when texts collapse."""

import pytest
import torch

from potstill.language.behaviour import Tally, collapse
from potstill.language.generation import Rollout

TOKENS = torch.tensor([[5, 6, 5, 6, 5], [7, 8, 9, 2, 0], [2, 0, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]).bool()
ENDED = torch.tensor([False, True, True])


def test_means_are_over_texts_pairs_and_tokens():
    tally = Tally()
    assert tally.report() == {}
    replaced = torch.zeros_like(MASK)
    replaced[0, :2] = True
    entropy = torch.full(MASK.shape, 0.5)
    tally.add(Rollout(TOKENS, MASK, ENDED, replaced, entropy, entropy / 2))
    tally.add(Rollout(TOKENS[:1], MASK[:1], ENDED[:1]))  # nothing measured: it counts in what it has
    assert tally.report() == pytest.approx(
        {
            "length": 15 / 4,
            "end_of_text_rate": 2 / 4,
            "distinct_2": (2 + 3 + 2) / (4 + 3 + 4),
            "repetition": 1 - 7 / 11,
            "replaced": 2 / 10,
            "entropy": 0.5,
            "top_k_overlap": 0.25,
        }
    )
    assert tally.report() == {}


def test_a_killed_run_reports_the_same_digits():
    whole, first, second = Tally(), Tally(), Tally()
    rollouts = [Rollout(TOKENS, MASK, ENDED, entropy=torch.rand(MASK.shape)) for _ in range(3)]
    for rollout in rollouts:
        whole.add(rollout)
    first.add(rollouts[0])
    first.add(rollouts[1])
    second.load_state_dict(first.state_dict())
    second.add(rollouts[2])
    assert second.report() == whole.report()
    second.load_state_dict(Tally().state_dict())
    assert second.report() == {}


def loops(rows: int) -> Rollout:
    return Rollout(torch.full((rows, 64), 3), torch.ones(rows, 64).bool(), torch.zeros(rows).bool())


def test_collapse_is_named():
    tally = Tally()
    tally.add(loops(2))
    said = collapse(tally.report(), max_new_tokens=64)
    assert said is not None
    assert "never end within max_new_tokens=64" in said
    assert "repeat themselves" in said
    tally.add(Rollout(TOKENS[2:], MASK[2:], ENDED[2:], entropy=torch.zeros(1, 5)))
    said = collapse(tally.report(), max_new_tokens=64)
    assert said is not None
    assert "empty (1.0 tokens" in said
    assert "entropy 0.0000" in said
    tally.add(Rollout(TOKENS[1:2], MASK[1:2], ENDED[1:2], entropy=torch.ones(1, 5)))
    assert collapse(tally.report(), max_new_tokens=64) is None
    assert collapse({}, 64) is None
