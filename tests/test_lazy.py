"""Losses from hidden states and heads: as from whole logits, in value and gradient, without ever having them."""

from dataclasses import replace

import pytest
import torch
from cases import CASES
from test_contract import needed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from potstill import lazy
from potstill.largest import top_logits
from potstill.lazy import weighted_sum
from potstill.objectives import JSD, OBJECTIVES, CrossEntropy, ForwardKL
from potstill.terms import Address, Wired, units
from potstill.types import Batch, LazyLogits, Outputs, Progress, View

WIDTHS = 6, 4
START = Progress(step=0, epoch=0, total=10)
TAKERS = [case for case in CASES if OBJECTIVES[case.name].lazy]
TOP_TAKERS = [case for case in TAKERS if OBJECTIVES[case.name].takes_top]
every_taker = pytest.mark.parametrize("case", TAKERS, ids=lambda case: f"{case.name}-{case.student}".replace(" ", ""))
small_pieces = pytest.mark.parametrize("pieces", [(40, 20), (30, 1), (2**20, 50), None], ids=str)


def cut(monkeypatch, pieces):
    if pieces is not None:
        monkeypatch.setattr(lazy, "LOGITS", pieces[0])
        monkeypatch.setattr(lazy, "TEMPORARIES", pieces[1])


def head(units, width, vocabulary, seed, dtype=torch.float64, bias=True):
    """Hidden states and a last layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return LazyLogits(draw(*units, width), draw(vocabulary, width), draw(vocabulary) if bias else None)


def parts(side):
    return [part for part in (side.hidden, side.weight, side.bias) if part is not None]


def share(case, objective, student, teacher, mask):
    """The term's share of its mean, as the engine asks for it."""
    extras = case.all_extras()
    more = {name: value for name, value in extras.items() if name not in ("index", "label", "mask", "draw")}
    view = View(None, extras["index"], extras["label"], mask, more)
    term = Wired(
        case.name,
        objective,
        Address("student", ("output",)),
        None if case.teacher is None else Address("teacher", ("output",)),
        weight=1.0,
    )
    said = {"student": {"main": Outputs(student)}, "teacher": {"main": Outputs(teacher)}}
    return term(said, Batch({"main": view}), mask, units(mask, case.rows, torch.device("cpu")), START, 0)


def masks(case):
    every = torch.arange(torch.Size(case.unit_shape).numel()).reshape(case.unit_shape)
    return [None, every % 3 != 1, torch.zeros_like(every, dtype=torch.bool)]


def both(case, bias=True, dtype=torch.float64):
    vocabulary = case.student[-1]
    return [head(case.unit_shape, width, vocabulary, seed, dtype, bias) for seed, width in enumerate(WIDTHS)]


@every_taker
@small_pieces
def test_equals_the_dense_form(case, pieces, monkeypatch):
    cut(monkeypatch, pieces)
    objective = case.build()
    for mask in masks(case):
        for bias in (True, False):
            student, teacher = both(case, bias)
            found = share(case, objective, student, teacher, mask)
            expected = share(case, objective, student.dense(), teacher.dense(), mask)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
            ours = torch.autograd.grad(3 * found, parts(student))
            theirs = torch.autograd.grad(3 * expected, parts(student))
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@every_taker
def test_only_one_side_is_lazy(case):
    if case.teacher is None:
        pytest.skip(f"{case.name} has no teacher side")
    objective = case.build()
    student, teacher = both(case)
    expected = share(case, objective, student.dense(), teacher.dense(), None)
    for one, other in ((student, teacher.dense()), (student.dense(), teacher)):
        found = share(case, objective, one, other, None)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
        for ours, theirs in zip(
            torch.autograd.grad(found, parts(student)),
            torch.autograd.grad(expected, parts(student), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", TOP_TAKERS, ids=lambda case: f"{case.name}-{case.student}".replace(" ", ""))
@pytest.mark.parametrize("pieces", [(40, 20), None], ids=str)
def test_of_the_teacher_only_the_largest_are_known(case, pieces, monkeypatch):
    cut(monkeypatch, pieces)
    objective = case.build()
    mask = masks(case)[1]
    student, teacher = both(case)
    known = top_logits(teacher.dense().detach(), 4, objective.temperature)
    found = share(case, objective, student, known, mask)
    expected = share(case, objective, student.dense(), known, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    for ours, theirs in zip(*(torch.autograd.grad(loss, parts(student)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@every_taker
def test_takers_have_no_parameters_and_read_rows(case):
    """What `lazy` promises: another token's logits do not matter, and there is nothing else to train."""
    objective = case.build()
    assert not list(objective.parameters())
    assert objective.scope == "unit"
    student, teacher = (side if side is None else side.clone() for side in case.sides())
    before = objective(student, teacher, **needed(objective, case))
    for side in (student, teacher):
        if side is not None:
            side.view(-1, side.shape[-1])[0] += 1
    student.view(-1, student.shape[-1])[0, 0] += 1
    after = objective(student, teacher, **needed(objective, case))
    assert torch.equal(before.flatten()[1:], after.flatten()[1:])
    assert before.flatten()[0] != after.flatten()[0]


@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)], ids=str)
def test_bfloat16_is_summed_in_float32(dtypes, monkeypatch):
    """A thousand tokens, a few at a time: no further from the truth than the rounding of logits; the same from one
    piece. The head's own gradient keeps the dtype of the head."""
    hidden_dtype, head_dtype = dtypes
    tokens, vocabulary = (1000,), 50
    student, teacher = (head(tokens, 16, vocabulary, seed, head_dtype) for seed in (1, 2))
    student, teacher = (
        replace(side, hidden=(side.hidden.detach() / 4).to(hidden_dtype).requires_grad_())
        for side in (student, teacher)
    )
    weights = torch.full(tokens, 1e-3)
    exact = [
        LazyLogits(*(part.detach().to(hidden_dtype).double().requires_grad_() for part in parts(side)))
        for side in (student, teacher)
    ]
    truth = (ForwardKL()(exact[0].dense(), exact[1].dense()) * weights).sum()
    expected = torch.autograd.grad(truth, parts(exact[0]))
    found = {}
    for pieces in ((4 * vocabulary, 2 * vocabulary), None):
        cut(monkeypatch, pieces)
        loss = weighted_sum(ForwardKL(), student, teacher.detach(), weights, {})
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), truth, rtol=5e-3, atol=0)
        gradients = torch.autograd.grad(loss, parts(student))
        assert [g.dtype for g in gradients] == [hidden_dtype, head_dtype, head_dtype]
        for one, other in zip(gradients, expected, strict=True):
            assert (one.double() - other).norm() < 1e-2 * other.norm()
        found[pieces] = [loss, *gradients]
        monkeypatch.undo()
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2 if one.dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "view", [lambda h: h[:, :-1], lambda h: h.transpose(0, 1), lambda h: h[:, 0].T.contiguous().T], ids=range(3)
)
def test_hidden_states_of_any_layout(view):
    """All positions but the last, as next-token losses read them; positions first; column by column."""
    student, teacher = (head((4, 5), 3, 10, seed) for seed in (1, 2))
    student, teacher = (replace(side, hidden=view(side.hidden)) for side in (student, teacher))
    weights = torch.rand(student.shape[:-1], dtype=torch.float64)
    found = weighted_sum(ForwardKL(), student, teacher.detach(), weights, {})
    expected = (ForwardKL()(student.dense(), teacher.dense()) * weights).sum()
    for ours, theirs in zip(*(torch.autograd.grad(loss, parts(student)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_iter(result) if isinstance(x, torch.Tensor))])
        return result


