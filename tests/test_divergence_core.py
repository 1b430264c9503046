"""Every divergence against plain probabilities, and where numbers end: logits of -inf, underflow, masks, bfloat16."""

import math

import pytest
import torch

from potstill.largest import top_logits
from potstill.objectives import OBJECTIVES
from potstill.terms import reduce, units
from potstill.types import TopLogits

VOCABULARY = 9


def kl(a, b):
    return sum(x * (x / y).log() for x, y in zip(a, b, strict=True) if x > 0)


def blend(a, b, share):
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def jsd(p, q, beta):
    return beta * kl(p, blend(p, q, beta)) + (1 - beta) * kl(q, blend(p, q, beta))


def akl(p, q, mu, tokens=None):
    """Token by token, the most probable first; the share of the head is a plain number."""
    order = sorted(range(tokens or len(p)), key=lambda v: -p[v].item())
    mass, head, gap = 0.0, 0.0, [abs(x.item() - y.item()) for x, y in zip(p, q, strict=True)]
    for rank, v in enumerate(order):
        mass += p[v].item()
        head += gap[v] if rank == 0 or mass <= mu else 0
    share = head / sum(gap)
    return share * kl(p, q) + (1 - share) * kl(q, p)


REFERENCES = {
    ("kd", ("temperature", 2.0)): lambda p, q: 4 * kl(p, q),
    ("forward_kl",): kl,
    ("forward_kl", ("temperature", 2.0)): kl,
    ("reverse_kl",): lambda p, q: kl(q, p),
    ("symmetric_kl", ("beta", 0.9)): lambda p, q: 0.1 * kl(p, q) + 0.9 * kl(q, p),
    ("tvd",): lambda p, q: sum((x - y).abs() for x, y in zip(p, q, strict=True)) / 2,
    ("jsd", ("beta", 0.1)): lambda p, q: jsd(p, q, 0.1),
    ("jsd", ("temperature", 0.5)): lambda p, q: jsd(p, q, 0.5),
    ("jsd", ("beta", 0.0)): kl,
    ("jsd", ("beta", 1.0)): lambda p, q: kl(q, p),
    ("skew_kl",): lambda p, q: kl(p, blend(p, q, 0.1)),
    ("skew_reverse_kl", ("alpha", 0.3)): lambda p, q: kl(q, blend(q, p, 0.3)),
    ("mixture_kl",): lambda p, q: (kl(blend(p, q, 0.5), p) + kl(blend(p, q, 0.5), q)) / 2,
    ("akl",): lambda p, q: akl(p, q, 0.5),
    ("akl", ("mu", 0.8), ("temperature", 2.0)): lambda p, q: akl(p, q, 0.8),
}
CORE = sorted({name for name, *_ in REFERENCES})
every = pytest.mark.parametrize("name", CORE)
against_plain = pytest.mark.parametrize("which", REFERENCES, ids=lambda w: "-".join(map(str, w)).replace(" ", ""))


def build(which):
    name, *options = which
    return OBJECTIVES[name](**dict(options))


