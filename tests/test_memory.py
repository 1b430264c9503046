"""Memories and drawn negatives: what CRD and RRD have in common."""

import pytest
import torch
import torch.nn.functional as F

from potstill import memory
from potstill.memory import Banks, OtherSamples, Queue, picked_scores

LABELS = torch.tensor([3, 7, 7, 3, 5, 7, 3, 7, 9, 3])


def draws(rows, step=0):
    return torch.randint(2**62, (rows,), generator=torch.Generator().manual_seed(step))


def scattered(labels):
    """Labels in another order."""
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_negatives_are_of_other_classes():
    labels = scattered(torch.arange(500) % 7)
    others = OtherSamples("crd", 500, labels, 333)
    index = torch.arange(500)
    drawn = others(index, draws(500))
    assert drawn.shape == (500, 333)
    assert drawn.min() >= 0
    assert drawn.max() < 500
    assert (labels[drawn] != labels[:, None]).all()


def test_any_other_sample():
    drawn = OtherSamples("crd", 10, None, 2000, "self")(torch.arange(10), draws(10))
    for sample, row in enumerate(drawn):
        assert set(row.tolist()) == set(range(10)) - {sample}


@pytest.mark.parametrize("sample", [0, 1, 4, 8])
def test_negatives_are_uniform(sample):
    """Chi-squared over all samples of other classes, classes of unequal size, many steps of small draws."""
    allowed = [i for i, label in enumerate(LABELS) if label != LABELS[sample]]
    others = OtherSamples("crd", len(LABELS), LABELS, 8)
    drawn = others(torch.full((5000,), sample), draws(5000))
    counts = torch.bincount(drawn.flatten(), minlength=len(LABELS))
    assert counts.sum() == counts[allowed].sum()
    expected = 40000 / len(allowed)
    # The 0.999 quantile for 9 degrees of freedom; there are at most 8.
    assert ((counts[allowed] - expected) ** 2 / expected).sum() < 27.9
    # Neighbouring places of one anchor share a hash, and must still be independent.
    pairs = torch.bincount(drawn[:, 0] * len(LABELS) + drawn[:, 1], minlength=100).view(10, 10)[allowed][:, allowed]
    expected = 5000 / len(allowed) ** 2
    assert ((pairs - expected) ** 2 / expected).sum() < 140.0  # 0.999 for 81 degrees of freedom: 126; at most 80


def test_draws_are_reproducible_and_belong_to_the_sample():
    others = OtherSamples("crd", len(LABELS), LABELS, 7)
    index, numbers = torch.tensor([2, 9, 4]), draws(3)
    drawn = others(index, numbers)
    assert torch.equal(drawn, others(index, numbers))
    assert torch.equal(drawn[[2, 0]], others(index[[2, 0]], numbers[[2, 0]]))
    assert not torch.equal(drawn, others(index, draws(3, step=1)))


def test_nothing_is_saved_of_the_labels():
    assert not OtherSamples("crd", len(LABELS), LABELS, 7).state_dict()


@pytest.mark.parametrize(
    ("labels", "exclude", "message"),
    [
        (None, "class", "hand over the data set"),
        (LABELS[:5], "class", "one for each of 10"),
        (torch.zeros(10), "class", "alike"),
        (LABELS, "relax", "'class' or 'self'"),
    ],
)
def test_what_cannot_be_drawn_from(labels, exclude, message):
    with pytest.raises(ValueError, match=message):
        OtherSamples("crd", 10, labels, 7, exclude)


@pytest.mark.parametrize("block", [1, 100, 2**20])
def test_blocks_give_the_scores_of_the_whole_product(block, monkeypatch):
    torch.manual_seed(0)
    bank, index, outer = torch.randn(40, 6).double(), torch.randint(40, (5, 33)), torch.randn(5, 33).double()
    found = []
    for full in (2**20, 0):
        monkeypatch.setattr(memory, "FULL_BYTES", full)
        monkeypatch.setattr(memory, "BLOCK_BYTES", block)
        query = torch.linspace(-1, 1, 30).double().view(5, 6).requires_grad_()
        scores = picked_scores(query, bank, index)
        (scores * outer).sum().backward()
        found.append((scores.detach(), query.grad))
    by_hand = torch.stack([bank[rows] @ q for rows, q in zip(index, query.detach(), strict=True)])
    for scores, gradient in found:
        torch.testing.assert_close(scores, by_hand)
        torch.testing.assert_close(gradient, torch.einsum("bk,bkd->bd", outer, bank[index]))


def filled(queue: Queue) -> list:
    return queue.keys[:, 0].tolist()


def test_a_queue_takes_any_batch_size():
    queue = Queue(5, 2)
    queue.keys.zero_()
    numbers = torch.arange(1.0, 20.0)[:, None].expand(-1, 2)
    start = 0
    for size, expected in ((2, [1, 2, 0, 0, 0]), (4, [6, 2, 3, 4, 5]), (1, [6, 7, 3, 4, 5]), (0, [6, 7, 3, 4, 5])):
        new = numbers[start : start + size]
        after = queue.after(new)
        queue.enqueue(new)
        assert filled(queue) == expected
        assert torch.equal(queue.keys, after)
        start += size
    queue.enqueue(numbers[7:19])  # more than fit: the last five, as if they had come one by one
    one_by_one = Queue(5, 2)
    for number in numbers[:19]:
        one_by_one.enqueue(number[None])
    assert filled(queue) == filled(one_by_one)
    assert torch.equal(queue.pointer, one_by_one.pointer)


def test_how_a_queue_begins():
    torch.manual_seed(0)
    rows, columns = (Queue(400, 8, initial).keys.norm(dim=1) for initial in ("rows", "columns"))
    torch.testing.assert_close(rows, torch.ones(400))
    assert (columns.square().mean() - 8 / 400).abs() < 1e-6


def test_a_bank_follows_its_samples():
    torch.manual_seed(0)
    banks = Banks(6, 3, 0.07, momentum=0.75).double()
    before = banks.student.clone()
    student, teacher = F.normalize(torch.randn(2, 4, 3).double(), dim=2)
    banks.update(student, teacher, torch.tensor([5, 1, 4, 1]))  # sample 1 twice: its last value
    for row, new in ((5, 0), (4, 2), (1, 3)):
        mixed = 0.75 * before[row] + 0.25 * student[new]
        torch.testing.assert_close(banks.student[row], mixed / mixed.norm())
    for row in (0, 2, 3):
        assert torch.equal(banks.student[row], before[row])


def test_the_normalizer_is_set_once():
    torch.manual_seed(0)
    banks = Banks(200, 64, 0.07, 0.5)
    u, v = F.normalize(torch.randn(2, 30, 64), dim=2)
    index, negatives = torch.arange(30), torch.randint(200, (30, 50))
    guessed = banks.log_probabilities(u, v, index, negatives)
    banks.prime(u, v, index, negatives)
    kept = banks.normalizer.clone()
    measured = banks.log_probabilities(u, v, index, negatives)
    for one, other in zip(guessed, measured, strict=True):
        torch.testing.assert_close(other.exp().mean(), torch.tensor(1 / 200))
        assert (one - other).abs().max() < 0.3  # until it is measured, Z is its expectation
    banks.prime(v, u, index, negatives)
    assert torch.equal(banks.normalizer, kept)


@pytest.mark.parametrize(("temperature", "momentum"), [(0.0, 0.5), (0.07, 1.0), (0.07, -0.1)])
def test_impossible_banks(temperature, momentum):
    with pytest.raises(ValueError, match="temperature"):
        Banks(6, 3, temperature, momentum)
