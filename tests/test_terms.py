"""Addresses, the one reduction, extras and random draws of a term."""

import math

import pytest
import torch

from potstill.objectives import ICD, KD, CrossEntropy
from potstill.schedules import Cosine
from potstill.terms import Address, Spec, Term, Wired, plan, reduce, units
from potstill.types import Batch, Objective, Outputs, Progress, View

CPU = torch.device("cpu")
START = Progress(step=0, epoch=0, total=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output", ("student", ("output",), "main")),
        ("teacher:embedding", ("teacher", ("embedding",), "main")),
        ("teacher:embedding@crop", ("teacher", ("embedding",), "crop")),
        ("embedding@crop", ("student", ("embedding",), "crop")),
        ("stage1,stage2", ("student", ("stage1", "stage2"), "main")),
        ("expert2:stage1, stage2 @crop", ("expert2", ("stage1", "stage2"), "crop")),
        ("layer2.1.relu.input", ("student", ("layer2.1.relu.input",), "main")),
        ("stage1.pre@", ("student", ("stage1.pre",), "main")),
    ],
)
def test_address(text, expected):
    address = Address.parse(text, "student")
    assert (address.source, address.taps, address.view) == expected


def test_address_reads():
    hint, deep, answer = torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 5)
    outputs = {"student": {"crop": Outputs(answer, {"hint": hint, "deep": deep})}}
    assert Address.parse("output@crop", "student").read(outputs) is answer
    assert Address.parse("hint@crop", "student").read(outputs) is hint
    several = Address.parse("deep,output,hint@crop", "student").read(outputs)
    assert [x is y for x, y in zip(several, (deep, answer, hint), strict=True)] == [True] * 3


def test_addresses_default_to_the_objectives():
    left, right = Term(ICD).addresses
    assert (left, right) == (Address("student", ("embedding",)), Address("teacher", ("embedding",)))
    assert Term(Spec.of(ICD, alpha=0), "peer:output", "stage1@crop").addresses == (
        Address("peer", ("output",)),
        Address("teacher", ("stage1",), "crop"),
    )
    assert Term(CrossEntropy).addresses == (Address("student", ("output",)), None)
    assert Term(KD(), teacher=None).addresses[1] is None


def test_names():
    assert Term(KD).label == Term(Spec.of(KD, temperature=2)).label == Term(KD(2)).label == "kd"
    assert Term(KD, name="soft").label == "soft"
    assert hash(Term(Spec.of(KD, temperature=2))) == hash(Term(Spec.of(KD, temperature=2)))


def test_plan_collects_taps_once():
    def wired(left, right):
        sides = (None if left is None else Address.parse(left, "student"), Address.parse(right, "teacher"))
        return Wired("x", KD(), *sides, weight=1.0)

    terms = [wired("output", "output"), wired("stage1,stage2", "stage2"), wired("stage2@crop", "stage2,output,a")]
    assert plan([*terms, wired(None, "output@crop")]) == {
        ("student", "main"): ("stage1", "stage2"),
        ("teacher", "main"): ("stage2", "a"),
        ("student", "crop"): ("stage2",),
        ("teacher", "crop"): (),
    }


LOSSES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("losses", "mask", "expected"),
    [
        (LOSSES[:, 0], None, 9 / 2),
        (LOSSES[:, 0], [True, True], 9 / 2),
        (LOSSES[:, 0], [False, True], 8),
        (LOSSES, None, 63 / 6),
        (LOSSES, [[True, True, True], [True, True, True]], 63 / 6),
        (LOSSES, [[True, False, True], [False, True, False]], (1 + 4 + 16) / 3),
        (LOSSES, [[False, False, False], [False, True, True]], (16 + 32) / 2),
        # One loss a sample under a mask of positions: a sample with none left does not count.
        (LOSSES[:, 2], [[False, False, False], [False, True, False]], 32),
        (LOSSES[:, 2], [[True, False, False], [True, True, True]], 36 / 2),
        (LOSSES[:, 0], [False, False], 0),
        (LOSSES, [[False] * 3] * 2, 0),
        (LOSSES[:, 0], [[False] * 3] * 2, 0),
    ],
)
def test_reduction(losses, mask, expected):
    losses = losses.clone().requires_grad_()
    mask = None if mask is None else torch.tensor(mask)
    value = reduce(losses, mask, units(mask, 2, CPU))
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert losses.grad.isfinite().all()
    assert losses.grad.sum().item() == pytest.approx(1 if expected else 0)


def test_masked_losses_may_be_anything():
    losses = torch.tensor([1.0, math.inf, math.nan, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, False, True])
    value = reduce(losses, mask, units(mask, 4, CPU))
    value.backward()
    assert value == 2
    assert losses.grad.tolist() == [0.5, 0, 0, 0.5]


