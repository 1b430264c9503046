"""What wiring refuses, and that looking leaves everything as it was."""

import copy

import pytest
import torch
from engine_kit import NAMES, Net, Queue, example, make
from torch import nn

from potstill.objectives import ICD, KD, CrossEntropy, FitNet
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.terms import Spec, Term
from potstill.types import DataInfo, Outputs
from potstill.wiring import wire


def sources(**more):
    found = {"student": Network(Net(5, 1), trained=True, names=NAMES), "teacher": Network(Net(7, 2), trained=False)}
    found["teacher"].names = dict(NAMES)
    return found | more


def look(*terms, rows=14, **more):
    return wire(terms, sources(**more), Classify(), example(0, rows), DataInfo(100, rows, 4))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term(KD, "output", "techer:output"), r"term 'kd': no source 'techer'; did you mean 'teacher'"),
        (Term(KD, "studnet:output"), r"term 'kd': no source 'studnet'; did you mean 'student'"),
        (Term(KD, "output@othr", "output"), r"term 'kd': no view 'othr'; did you mean 'other'"),
        (Term(KD, "output", "output@crop", name="mine"), r"term 'mine': no view 'crop'; known: main, other"),
        (Term(ICD, "bodi", "embedding"), r"tap 'bodi'.*no such module; did you mean 'body'"),
        (Term(ICD, "embedding", "middel"), r"tap 'middel'.*no such module; did you mean 'middle'"),
        (Term(FitNet), r"Net has no 'stage2': it has no feature map .*the probe found embedding, hidden"),
        (Term(KD, "teacher:output", "output"), r"term 'kd': the left address 'teacher' is not trained"),
        (Term(FitNet, "embedding", "embedding"), r"expected a feature map \[B, C, H, W\]"),
    ],
)
def test_a_wrong_address(term, message):
    with pytest.raises(ValueError, match=message):
        look(term)


class Cache:
    """A source that has only what was written into it."""

    trained, module, fingerprint = False, None, "cache"
    provides = frozenset({"embedding"})

    def __call__(self, task, batch, view, taps):
        return Outputs(torch.zeros(len(batch), 4), {tap: torch.zeros(len(batch), 3) for tap in taps})


def test_a_tap_that_a_source_does_not_give():
    look(Term(KD, "output", "cache:output"), Term(ICD, "embedding", "cache:embedding"), cache=Cache())
    with pytest.raises(ValueError, match=r"source 'cache' does not give tap 'embeding'; did you mean 'embedding'"):
        look(Term(ICD, "embedding", "cache:embeding"), cache=Cache())


@pytest.mark.parametrize("where", ["body", "fc"])
def test_a_teacher_of_nan(where):
    bad = Net(7, 2)
    nn.init.constant_(getattr(bad, where).bias, torch.nan)
    with pytest.raises(ValueError, match=r"term 'kd': source 'teacher' answers with NaN or infinity"):
        look(Term(KD), teacher=Network(bad, trained=False, names=NAMES))


def test_a_batch_of_one_has_no_relations():
    with pytest.raises(ValueError, match=r"term 'icd' relates the samples.*batch of 1; use a batch size of at least 2"):
        look(Term(Spec.of(ICD, width=4)), rows=1)
    look(Term(KD), Term(CrossEntropy), rows=1)


def test_different_numbers_of_classes():
    class Wide(Net):
        def forward(self, x):
            return torch.cat([super().forward(x)] * 2, 1)

    with pytest.raises(ValueError, match=r"the student answers with 4 classes, the teacher with 8"):
        look(Term(KD), teacher=Network(Wide(7, 2), trained=False))


def test_looking_changes_nothing():
    """Weights, running statistics, modes and the random state."""
    middle = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout())
    student = Net(5, 1, middle).train()
    student.fc.eval()
    before = copy.deepcopy(student.state_dict())
    modes = [module.training for module in student.modules()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    look(Term(Spec.of(ICD, width=4)), Term(Queue), student=Network(student, trained=True, names=NAMES))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert [module.training for module in student.modules()] == modes


def test_weights_of_heads_depend_on_seed_and_name_only():
    def head(*terms, seed=3):
        engine = make(terms, [example(0)], seed=seed)
        return next(t for t in engine.system.terms if t.name == "icd").objective.student_head.weight

    icd, kd, queue = Term(Spec.of(ICD, width=4)), Term(KD), Term(Queue)
    assert torch.equal(head(icd), head(queue, kd, icd))
    assert not torch.equal(head(icd), head(icd, seed=4))


def test_terms_of_one_kind_get_names_of_their_own():
    icd = Term(Spec.of(ICD, width=4))
    one, two, three = look(icd, icd, Term(Spec.of(ICD, width=4), name="named"))
    assert [wired.name for wired in (one, two, three)] == ["icd", "icd_2", "named"]
    assert not torch.equal(one.objective.student_head.weight, two.objective.student_head.weight)
