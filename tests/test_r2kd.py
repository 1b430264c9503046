"""R2KD's parts: the two distances against formulas written out, the blend, the pruned copy."""

import pytest
import torch
from scipy import stats
from torch import nn

from potstill.blend import Blend
from potstill.data.preprocess import Preprocess
from potstill.objectives import RankDistance, ValueDistance
from potstill.pruning import pruned
from potstill.sources import Heard, Network, Shuffled
from potstill.tasks.classify import Classify
from potstill.types import Batch, DataInfo, View


def logits(rows=6, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def probabilities(z, temperature):
    e = [[float((x / temperature).exp()) for x in row] for row in z]
    return [[x / sum(row) for x in row] for row in e]


# --- the distances ---------------------------------------------------------------------------------------------------


def unlike(a, b):
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - abs(inner) / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5 + 1e-8)


def test_value_distance_is_the_released_formula():
    student, teacher = logits(), logits(seed=1)
    p_s, p_t = probabilities(student, 4), probabilities(teacher, 4)
    rows = sum(unlike(a, b) for a, b in zip(p_s, p_t, strict=True)) / 6
    columns = sum(unlike(a, b) for a, b in zip(zip(*p_s, strict=True), zip(*p_t, strict=True), strict=True)) / 7
    assert ValueDistance()(student, teacher).mean().item() == pytest.approx(16 * (rows + columns), rel=1e-12)


@pytest.mark.parametrize("rank", ["hard", "soft"])
def test_rank_distance_is_one_minus_spearman(rank):
    student, teacher = logits(), logits(seed=1)
    found = RankDistance(rank, softness=1e-3)(student, teacher)
    for row in range(6):
        assert found[row].item() == pytest.approx(1 - stats.spearmanr(student[row], teacher[row]).statistic, abs=1e-4)


def test_the_released_rank_distance_moves_nothing():
    """Sorting has no derivative: the loss as released is a number in the log. The soft one, ours, has a gradient."""
    for rank, moves in (("hard", False), ("soft", True)):
        student = logits().requires_grad_()
        RankDistance(rank)(student, logits(seed=1)).sum().backward()
        assert student.grad.isfinite().all()
        assert bool(student.grad.abs().max() > 0) == moves


def test_going_down_the_soft_rank_distance_puts_the_classes_in_order():
    teacher, student = logits(), logits(seed=1).requires_grad_()
    optimizer = torch.optim.SGD([student], lr=20.0)
    for _ in range(60):
        optimizer.zero_grad()
        RankDistance("soft")(student, teacher).sum().backward()
        optimizer.step()
    order = [stats.spearmanr(a, b).statistic for a, b in zip(student.detach(), teacher, strict=True)]
    assert min(order) > 0.85
    assert stats.spearmanr(logits(seed=1)[0], teacher[0]).statistic < 0.5


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: ValueDistance(0.0), "temperature must be positive"),
        (lambda: RankDistance("sorted"), "hard or soft"),
        (lambda: RankDistance(softness=0), "softness must be positive"),
        (lambda: ValueDistance.sized(logits(), logits(classes=5), DataInfo(9, 6), {}), "7 classes, the teacher with 5"),
        (lambda: RankDistance.sized(logits()[0], logits()[0], DataInfo(9, 6), {}), r"logits \[B, K\]"),
    ],
)
def test_what_a_distance_refuses(act, says):
    with pytest.raises(ValueError, match=says):
        act()


# --- the blend and the pruned copy -----------------------------------------------------------------------------------


def network(classes=5):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, classes))


def example(rows=6):
    pixels = torch.randint(0, 256, (rows, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Batch({"main": View(pixels, torch.arange(rows), torch.arange(rows) % 5)})


def frozen(module):
    return Network(module, trained=False, preprocess=Preprocess(), names={"embedding": "6.input"})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_layer_loses_its_smallest_weights(layout):
    module = network().to(memory_format=layout)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    thin = pruned(module, 0.1)
    for name in ("0", "3", "6"):
        whole, left = module.get_submodule(name).weight, thin.get_submodule(name).weight
        gone = left == 0
        assert gone.sum() == round(0.1 * whole.numel())
        assert whole[gone].abs().max() < whole[~gone].abs().min()
        assert torch.equal(left[~gone], whole[~gone])
    assert thin.state_dict().keys() == before.keys()  # no masks: it is permanent
    assert torch.equal(thin[6].bias, module[6].bias)
    assert torch.equal(thin[1].weight, module[1].weight)
    assert thin[3].weight.is_contiguous(memory_format=layout)
    after = module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())  # the live teacher is untouched


def test_batch_statistics_are_those_of_training():
    module = network()
    x = torch.rand(6, 1, 8, 8)
    thin = pruned(module, 0.0, "batch").eval()
    expected = module.train()(x)
    torch.testing.assert_close(thin(x), expected)
    assert not torch.allclose(pruned(module, 0.0).eval()(x), expected)


def test_a_blend_adds_answers_and_shows_the_first():
    one, other = frozen(network()), frozen(pruned(network(), 0.5))
    blend = Blend((one, other), (0.7, 0.3))
    said = blend(Classify(), example(), "main", ("embedding",))
    alone = [source(Classify(), example(), "main", ("embedding",)) for source in (one, other)]
    torch.testing.assert_close(said.dense(), 0.7 * alone[0].dense() + 0.3 * alone[1].dense())
    assert torch.equal(said.taps["embedding"], alone[0].taps["embedding"])
    assert blend.module is one.module
    assert blend.fingerprint != Blend((one, other), (0.6, 0.4)).fingerprint != one.fingerprint
    for number in range(6):  # its control answers about another sample
        shifted = Shuffled(blend)(Classify(), example(), "main", ()).dense()
        torch.testing.assert_close(shifted[number], said.dense()[number - 1])


def test_a_shared_teacher_can_be_pruned():
    heard = Heard(frozen(network()))
    thin = heard.with_module(pruned(network(), 0.5))
    blend = Blend((heard, thin), (0.5, 0.5))(Classify(), example(), "main", ())
    assert blend.dense().shape == (6, 5)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: pruned(network(), 1.0), r"in \[0, 1\), got 1.0"),
        (lambda: pruned(nn.ReLU(), 0.1), "ReLU has no Conv2d and no Linear"),
        (lambda: pruned(network(), 0.1, "none"), "running or batch"),
        (lambda: Blend((), ()), "a weight for each"),
        (lambda: Blend((Network(network(), trained=True),), (1.0,)), "one of them is trained"),
    ],
)
def test_what_cannot_be_blended_or_pruned_is_said(act, says):
    with pytest.raises(ValueError, match=says):
        act()


def test_sources_of_a_blend_know_the_same_classes():
    blend = Blend((frozen(network()), frozen(network(classes=4))), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"\[6, 5\], \[6, 4\]; give each a label_map"):
        blend(Classify(), example(), "main", ())