def draw(*shape, seed=0, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def probabilities(logits, temperature):
    powers = [(z / temperature).exp() for z in logits]
    return [power / sum(powers) for power in powers]


def pooled(law, kept):
    """The kept tokens and one class for all others."""
    return [law[v] for v in kept] + (
        [sum(x for v, x in enumerate(law) if v not in kept)] if len(kept) < len(law) else []
    )


def same(found, expected, student, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-12)
    ours, theirs = (torch.autograd.grad(loss.sum(), student)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-12)


@against_plain
def test_value_and_gradient(which):
    objective, reference = build(which), REFERENCES[which]
    student, teacher = draw(2, 3, VOCABULARY).requires_grad_(), draw(2, 3, VOCABULARY, seed=1)
    laws = [
        [probabilities(row, objective.temperature) for row in side.view(-1, VOCABULARY)] for side in (teacher, student)
    ]
    same(
        objective(student, teacher).flatten(),
        torch.stack([reference(p, q) for p, q in zip(*laws, strict=True)]),
        student,
    )


@against_plain
@pytest.mark.parametrize("k", [1, 3, VOCABULARY - 2])
def test_of_the_k_largest_and_the_rest(which, k):
    """A row may also know fewer than the others: what fills it up is no token."""
    objective, reference = build(which), REFERENCES[which]
    student, teacher = draw(2, 2, VOCABULARY).requires_grad_(), draw(2, 2, VOCABULARY, seed=1)
    known = top_logits(teacher, k, objective.temperature)
    known.log_probs[0, 1, 1:], known.indices[0, 1, 1:] = -math.inf, -1
    expected = []
    for p, q, kept in zip(
        teacher.view(-1, VOCABULARY), student.view(-1, VOCABULARY), known.flat().indices, strict=True
    ):
        p, q = (
            pooled(probabilities(law, objective.temperature), [v for v in kept.tolist() if v >= 0]) for law in (p, q)
        )
        # Whatever the others' mass is, they belong to the tail.
        value = akl(p, q, objective.mu, len(p) - 1) if which[0] == "akl" else reference(p, q)
        expected.append(value)
    same(objective(student, known).flatten(), torch.stack(expected), student)


@every
def test_all_tokens_known_is_the_dense_form(name):
    objective = OBJECTIVES[name]()
    student, teacher = draw(3, 4, 40).requires_grad_(), draw(3, 4, 40, seed=1)
    shuffled = top_logits(teacher, 40, objective.temperature)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = TopLogits(shuffled.log_probs[..., order], shuffled.indices[..., order], 40, shuffled.temperature)
    same(objective(student, shuffled), objective(student, teacher), student, 1e-9)


@pytest.mark.parametrize("name", [name for name in CORE if name != "akl"])
def test_fewer_tokens_are_a_lower_bound(name):
    """The data processing inequality: what is not told apart cannot differ. The more tokens are known, the closer."""
    objective = OBJECTIVES[name]()
    student, teacher = draw(200, 40, size=3), draw(200, 40, seed=1, size=3)
    values = [objective(student, top_logits(teacher, k, objective.temperature)) for k in (1, 2, 5, 20, 39)]
    values.append(objective(student, teacher))
    for fewer, more in zip(values, values[1:], strict=False):
        assert (fewer <= more + 1e-9).all()
    assert values[0].mean() < 0.9 * values[-1].mean()


INF = math.inf
EDGES = {
    "the student cannot say a token": ([0.0, -INF, 1.0, 2.0, 0.5], [2.0, 3.0, 0.0, 1.0, -1.0]),
    "the teacher cannot": ([2.0, 3.0, 0.0, 1.0, -1.0], [0.0, -INF, 1.0, 2.0, 0.5]),
    "both cannot": ([-INF, 3.0, 0.0, 1.0, -1.0], [-INF, 0.0, 1.0, 2.0, 0.5]),
    "nothing in common": ([0.0, -INF, -INF, -INF, 1.0], [-INF, 0.0, -INF, 1.0, -INF]),
    "nothing at all": ([-INF] * 5, [-INF] * 5),
    "underflow": ([1e4, -1e4, 0.0, 0.0, 1.0], [-1e4, 1e4, 0.0, 0.0, 1.0]),
    "the same underflow": ([1e4, -1e4, 0.0, 0.0, 1.0], [1e4, -1e4, 0.0, 0.0, 1.0]),
    "sure": ([90.0, 0.0, -90.0, 0.0, 1.0], [90.0, 1.0, 0.0, -90.0, 0.0]),
}


@every
@pytest.mark.parametrize("k", [None, 1, 3, 5], ids=lambda k: f"k={k}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_finite(name, k, dtype):
    """Value and gradient of each unit; a token without probability gets no gradient."""
    objective = OBJECTIVES[name]()
    student, teacher = (torch.tensor(side, dtype=dtype) for side in zip(*EDGES.values(), strict=True))
    student.requires_grad_()
    losses = objective(student, teacher if k is None else top_logits(teacher, k, objective.temperature))
    for number, edge in enumerate(EDGES):
        (gradient,) = torch.autograd.grad(losses[number], student, retain_graph=True)
        assert losses[number].isfinite(), edge
        assert losses[number] >= -1e-6, edge
        assert gradient.isfinite().all(), edge
        assert not gradient[student == -INF].any(), edge
    assert losses.sum().isfinite()
    matching = list(EDGES).index("the same underflow")
    assert losses[matching].abs() < 1e-6
    if objective.temperature == 1 and name in ("tvd", "jsd", "skew_kl", "skew_reverse_kl"):
        assert (losses <= math.log(10) + 1e-5).all(), "bounded by -log(alpha)"


@every
@pytest.mark.parametrize("k", [None, 3])
def test_rows_that_are_masked_may_say_anything(name, k):
    objective = OBJECTIVES[name]()
    student, teacher = draw(3, 4, VOCABULARY), draw(3, 4, VOCABULARY, seed=1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    found = []
    for junk in (0.0, -INF, 1e4):
        ours, theirs = (side.masked_fill(~mask[..., None], junk) for side in (student, teacher))
        ours = ours.requires_grad_()
        said = theirs if k is None else top_logits(theirs, k, objective.temperature)
        loss = reduce(objective(ours, said), mask, units(mask, 3, torch.device("cpu")))
        (gradient,) = torch.autograd.grad(loss, ours)
        assert not gradient[~mask].any()
        found.append(torch.cat([loss.detach().view(1), gradient.flatten()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=1e-12, atol=0)


@every
def test_bfloat16_logits_beside_what_is_known_in_float32(name):
    objective = OBJECTIVES[name]()
    student = draw(4, VOCABULARY).bfloat16()
    known = top_logits(draw(4, VOCABULARY, seed=1).float(), 3, objective.temperature)
    losses = objective(student, known)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, objective(student.float(), known))


@pytest.mark.parametrize("mass", [1e-4, 1e-7, 1e-10])
def test_a_sure_teacher_leaves_a_rest_that_float32_cannot_subtract(mass):
    """1 - p is 0 in float32, and reverse KL asks for its logarithm."""
    rest = math.log(mass / 7)
    logits = torch.tensor([math.log(0.9), math.log(0.1 - mass), *[rest] * 7], dtype=torch.float64)
    student = draw(9)
    exact = OBJECTIVES["reverse_kl"]()(student[None], top_logits(logits[None], 2))
    sure = TopLogits(torch.tensor([[-mass]]), torch.tensor([[0]]), 9)
    found = OBJECTIVES["reverse_kl"]()(student[None].float(), sure)
    q = student.softmax(0)
    expected = q[0] * (q[0].log() + mass) + (1 - q[0]) * ((1 - q[0]).log() - math.log(mass))
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=0)
    assert exact.isfinite()
    coarse = OBJECTIVES["reverse_kl"]()(student[None].float(), top_logits(logits[None].float(), 2))
    assert abs(coarse - exact) < 8 * q[2:].sum(), "off by the logarithm of rounding, not by that of the smallest float"
