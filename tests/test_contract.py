"""Every objective keeps the same promises (design, section 7). Rows and waivers stand in `cases.py`."""

import inspect
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from torch.func import functional_call

from potstill.methods import parse
from potstill.objectives import OBJECTIVES
from potstill.terms import Address, Wired, units
from potstill.types import Batch, Outputs, Progress, View

START = Progress(step=0, epoch=0, total=10)


def named(case: Case) -> str:
    return f"{case.name}-{case.student}".replace(" ", "")


every_objective = pytest.mark.parametrize("case", CASES, ids=named)


@pytest.fixture(autouse=True)
def waived(request):
    """Skips a check that the objective's row waives; pytest's summary prints the reason."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    check = request.node.originalname.removeprefix("test_")
    if case and check in case.waive:
        pytest.skip(f"waived for {case.name}: {case.waive[check]}")


def tensors(side) -> tuple:
    return () if side is None else side if isinstance(side, tuple) else (side,)


def each(function, side):
    """`function` of one tensor, or of each of several."""
    if side is None:
        return None
    return tuple(function(one) for one in side) if isinstance(side, tuple) else function(side)


def needed(objective, case) -> dict:
    given = case.all_extras()
    return {name: given[name] for name in objective.needs}


def losses_of(objective, case, student, teacher):
    return objective(student, teacher, **needed(objective, case))


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


class Step:
    """One term on one batch, as the engine runs it: outputs by source and view, a mask, and the global count."""

    def __init__(self, case, objective, mask=None):
        self.student, self.teacher = (each(leaf, side) for side in case.sides())
        extras = case.all_extras()
        view = View(None, extras["index"], extras["label"], mask, {k: extras[k] for k in ("draw", *case.extras)})
        self.batch = Batch({"main": view})
        self.count = units(mask, case.rows, torch.device("cpu"))
        sides = [self.address("student", self.student), self.address("teacher", self.teacher)]
        self.term = Wired(case.name, objective, *sides, weight=1.0)

    @staticmethod
    def address(source, side):
        return side if side is None else Address(source, tuple(f"tap{n}" for n in range(len(tensors(side)))))

    def share(self, start=0, stop=None):
        """The share of rows `start` to `stop` in the term's mean over the whole batch."""
        stop = len(self.batch) if stop is None else stop
        said = {}
        for source, side in (("student", self.student), ("teacher", self.teacher)):
            taps = {f"tap{n}": one[start:stop] for n, one in enumerate(tensors(side))}
            said[source] = {"main": Outputs(torch.zeros(stop - start), taps)}
        part = Batch({"main": self.batch.main.slice(start, stop)})
        return self.term(said, part, part.main.mask, self.count, START, seed=0)


def test_every_objective_has_a_row():
    assert {case.name for case in CASES} == set(OBJECTIVES), "add a row to tests/cases.py"


def test_waivers_name_checks_and_give_reasons():
    checks = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for case in CASES:
        assert set(case.waive) <= checks
        assert all(case.waive.values())


@every_objective
def test_units(case):
    """One loss per unit; only a loss defined on the whole batch may return a single one."""
    objective = case.build()
    shape = losses_of(objective, case, *case.sides()).shape
    assert shape == case.unit_shape or (objective.scope == "batch" and shape.numel() == 1)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("large", [False, True])
def test_finite(case, dtype, large):
    objective = case.build(torch.float32)
    student, teacher = case.sides(dtype)
    if large:
        student, teacher = (each(lambda x: x.sign() * 50, side) for side in (student, teacher))
    student, teacher = each(leaf, student), each(leaf, teacher)
    losses = losses_of(objective, case, student, teacher)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    losses.mean().backward()
    gradients = [x.grad for x in (*tensors(student), *tensors(teacher), *objective.parameters())]
    assert all(g is None or g.isfinite().all() for g in gradients)


@every_objective
def test_bfloat16_inputs_are_computed_in_float32(case):
    """Only the rounding of the inputs themselves is lost."""
    objective = case.build(torch.float32)
    coarse = case.sides(torch.bfloat16)
    losses = losses_of(objective, case, *coarse)
    exact = losses_of(objective, case, *(each(torch.Tensor.float, side) for side in coarse))
    torch.testing.assert_close(losses, exact, rtol=1e-5, atol=1e-6)


@every_objective
def test_right_side_gets_no_gradient(case):
    step = Step(case, case.build())
    step.share().backward()
    assert all(one.grad is not None for one in tensors(step.student))
    assert all(one.grad is None for one in tensors(step.teacher))


@every_objective
def test_gradcheck(case):
    objective = case.build()
    student, teacher = case.sides()
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    inputs = [leaf(x) for x in (*tensors(student), *parameters.values())]
    many = isinstance(student, tuple)

    def losses(*values):
        count = len(tensors(student))
        given = dict(zip(parameters, values[count:], strict=True))
        left = None if student is None else values[:count] if many else values[0]
        return functional_call(objective, given, (left, teacher), needed(objective, case))

    assert torch.autograd.gradcheck(losses, inputs)


