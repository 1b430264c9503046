"""CRD: a bank by sample, drawn negatives, and the queue of the later re-implementation."""

import math

import pytest
import torch
from live_memory import live_mib

from potstill.objectives import CRD
from potstill.types import DataInfo

LABELS = torch.arange(40) % 4


def sides(rows=5):
    torch.manual_seed(1)
    return torch.randn(rows, 6), torch.randn(rows, 9)


def extras(rows=5):
    return {"index": torch.arange(rows) * 3, "draw": torch.arange(rows) + 12345}


def crd(**options):
    torch.manual_seed(0)
    info = DataInfo(40, 5, 4, LABELS)
    return CRD.sized(*sides(), info, {}, **{"width": 4, "negatives": 20, **options})


def test_the_loss_by_hand():
    """Embeddings that are the unit vectors, banks of unit vectors: all scores are 0 or 1 / T."""
    objective = CRD(2, 2, 4, torch.tensor([0, 1, 2, 3]), width=2, negatives=3, temperature=0.5).double()
    with torch.no_grad():
        for head in (objective.student_head, objective.teacher_head):
            head.weight.copy_(torch.eye(2))
            head.bias.zero_()
        x, y = torch.eye(2).double()
        objective.banks.teacher.copy_(torch.stack([x, y, y, x]))
        objective.banks.student.copy_(torch.stack([y, x, y, y]))
        objective.banks.normalizer.copy_(torch.tensor([10.0, 20.0]))
    negatives = torch.tensor([[1, 2, 3]])
    loss = objective(3 * x[None], 5 * x[None], index=torch.tensor([0]), negatives=negatives)
    expected, noise = 0.0, 3 / 4
    for z, scores in ((10.0, [1, 0, 0, 1]), (20.0, [0, 1, 0, 0])):
        own, *others = (math.exp(2 * score) / z for score in scores)
        expected -= math.log(own / (own + noise + 1e-7))
        expected -= sum(math.log(noise / (p + noise + 1e-7)) for p in others)
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64))


def test_both_heads_are_trained_and_nothing_else():
    objective = crd()
    objective(*sides(), **extras()).mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in objective.parameters())
    assert {n for n, _ in objective.named_parameters()} == {
        f"{side}_head.{kind}" for side in ("student", "teacher") for kind in ("weight", "bias")
    }


def test_negatives_change_with_the_draw():
    objective = crd()
    given = extras()
    first = objective(*sides(), **given)
    assert not torch.equal(first, objective(*sides(), **{**given, "draw": given["draw"] + 10**6}))
    drawn = objective.others(**given)
    assert (LABELS[drawn] != LABELS[given["index"]][:, None]).all()
    assert torch.equal(first, objective(*sides(), index=given["index"], negatives=drawn))


def test_update_moves_the_rows_of_the_batch_only():
    objective, given = crd(), extras()
    before = objective.banks.teacher.clone()
    with torch.no_grad():
        objective.prime(*sides(), **given)
        objective.update(*sides(), **given)
    moved = (objective.banks.teacher != before).any(1).nonzero().flatten()
    assert torch.equal(moved, given["index"])
    assert (objective.banks.normalizer > 0).all()
    assert set(objective.state_dict()) - {n for n, _ in objective.named_parameters()} == {
        "banks.student", "banks.teacher", "banks.normalizer"
    }  # fmt: skip


def test_the_queue_relates_samples_only_where_the_batch_is_in_it():
    first, later = crd(memory="fifo"), crd(memory="fifo", order="score_first")
    assert (first.scope, later.scope) == ("batch", "unit")
    assert first.needs == later.needs == ()
    assert CRD.scope == "unit"
    together = first(*sides())
    with torch.no_grad():
        later.update(*sides())
    torch.testing.assert_close(together, later(*sides()))  # once the keys are in, the two are the same
    assert not torch.equal(first.queue.keys, later.queue.keys)


def test_unknown_labels():
    with pytest.raises(ValueError, match=r"crd\(exclude=self\) or crd\(memory=fifo\)"):
        CRD.sized(*sides(), DataInfo(40, 5), {})
    for options in ({"exclude": "self"}, {"memory": "fifo"}):
        CRD.sized(*sides(), DataInfo(40, 5), {}, **options)


@pytest.mark.parametrize(
    "options", [{"memory": "lifo"}, {"order": "never"}, {"temperature": 0}, {"negatives": 0}, {"initial": "diagonal"}]
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match="must be"):
        crd(**{"memory": "fifo", **options})


def test_a_bank_needs_the_index():
    with pytest.raises(ValueError, match="needs index, and draw or negatives"):
        crd()(*sides(), index=torch.arange(5))


def test_a_map_is_no_embedding():
    with pytest.raises(ValueError, match="crd: a tap has shape"):
        CRD.sized(torch.randn(5, 6, 4, 4), torch.randn(5, 9), DataInfo(40, 5, 4, LABELS), {})


def test_memory_at_full_size():
    """B = 64, K = 16384, D = 128, n = 50000: the reference gathers about 1 GiB."""
    labels = torch.arange(50_000) % 100
    objective = CRD(128, 128, 50_000, labels)
    student, teacher = torch.randn(64, 128, requires_grad=True), torch.randn(64, 128)
    given = {"index": torch.arange(64), "draw": torch.arange(64)}
    assert live_mib(lambda: objective(student, teacher, **given).mean().backward()) < 150
