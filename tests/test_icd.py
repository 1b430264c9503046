"""ICD, the home method: what its parts do on examples that can be worked out by hand."""

import math
import subprocess
import sys

import pytest
import torch

from potstill.objectives import ICD
from potstill.types import DataInfo


def plain(width=2, **options) -> ICD:
    """ICD whose heads are the identity, so that the embeddings are compared as they are."""
    icd = ICD(width, width, width=width, **options).double()
    with torch.no_grad():
        for head in (icd.student_head, icd.teacher_head):
            head.weight.copy_(torch.eye(width))
            head.bias.zero_()
    return icd


def kappa(icd: ICD, value: float) -> ICD:
    with torch.no_grad():
        icd.log_scale.fill_(math.log(value))
    return icd


def embeddings(rows=32, student=12, teacher=20):
    torch.manual_seed(0)
    return torch.randn(rows, student), torch.randn(rows, teacher)


@pytest.mark.parametrize("rows", [2, 5])
def test_perfect_match_by_hand(rows):
    """Orthogonal embeddings that agree: each row has one logit kappa and rows - 1 zeros."""
    match = torch.eye(rows, dtype=torch.float64)
    losses = kappa(plain(rows), 3.0)(match, 7 * match)  # the length of an embedding does not matter
    expected = math.log(1 + (rows - 1) * math.exp(-3.0))
    torch.testing.assert_close(losses, torch.full((rows,), expected, dtype=torch.float64))


def test_both_parts_by_hand():
    """Two equal student embeddings before two orthogonal teachers' (rows of logits: kappa, 0)."""
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    teacher = torch.eye(2, dtype=torch.float64)
    p = 1 / (1 + math.exp(-2.0))
    contrastive = [-math.log(p), -math.log(1 - p)]
    # Read the other way, every teacher finds both students equally likely.
    invariance = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    for alpha, weight in ((0.5, 1.0), (0.0, 1.0), (1.0, 0.0), (2.0, 3.0)):
        losses = kappa(plain(alpha=alpha, contrastive=weight), 2.0)(student, teacher)
        expected = [weight * c + alpha * invariance for c in contrastive]
        torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


def test_invariance_is_zero_where_logits_are_symmetric():
    icd = ICD(12, 12, width=8, contrastive=0, alpha=1)
    student, _ = embeddings()
    assert icd(student, embeddings(teacher=12)[1]).mean() > 1e-3
    icd.teacher_head.load_state_dict(icd.student_head.state_dict())
    assert icd(student, student).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "multiplier"),
    [
        ({"scale": "fixed"}, 1 / 0.07),
        ({"scale": "fixed", "temperature": 0.5}, 2.0),
        ({"scale": "released_fixed"}, 0.07),
        ({"scale": "released_fixed", "temperature": 0.5}, 0.5),
        ({}, math.e),
    ],
)
def test_scale(options, multiplier):
    match = torch.eye(2, dtype=torch.float64)
    icd = plain(**options)
    assert icd(match, match)[0].item() == pytest.approx(math.log1p(math.exp(-multiplier)))
    trained = {name for name, _ in icd.named_parameters() if "head" not in name}
    assert trained == (set() if options else {"log_scale", "bias"})


@pytest.mark.parametrize("ceiling", [10.0, 4.0])
def test_scale_stops_at_the_ceiling(ceiling):
    match = torch.eye(2, dtype=torch.float64)
    for value, at_ceiling in ((ceiling * 1.1, True), (ceiling * 0.9, False)):
        icd = kappa(plain(ceiling=ceiling), value)
        losses = icd(match, match)
        assert losses[0].item() == pytest.approx(math.log1p(math.exp(-min(value, ceiling))))
        losses.mean().backward()
        assert (icd.log_scale.grad == 0) == at_ceiling


def test_bias_never_moves():
    """It is added to every logit and cancels in every softmax: kept because the authors have it."""
    student, teacher = embeddings()
    icd = ICD(12, 20, width=16)
    optimizer = torch.optim.SGD(icd.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    start = icd.log_scale.item(), icd(student, teacher).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        icd(student, teacher).mean().backward()
        assert icd.bias.grad.abs() < 1e-6
        optimizer.step()
    assert abs(icd.bias.item()) < 1e-6
    assert abs(icd.log_scale.item() - start[0]) > 1e-2
    assert icd(student, teacher).mean().item() < start[1]
    with torch.no_grad():
        before = icd(student, teacher)
        icd.bias.fill_(3.0)
        torch.testing.assert_close(icd(student, teacher), before, atol=1e-5, rtol=1e-5)


def test_sized_takes_the_widths_from_the_taps():
    student, teacher = embeddings()
    icd = ICD.sized(student, teacher, DataInfo(100, 32), {}, width=5, ceiling=3)
    assert icd.student_head.weight.shape == (5, 12)
    assert icd.teacher_head.weight.shape == (5, 20)
    assert ICD.sized(student, teacher, DataInfo(100, 32), {}).student_head.out_features == 128
    with pytest.raises(ValueError, match=r"icd: the teacher tap has shape \[32, 20, 1\], expected embeddings"):
        ICD.sized(student, teacher[..., None], DataInfo(100, 32), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "learned"}, "scale must be 'trained', 'fixed' or 'released_fixed', got 'learned'"),
        ({"temperature": 0}, "must be positive, got 0"),
        ({"ceiling": -1}, "must be positive, got 0.07 and -1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ICD(4, 4, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_in_float32(dtype):
    student, teacher = embeddings()
    icd = ICD(12, 20, width=16)
    expected = icd(student, teacher)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(icd(student, teacher), expected)


PEAK = """
import re, sys
import torch
from potstill.objectives import ICD
torch.set_num_threads(1)
rows = int(sys.argv[1])
student, teacher = torch.randn(rows, 64, requires_grad=True), torch.randn(rows, 64)
ICD(64, 64, width=128)(student, teacher).mean().backward()
assert student.grad.isfinite().all()
status = open("/proc/self/status").read()  # getrusage counts what the parent held before exec
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("rows", "gibibytes"),
    [(4096, 1.5), pytest.param(8192, 3.0, marks=pytest.mark.slow)],
)
def test_memory_grows_as_the_square_of_the_batch(rows, gibibytes):
    """A few matrices [B, B]; one tensor [B, B, D] would be 8 GiB at B=4096 and D=128."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(rows)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < gibibytes
