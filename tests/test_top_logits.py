"""What is known of a teacher by its k largest probabilities: what it may be made of, and who cannot read it."""

import math

import pytest
import torch

from potstill.largest import top_logits
from potstill.objectives import JSD
from potstill.types import Outputs, TopLogits

LOGITS = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 5.0, 1.0, 2.0]])


def test_the_largest_with_their_probabilities():
    known = top_logits(LOGITS.bfloat16(), 2, temperature=2.0)
    assert known.shape == (2, 4)
    assert known.indices.tolist() == [[0, 3], [1, 3]]
    torch.testing.assert_close(known.log_probs.exp(), (LOGITS / 2).softmax(1).topk(2).values)
    torch.testing.assert_close(known[1:].log_probs, known.log_probs[1:])
    known.check()


@pytest.mark.parametrize(
    ("log_probs", "indices", "options", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), {}, r"log_probs \[3, 2\], indices \[3, 1\]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), {}, r"log_probs \[2\]"),
        (torch.zeros(1, 9), torch.zeros(1, 9, dtype=torch.int64), {}, "a vocabulary of 8"),
        (torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int32), {}, "indices torch.int32"),
        (torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64), {"temperature": 0.0}, "must be positive"),
    ],
)
def test_what_it_cannot_be_made_of(log_probs, indices, options, message):
    with pytest.raises(ValueError, match=message):
        TopLogits(log_probs, indices, 8, **options)


@pytest.mark.parametrize(
    ("log_probs", "indices", "message"),
    [
        ([-1.0, math.nan], [0, 1], "NaN or sum to more than 1"),
        ([-0.1, -0.1], [0, 1], "the largest mass is 1.81"),
        ([-1.0, -2.0], [0, 8], r"indices lie in \[0, 8\]; expected 0 to 7"),
        ([-1.0, -2.0], [0, -2], r"indices lie in \[-2, 0\]"),
        ([-1.0, -2.0], [5, 5], "names the same token twice"),
    ],
)
def test_numbers_that_are_no_distribution(log_probs, indices, message):
    with pytest.raises(ValueError, match=message):
        TopLogits(torch.tensor([log_probs]), torch.tensor([indices]), 8).check()
    TopLogits(torch.tensor([[-1.0, -math.inf, -math.inf]]), torch.tensor([[3, -1, -1]]), 8).check()


def test_who_needs_all_of_it_says_so():
    with pytest.raises(ValueError, match="only the 2 most probable of 4 tokens are known"):
        Outputs(top_logits(LOGITS, 2)).dense()


@pytest.mark.parametrize(
    ("student", "temperature"), [(torch.zeros(2, 5), 1.0), (torch.zeros(1, 4), 1.0), (torch.zeros(2, 4), 2.0)]
)
def test_only_the_same_tokens_at_the_same_temperature(student, temperature):
    with pytest.raises(ValueError, match=r"TopLogits are of shape \[2, 4\] at temperature 1"):
        JSD(temperature=temperature)(student, top_logits(LOGITS, 2))