@every_objective
def test_zero_at_match(case):
    objective = case.build()
    if not objective.zero_at_match:
        pytest.skip(f"{case.name} does not promise it (zero_at_match is False)")
    student, _ = case.sides()
    losses = losses_of(objective, case, student, each(torch.clone, student))
    assert losses.abs().max() < 1e-12


@every_objective
def test_permuting_the_batch_permutes_the_units(case):
    objective = case.build()
    student, teacher = case.sides()
    order = torch.randperm(case.rows, generator=torch.Generator().manual_seed(3))
    before = losses_of(objective, case, student, teacher)
    extras = {name: value[order] for name, value in needed(objective, case).items()}
    after = objective(each(lambda x: x[order], student), each(lambda x: x[order], teacher), **extras)
    expected = before if before.numel() == 1 else before[order]
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-12)


@every_objective
def test_pure(case):
    """Inputs, parameters and the random state stay as they are, and the same input gives the same bits."""
    objective = case.build()
    student, teacher = case.sides()
    extras = needed(objective, case)
    kept = [x.clone() for x in (*tensors(student), *tensors(teacher), *extras.values())]
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    first = objective(student, teacher, **extras)
    second = objective(student, teacher, **extras)
    assert torch.equal(first, second)
    assert torch.equal(random, torch.get_rng_state())
    now = (*tensors(student), *tensors(teacher), *extras.values())
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    for name, value in objective.state_dict().items():
        running = objective.batch_statistics and ("running" in name or "num_batches" in name)
        assert running or torch.equal(value, state[name]), name


def masks(case):
    """None, one flag per sample, and, where units are tokens, one per token (a whole sample of them False)."""
    per_sample = torch.arange(case.rows) % 3 != 1
    found = [None]
    if case.unit_shape == (case.rows,):
        found.append(per_sample)
    else:
        per_token = torch.arange(torch.Size(case.unit_shape).numel()).reshape(case.unit_shape) % 4 != 2
        found.append(per_token & per_sample[:, None])
    return found


@every_objective
def test_term_is_the_mean_over_units(case):
    for mask in masks(case):
        objective = case.build()
        step = Step(case, objective, mask)
        given = needed(objective, case)
        if "mask" in given and mask is not None:
            given["mask"] = mask
        if "draw" in given:
            given["draw"] = step.term.extras(step.batch, mask, START, seed=0)["draw"]
        losses = objective(step.student, step.teacher, **given)
        if losses.numel() == 1:
            continue
        kept = [x for n, x in enumerate(losses.flatten()) if mask is None or mask.flatten()[n]]
        torch.testing.assert_close(step.share(), sum(kept) / len(kept), rtol=1e-12, atol=1e-12)


@every_objective
def test_micro_batches_add_up(case):
    objective = case.build()
    if objective.scope == "batch" or objective.batch_statistics:
        pytest.skip(f"{case.name} relates the samples of a batch: a split is the engine's work")
    for mask in masks(case):
        whole = Step(case, objective, mask)
        value = whole.share()
        value.backward()
        for edges in ([0, 1, case.rows], [0, 2, 3, case.rows]):
            parts = Step(case, objective, mask)
            shares = [parts.share(a, b) for a, b in zip(edges, edges[1:], strict=False)]
            for share in shares:
                share.backward()
            torch.testing.assert_close(sum(shares), value, rtol=1e-12, atol=1e-12)
            for one, other in zip(tensors(parts.student), tensors(whole.student), strict=True):
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-14)


@every_objective
def test_nothing_counts(case):
    """Where every unit is masked the term is zero, and it can still be back-propagated."""
    for mask in masks(case)[1:]:
        step = Step(case, case.build(), torch.zeros_like(mask))
        value = step.share()
        assert value == 0
        value.backward()
        for one in tensors(step.student):
            assert torch.equal(one.grad, torch.zeros_like(one))


@every_objective
def test_state_dict_round_trip(case):
    one, other = case.build(seed=4), case.build(seed=5)
    if dict(one.named_parameters()):
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    other.load_state_dict(one.state_dict())
    assert torch.equal(losses_of(one, case, *case.sides()), losses_of(other, case, *case.sides()))


@every_objective
def test_declarations(case):
    kind = OBJECTIVES[case.name]
    assert len(kind.default_taps) == 2
    assert any(tap is not None for tap in kind.default_taps)
    assert kind.default_weight > 0
    assert kind.paper_terms is None or parse(case.name).expansion == kind.paper_terms
    objective = case.build()
    assert isinstance(objective.needs, tuple)
    assert objective.scope in ("unit", "batch")
    sides = (case.student, case.teacher)
    assert [side is None for side in sides] == [tap is None for tap in kind.default_taps]


@every_objective
def test_paper(case):
    """Authors, title, year and, where there is one, the arXiv number."""
    assert len(OBJECTIVES[case.name].paper.split()) > 5
    assert any(f"{year}." in OBJECTIVES[case.name].paper for year in range(2006, 2100))


@every_objective
def test_source_file(case):
    kind = OBJECTIVES[case.name]
    source = Path(inspect.getsourcefile(kind)).read_text()
    for never in (".cuda", "print(", ".item("):
        assert never not in source
    assert len(source.splitlines()) <= 150, "an objective is one file of at most 150 lines"
    assert "Shapes:" in kind.__doc__
