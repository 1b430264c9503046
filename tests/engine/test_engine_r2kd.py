"""R2KD as it trains: the released sum, every augmentation, its control, micro-batches and shared teachers."""

from dataclasses import replace

import pytest
import torch
from kill_worker import SGD, engine
from scipy import stats
from test_side_by_side import engines, examples, taught
from torch import nn

from potstill.blend import Blend
from potstill.methods import parse
from potstill.pruning import pruned
from potstill.sources import Heard, Shuffled
from potstill.together import side_by_side


def probabilities(z, temperature=4):
    e = [[float((x / temperature).exp()) for x in row] for row in z]
    return [[x / sum(row) for x in row] for row in e]


def unlike(a, b):
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - inner / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def taken(method, fit=SGD, steps=3, **kw):
    """An engine after so many steps, and what its last batch was."""
    run = engine(None, fit, method=method, **kw)
    run.begin()
    for batch in list(run.loader.epoch(0))[:steps]:
        (seen,) = run.prepared(batch)
        run.train_on(batch)
    return run, seen


def test_the_loss_is_the_released_sum():
    """CE on the batch, and the distances to 0.7 z_t + 0.3 z_p on the batch and on its augmented self."""
    run = engine(None, method="r2kd")
    run.begin()
    run.system.eval()
    batch = next(iter(run.loader.epoch(0)))
    (seen,) = run.prepared(batch)
    shares = run.stepper(seen, run.progress)
    total = sum(term.weighted(run.progress) * share for term, share in zip(run.system.wired, shares, strict=True))
    student, teacher = run.sources["student"], run.sources["teacher"]
    thin = teacher.with_module(pruned(teacher.module, 0.1))
    expected = None
    for view in ("main", "augmented"):
        z_s, z_t, z_p = (s(run.task, seen, view, ()).dense().detach().double() for s in (student, teacher, thin))
        if expected is None:
            expected = nn.functional.cross_entropy(z_s, seen.main.label)
        blend = 0.7 * z_t + 0.3 * z_p
        p_s, p_t = probabilities(z_s), probabilities(blend)
        rows = sum(unlike(a, b) for a, b in zip(p_s, p_t, strict=True)) / len(z_s)
        columns = [unlike(a, b) for a, b in zip(zip(*p_s, strict=True), zip(*p_t, strict=True), strict=True)]
        order = [stats.spearmanr(a, b).statistic for a, b in zip(z_s, blend, strict=True)]
        expected = expected + 2 * 16 * (rows + sum(columns) / 5) + 2 * (1 - sum(order) / len(order))
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_the_hard_rank_term_changes_no_weight():
    with_rank, without = (taken(f"r2kd(rank={rank})")[0] for rank in ("hard", "none"))
    soft = taken("r2kd(rank=soft)")[0]
    for one, other in zip(with_rank.student.parameters(), without.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(soft.student.fc.weight, without.student.fc.weight)


@pytest.mark.parametrize(
    "augment", ["mixup", "cutmix", "cutout", "autoaugment", "cutmixpick", "cutmixpick_released", "none"]
)
def test_every_augmentation_trains_and_the_teacher_stays(augment):
    run, seen = taken(f"r2kd(augment={augment})")
    assert (seen.views.keys() == {"main"}) == (augment == "none")
    fresh = engine(None, method="r2kd").sources["teacher"].module.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in run.sources["teacher"].module.state_dict().items())
    assert all(p.isfinite().all() for p in run.student.parameters())
    if augment != "none":
        assert seen.views["augmented"].number is None  # so that no cache answers for it


def test_kd_on_two_views_is_within_reach():
    method = parse("ce:0.1+r2kd(augment=mixup,distance=kl,value_weight=0.9,rank=none,weight=1)")
    assert sorted((term.label, term.weight) for term in method.terms) == [
        ("ce", 0.1),
        ("kd", 0.9),
        ("kd_augmented", 0.9),
    ]
    run = engine(None, method=method.name)
    assert run.sources.keys() == {"student", "teacher"}


@pytest.mark.parametrize("options", ["prune=0", "weight=1", "weight=1,prune=0.5"])
def test_without_a_blend_the_teacher_speaks(options):
    assert {str(term.teacher).partition(":")[0] for term in parse(f"r2kd({options})").terms[1:]} == {"teacher"}


def test_the_control_shuffles_the_blend_too():
    run, _ = taken("r2kd~shuffled")
    assert isinstance(run.sources["blend"], Shuffled)
    assert isinstance(run.sources["blend"].source, Blend)


def test_micro_batches_see_the_same_second_view():
    whole, _ = taken("r2kd(augment=mixup)", replace(SGD, clip=None))
    parts, _ = taken("r2kd(augment=mixup)", replace(SGD, micro_batch=4, clip=None))
    assert torch.isfinite(parts.sums).all()
    batch = next(iter(whole.loader.epoch(0)))
    one, other = (next(iter(run.prepared(batch))).views["augmented"].input for run in (whole, parts))
    assert torch.equal(one, other)


def test_beside_others_a_student_comes_to_what_it_would_come_to_alone():
    """Their teacher is asked once for what they share; each has a pruned copy and second views of its own."""
    some = [("kd", 0), ("r2kd(augment=mixup)", 0), ("r2kd(augment=cutmixpick)", 1)]
    found = []
    for groups in ([some], [[one] for one in some]):
        trained = []
        for group in groups:
            heard = Heard(taught()[0])
            trained += (together := engines(group, heard, examples()))
            assert not side_by_side(together, heard)
        found.append([p for engine in trained for p in engine.student.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("r2kd(augment=cutmx)", "did you mean 'cutmix'"),
        ("r2kd(rank=sorted)", "unknown rank"),
        ("r2kd(policy=svhn)", "unknown policy"),
        ("r2kd(prune=1.0)", r"in \[0, 1\)"),
        ("r2kd(weight=1.5)", "between 0 and 1"),
        ("r2kd(temperature=0)", "temperature must be positive"),
        ("r2kd(pool=0)", "at least 1"),
    ],
)
def test_what_the_scheme_refuses(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)