def test_whole_logits_never_exist(monkeypatch):
    tokens, vocabulary = 200, 100
    cut(monkeypatch, (10 * vocabulary, 5 * vocabulary))
    student, teacher = head((4, 50), 3, vocabulary, 1), head((4, 50), 5, vocabulary, 2)
    with Largest() as largest:
        weighted_sum(JSD(), student, teacher.detach(), torch.ones(4, 50), {}).backward()
    assert largest.numel <= 10 * vocabulary < tokens * vocabulary


def test_what_is_not_trained_gets_no_gradient():
    student = head((7,), 3, 10, 1)
    frozen = LazyLogits(student.hidden, student.weight.detach(), student.bias.detach())
    teacher = head((7,), 5, 10, 2).detach()
    weights = torch.ones(7)
    weighted_sum(ForwardKL(), frozen, teacher, weights, {}).backward()
    assert student.hidden.grad is not None
    assert frozen.weight.grad is None
    with torch.no_grad():
        value = weighted_sum(ForwardKL(), student, teacher, weights, {})
    assert not value.requires_grad
    torch.testing.assert_close(value, ForwardKL()(student.dense(), teacher.dense()).sum())
    assert not weighted_sum(ForwardKL(), student.detach(), teacher, weights, {}).requires_grad


def test_the_gradient_is_handed_over_once():
    loss = weighted_sum(ForwardKL(), head((7,), 3, 10, 1), head((7,), 5, 10, 2).detach(), torch.ones(7), {})
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        loss.backward()


def test_infinite_tokens_that_do_not_count(monkeypatch):
    """As from whole logits: what is masked may be anything that is finite before the head."""
    student, teacher = head((4,), 3, 10, 1), head((4,), 3, 10, 2).detach()
    label = torch.tensor([1, 2, 3, -100])
    loss = weighted_sum(CrossEntropy(), student, None, torch.tensor([0.5, 0.5, 0.0, 0.0]), {"label": label})
    loss.backward()
    assert loss.isfinite()
    assert not student.hidden.grad[2:].any()
    assert student.hidden.grad[:2].any()
    assert teacher.shape == (4, 10)


def test_refusals():
    student, teacher = head((4, 3), 6, 10, 1), head((4, 3), 6, 11, 2)
    with pytest.raises(ValueError, match=r"\[4, 3, 10\], the teacher's \[4, 3, 11\]"):
        weighted_sum(ForwardKL(), student, teacher, torch.ones(4, 3), {})
    with pytest.raises(ValueError, match=r"'label' has shape \[4\]"):
        weighted_sum(CrossEntropy(), student, None, torch.ones(4, 3), {"label": torch.ones(4)})
    with pytest.raises(ValueError, match=r"hidden \[2, 3\], weight \[10, 4\], bias None"):
        LazyLogits(torch.zeros(2, 3), torch.zeros(10, 4))
