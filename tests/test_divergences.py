"""Divergences of language distillation: known values, their ends and bounds, and logits of -inf."""

import pytest
import torch

from potstill.objectives import (
    AKL,
    JSD,
    KD,
    OBJECTIVES,
    TVD,
    ForwardKL,
    MixtureKL,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    SymmetricKL,
)

TEACHER, STUDENT = (torch.tensor([p], dtype=torch.float64).log() for p in ([0.7, 0.2, 0.1], [0.4, 0.4, 0.2]))
FAMILY = (ForwardKL, ReverseKL, SymmetricKL, TVD, JSD, SkewKL, SkewReverseKL, MixtureKL, AKL)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (ForwardKL(), 0.183787),
        (ReverseKL(), 0.192042),
        (SymmetricKL(), (0.183787 + 0.192042) / 2),
        (JSD(0.1), 0.016518),
        (JSD(), 0.046201),
        (JSD(0.9), 0.017100),
        (TVD(), 0.3),
        (SkewKL(), 0.148550),
        (SkewReverseKL(), 0.152377),
        (ForwardKL(temperature=2), 0.194466 / 4),
        (KD(temperature=2), 0.194466),
        (AKL(), 0.187914),
        (AKL(mu=1), 0.183787),
        (MixtureKL(), 0.047756),
    ],
)
def test_known_values(objective, expected):
    """By hand, in natural logarithms, for the teacher (.7, .2, .1) and the student (.4, .4, .2)."""
    assert objective(STUDENT, TEACHER).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("one", "other"), [(JSD(0), ForwardKL()), (JSD(1), ReverseKL()), (SkewKL(0), ForwardKL())])
def test_ends(one, other):
    assert torch.equal(one(STUDENT, TEACHER), other(STUDENT, TEACHER))
    assert torch.equal(SkewReverseKL(0)(STUDENT, TEACHER), ReverseKL()(STUDENT, TEACHER))


@pytest.mark.parametrize("kind", FAMILY)
def test_a_token_that_neither_side_can_say_changes_nothing(kind):
    """A logit of -inf on both sides, as of padding in the vocabulary: no NaN in the value or in the gradient."""
    student = torch.cat([STUDENT, torch.full((1, 1), -torch.inf)], 1).requires_grad_()
    teacher = torch.cat([TEACHER, torch.full((1, 1), -torch.inf)], 1)
    short = STUDENT.clone().requires_grad_()
    (losses,), (expected,) = kind()(student, teacher), kind()(short, TEACHER)
    torch.testing.assert_close(losses, expected)
    losses.backward()
    expected.backward()
    torch.testing.assert_close(student.grad[:, :3], short.grad)
    assert student.grad[0, 3] == 0


@pytest.mark.parametrize("kind", [TVD, JSD, SkewKL])
def test_bounded_where_the_student_is_wrong(kind):
    """The student can never say what the teacher always says."""
    loss = kind()(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]]))
    assert 0 < loss.item() < 3


@pytest.mark.parametrize("kind", FAMILY)
def test_arguments(kind):
    with pytest.raises(ValueError, match="temperature must be positive"):
        kind(temperature=0)
    with pytest.raises(ValueError, match="3 classes, the teacher with 4"):
        kind.sized(torch.zeros(2, 3), torch.zeros(2, 4), None, {})


@pytest.mark.parametrize(
    ("name", "share"),
    [("jsd", {"beta": 1.1}), ("symmetric_kl", {"beta": -0.1}), ("skew_kl", {"alpha": 1}), ("akl", {"mu": 1.1})],
)
def test_shares(name, share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1"):
        OBJECTIVES[name](**share)