def test_shares_of_an_uneven_split_add_up():
    """Tokens: micro-batches with different numbers of counting positions, one of them with none."""
    torch.manual_seed(0)
    losses = torch.rand(6, 4, dtype=torch.float64)
    mask = torch.rand(6, 4) > 0.4
    mask[2:4] = False
    counted = [losses[i, j].item() for i in range(6) for j in range(4) if mask[i, j]]
    count = sum(units(mask[a:b], b - a, CPU) for a, b in ((0, 1), (1, 6)))
    shares = [reduce(losses[a:b], mask[a:b], count) for a, b in ((0, 2), (2, 4), (4, 6))]
    assert shares[1] == 0
    assert sum(shares).item() == pytest.approx(sum(counted) / len(counted))


def test_units_of_ranks_add_up():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    assert units(mask, 3, CPU).tolist() == [2, 3]
    assert units(mask[:, 0], 3, CPU).tolist() == [2, 2]
    assert units(None, 3, CPU).tolist() == [3, 3]


def test_a_mask_must_fit():
    with pytest.raises(ValueError, match=r"mask of shape \[3\] does not fit losses of shape \[3, 3\]"):
        reduce(torch.zeros(3, 3), torch.ones(3, dtype=torch.bool), torch.ones(2))


class Echo(Objective):
    """Returns the extras that it is given, through `seen`."""

    def __init__(self, *needs, whole=False):
        super().__init__()
        self.needs, self.whole, self.scope = needs, whole, "batch" if whole else "unit"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls()

    def forward(self, student, teacher, **extras):
        self.seen = extras
        return student.sum()[None] if self.whole else student.sum(1)


def run(objective, *, index=(5, 9, 4), mask=None, progress=START, seed=0, name="echo", view="main", **extras):
    tensor = torch.ones(3, 2, requires_grad=True)
    index = torch.tensor(index)
    batch = Batch(
        {
            "main": View(None, torch.zeros(3, dtype=torch.int64)),
            view: View(None, index, extras.pop("label", None), mask, extras),
        }
    )
    outputs = {"student": {view: Outputs(tensor)}, "teacher": {"main": Outputs(torch.ones(3, 2))}}
    term = Wired(name, objective, Address("student", ("output",), view), Address("teacher", ("output",)), 1.0)
    return term(outputs, batch, mask, units(mask, 3, CPU), progress, seed)


def test_extras_come_from_the_left_view():
    label, gaze = torch.tensor([1, 2, 3]), torch.rand(3)
    echo = Echo("label", "index", "mask", "gaze")
    run(echo, view="crop", label=label, gaze=gaze)
    assert set(echo.seen) == {"label", "index", "mask", "gaze"}
    assert echo.seen["label"] is label
    assert echo.seen["gaze"] is gaze
    assert echo.seen["index"].tolist() == [5, 9, 4]
    assert echo.seen["mask"].tolist() == [True] * 3
    mask = torch.tensor([True, False, True])
    run(echo, view="crop", label=label, gaze=gaze, mask=mask)
    assert echo.seen["mask"] is mask


def test_a_missing_extra_says_what_there_is():
    with pytest.raises(ValueError, match=r"term 'echo' needs 'gaze'.*view 'main'; it gives depth, index, label"):
        run(Echo("gaze"), label=torch.zeros(3), depth=torch.zeros(3))
    with pytest.raises(ValueError, match=r"needs 'label'.*it gives index"):
        run(Echo("label"))


def test_a_loss_on_the_whole_batch_passes_through():
    assert run(Echo(whole=True)) == 6
    assert run(Echo()) == 2


def draws(**kw):
    echo = Echo("draw")
    run(echo, **kw)
    return echo.seen["draw"].tolist()


def test_draw_is_reproducible_and_belongs_to_seed_step_index_and_term():
    usual = draws()
    assert draws() == usual
    assert len(set(usual)) == 3
    assert min(usual) >= 0
    for other in (
        draws(seed=1),
        draws(name="echo_2"),
        draws(progress=Progress(1, 0, 10)),
        draws(index=(15, 19, 14)),
    ):
        assert not set(other) & set(usual)
    assert draws(index=(4, 9, 5)) == usual[::-1], "a sample keeps its draw wherever it stands in the batch"
    assert draws(progress=Progress(0, 3, 99)) == usual, "the step alone is the time"


def test_weights():
    assert Wired("x", KD(), None, None, 0.5).weighted(START) == 0.5
    assert Wired("x", KD(), None, None, Cosine()).weighted(Progress(5, 0, 10)) == pytest.approx(0.5)
