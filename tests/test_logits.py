"""What the goldens do not show of the losses on logits: extremes, any wrapped loss, refusals."""

from decimal import Decimal, getcontext

import pytest
import torch

from potstill.objectives import DIST, DKD, KD, LSDKD, LSKD, WSLD, FitNet, Standardised
from potstill.terms import Term
from potstill.types import DataInfo

DATA = DataInfo(50, 4)
BOTH = torch.eye(4, 6), torch.eye(4, 6)


def exact_dkd(student, teacher, label, alpha, beta):
    """In 400 digits and without limits of size."""
    getcontext().prec = 400

    def split(row):
        e = [Decimal(float(z)).exp() for z in row]
        rest = [x for k, x in enumerate(e) if k != label]
        return (e[label] / sum(e), sum(rest) / sum(e)), [x / sum(rest) for x in rest]

    def kl(p, q):
        return sum(a * (a / b).ln() for a, b in zip(p, q, strict=True))

    (binary_s, rest_s), (binary_t, rest_t) = split(student), split(teacher)
    return float(Decimal(alpha) * kl(binary_t, binary_s) + Decimal(beta) * kl(rest_t, rest_s))


@pytest.mark.parametrize("size", [1, 60, 400, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dkd_at_temperature_1_is_right_for_any_logits(size, dtype):
    """The released code gives infinity from 60 in float32 and from 400 in float64."""
    signs = torch.tensor([[1.0, -1, 0.5, -0.25], [-1, 1, 0.5, 0.25]], dtype=dtype)
    student, teacher = (size * signs).requires_grad_(), -size * signs
    label = torch.tensor([1, 0])
    losses = DKD(alpha=1, beta=2, temperature=1)(student, teacher, label=label)
    for loss, s, t, y in zip(losses.detach(), student.detach(), teacher, label, strict=True):
        expected = exact_dkd(s, t, int(y), 1, 2)
        assert float(loss) == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-12)
    losses.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad.any()


def test_kd_is_dkd_with_the_weights_of_the_paper():
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 6, 3, 3, 1])
    sure = (teacher / 3).softmax(1)[torch.arange(5), label]
    first = DKD(alpha=1, beta=0, temperature=3)(student, teacher, label=label)
    second = DKD(alpha=0, beta=1, temperature=3)(student, teacher, label=label)
    torch.testing.assert_close(first + (1 - sure) * second, KD(3)(student, teacher))


@pytest.mark.parametrize("scale", [0.5, 20])
def test_standardised_wraps_any_loss_on_logits(scale):
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(5)
    for objective in (DIST(), KD(2), DKD(), WSLD()):
        wrapped = Standardised(objective)
        extras = {"label": label} if wrapped.needs else {}
        plain = wrapped(student, teacher, **extras)
        torch.testing.assert_close(wrapped(student * scale + 3, teacher - 9, **extras), plain, rtol=1e-5, atol=1e-5)
        assert (wrapped.scope, wrapped.needs) == (objective.scope, objective.needs)
    assert Term(Standardised(DIST())).addresses == Term(DIST).addresses


def test_standardised_of_a_constant_row_is_finite():
    student = torch.ones(2, 5, requires_grad=True)
    losses = LSKD()(student, torch.randn(2, 5))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert student.grad.isfinite().all()


def test_published_uses():
    teacher, student = torch.randn(2, 5, 7)
    torch.testing.assert_close(LSKD(3)(student, teacher), Standardised(KD(3))(student, teacher))
    label = torch.arange(5)
    ours = LSDKD(9.0, 72.0)(student, teacher, label=label)
    torch.testing.assert_close(ours, 9 * LSDKD()(student, teacher, label=label))


def test_standardised_refuses():
    with pytest.raises(ValueError, match="fitnet does not compare the logits"):
        Standardised(FitNet((2, 3, 4, 4), (2, 3, 4, 4)))


@pytest.mark.parametrize("kind", [KD, DKD, DIST, WSLD, LSKD, LSDKD])
def test_other_classes_are_refused(kind):
    with pytest.raises(ValueError, match=r"student answers with 6 classes, the teacher with 5; .*label_map"):
        kind.sized(torch.zeros(4, 6), torch.zeros(4, 5), DATA, {})
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        kind.sized(*BOTH, DATA, {}, temperature=0)


@pytest.mark.parametrize("kind", [DKD, LSKD])
def test_one_class_is_refused(kind):
    with pytest.raises(ValueError, match="1"):
        kind.sized(torch.zeros(4, 1), torch.zeros(4, 1), DATA, {})


def test_dist_refuses_tokens_and_other_sizes():
    with pytest.raises(ValueError, match=r"expected logits \[B, K\] or \[B, K, H, W\]"):
        DIST.sized(torch.zeros(4, 3, 5), torch.zeros(4, 3, 5), DATA, {})
    with pytest.raises(ValueError, match="of one size"):
        DIST.sized(torch.zeros(4, 3, 5, 5), torch.zeros(4, 3, 4, 5), DATA, {})


def test_wsld_asks_less_where_the_student_fits_the_label():
    """A sure teacher of a lost student gives the full weight, an equal pair 1 - 1/e."""
    sure, lost = torch.tensor([[50.0, 0, 0]]), torch.tensor([[0.0, 50, 0]])
    label = torch.tensor([0])
    plain = -(sure.softmax(1) * lost.log_softmax(1)).sum()
    torch.testing.assert_close(WSLD(temperature=1, alpha=1)(lost, sure, label=label)[0], plain)
    even = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    entropy = -(even.softmax(1) * even.log_softmax(1)).sum()
    weight = 1 - torch.exp(torch.tensor(-1.0, dtype=torch.float64))
    ours = WSLD(temperature=1, alpha=1)(even, even, label=label)[0]
    torch.testing.assert_close(ours, weight * entropy, rtol=1e-6, atol=0)
