"""RRD: relations to a queue of teacher embeddings, its two revisions, and the variant with banks."""

import pytest
import torch
from live_memory import live_mib

from potstill.objectives import RRD
from potstill.types import DataInfo

LABELS = torch.arange(40) % 4


def sides(rows=5):
    torch.manual_seed(1)
    return torch.randn(rows, 6), torch.randn(rows, 9)


def rrd(**options):
    torch.manual_seed(0)
    return RRD.sized(*sides(), DataInfo(40, 5, 4, LABELS), {}, **{"width": 4, "size": 20, **options})


def test_versions():
    for version, expected in {
        "2024": ("score_first", 0.04, 0.1, "unit"),
        "2025": ("enqueue_first", 0.02, 0.1, "batch"),
        "2025_swapped": ("enqueue_first", 0.1, 0.02, "batch"),
        2024: ("score_first", 0.04, 0.1, "unit"),  # as a command line reads it
    }.items():
        objective = rrd(version=version)
        assert (objective.order, objective.tau_s, objective.tau_t, objective.scope) == expected
    assert rrd(version="2025", tau_s=0.5, order="score_first").scope == "unit"
    assert rrd().tau_s == 0.04


@pytest.mark.parametrize("memory", ["fifo", "momentum"])
@pytest.mark.parametrize("version", ["2024", "2025"])
def test_the_teachers_projection_never_gets_a_gradient(memory, version):
    """The target is stopped and the memory detached, so W_t stays random: also weight decay leaves it alone."""
    objective = rrd(memory=memory, version=version)
    assert not any(p.requires_grad for p in objective.teacher_head.parameters())
    before = objective.teacher_head.weight.clone()
    student, teacher = (x.requires_grad_() for x in sides())
    given = {"index": torch.arange(5), "draw": torch.arange(5)} if objective.needs else {}
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0, weight_decay=0.1)
    objective(student, teacher, **given).mean().backward()
    optimizer.step()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert objective.student_head.weight.grad.abs().sum() > 0
    assert torch.equal(objective.teacher_head.weight, before)


def test_the_two_orders_differ_by_one_step_of_the_queue():
    before, after = rrd(order="score_first"), rrd(order="enqueue_first")
    together = after(*sides())
    with torch.no_grad():
        before.update(*sides())
        after.update(*sides())
    torch.testing.assert_close(together, before(*sides()))
    assert torch.equal(before.queue.keys, after.queue.keys)
    assert before.queue.pointer == 5


def test_a_sharp_teacher_makes_it_infonce():
    """With the own key in memory and tau_t -> 0 the target is one-hot: cross entropy of picking one's own key."""
    objective = rrd(version="2025", tau_s=0.3, tau_t=1e-4)
    student, teacher = sides()
    loss = objective(student, teacher)
    u = torch.nn.functional.normalize(objective.student_head(student), dim=1)
    v = torch.nn.functional.normalize(objective.teacher_head(teacher), dim=1)
    keys = torch.cat([v, objective.queue.keys[5:]])
    expected = torch.nn.functional.cross_entropy(u @ keys.T / 0.3, torch.arange(5), reduction="none")
    torch.testing.assert_close(loss, expected)


def test_batches_of_any_size_follow_each_other():
    objective = rrd()
    with torch.no_grad():
        for rows in (5, 7, 3, 30, 1):
            objective.update(*sides(rows))
            assert objective(*sides(rows)).shape == (rows,)
    assert objective.queue.pointer == (5 + 7 + 3 + 30 + 1) % 20


def test_banks_need_labels_and_the_queue_does_not():
    info = DataInfo(40, 5)
    assert RRD.sized(*sides(), info, {}).needs == ()
    assert RRD.sized(*sides(), info, {}, memory="momentum", exclude="self").needs == ("index", "draw")
    with pytest.raises(ValueError, match=r"rrd\(memory=fifo\)"):
        RRD.sized(*sides(), info, {}, memory="momentum")


@pytest.mark.parametrize(
    "options", [{"version": "2026"}, {"order": "never"}, {"memory": "lifo"}, {"tau_s": 0}, {"tau_t": -1}, {"size": 0}]
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match="must be"):
        rrd(**options)


def test_memory_at_full_size():
    objective = RRD(128, 128, 50_000, torch.arange(50_000) % 100, memory="momentum")
    student, teacher = torch.randn(64, 128, requires_grad=True), torch.randn(64, 128)
    given = {"index": torch.arange(64), "draw": torch.arange(64)}
    assert live_mib(lambda: objective(student, teacher, **given).mean().backward()) < 150
