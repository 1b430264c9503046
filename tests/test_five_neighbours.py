"""Five odd neighbours, wired as typed stubs: if they fit without a line in the engine, the rest will.

CRD: a memory bank, `update`, `prime`, drawn negatives. SimKD: a projector and the teacher's classifier become part of
the student. CKD: comparisons from a teacher that may be called only so often. ONE: a branched student that teaches
itself. SKD: student and teacher make the batch together. The losses are placeholders; the plumbing is real.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from potstill.callbacks import Callback
from potstill.engine import Engine
from potstill.objectives import KD, CrossEntropy
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.terms import Spec, Term
from potstill.types import MAIN, Batch, DataInfo, Objective, Outputs, Source, Stateful, Task, View
from potstill.wiring import wire

SAMPLES, CLASSES, STEPS, SIZE = 24, 5, 4, 6


class Loader:
    """Four batches of six vectors."""

    steps, exact = STEPS, True

    def epoch(self, epoch: int, start: int = 0):
        generator = torch.Generator().manual_seed(epoch)
        inputs, labels = torch.randn(SAMPLES, 8, generator=generator), torch.arange(SAMPLES) % CLASSES
        for step in range(start, STEPS):
            rows = torch.arange(step * SIZE, (step + 1) * SIZE)
            yield Batch({MAIN: View(inputs[rows], rows, labels[rows])})


class Plain:
    """A task in which nothing happens; the neighbours change what they must."""

    combine_scope = "unit"
    derived: ClassVar[dict] = {}
    steps_per_batch = 1

    def prepare(self, batch, sources, progress, seed):
        return (batch,)

    def forward(self, model, batch, view):
        return model(batch.views[view].input)

    def combine(self, outputs, batch):
        return outputs

    def mask(self, batch, view):
        return batch.views[view].mask


def net(width: int = 16, outputs: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, outputs))


def train(terms, student, *, teacher=None, task=None, others=None, epochs=2, callbacks=(), micro_batch=None, **data):
    task = task or Plain()
    sources = {"student": Network(student, trained=True, names={"embedding": "2.input"})}
    if teacher is not None:
        sources["teacher"] = (
            teacher
            if not isinstance(teacher, nn.Module)
            else Network(teacher, trained=False, names={"embedding": "2.input"})
        )
    sources |= others or {}
    info = DataInfo(samples=SAMPLES, batch_size=SIZE, classes=CLASSES, labels=torch.arange(SAMPLES) % CLASSES)
    first = next(iter(Loader().epoch(0)))
    wired = wire(terms, sources, task, first, replace(info, **data))
    fit = Fit(epochs=epochs, batch_size=SIZE, schedule="constant", micro_batch=micro_batch)
    engine = Engine(
        task=task, sources=sources, terms=wired, loader=Loader(), fit=fit, callbacks=callbacks, evaluate=lambda s: {}
    )
    engine.run()
    return engine


class MemoryBank(Objective):
    """CRD's plumbing: two banks by sample index, a constant set by the first batch, negatives from `draw`."""

    needs = ("index", "draw")
    zero_at_match = False
    default_taps = ("embedding", "embedding")
    negatives = 3

    def __init__(self, width: int, samples: int):
        super().__init__()
        self.head = nn.Linear(width, 4)
        self.register_buffer("bank", torch.zeros(samples, 4))
        self.register_buffer("constant", torch.tensor(0.0))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(student.shape[1], data.samples, **kw)

    def prime(self, student, teacher, *, index, draw):
        self.constant.copy_(self.head(student).abs().mean())

    def forward(self, student, teacher, *, index, draw):
        rows = (draw[:, None] + torch.arange(self.negatives)) % len(self.bank)
        against = (self.head(student)[:, None] * self.bank[rows]).sum(-1).mean(1)
        return (self.head(student) - self.bank[index]).square().mean(1) + against / self.constant

    def update(self, student, teacher, *, index, draw):
        self.bank[index] = 0.5 * self.bank[index] + 0.5 * self.head(student)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_crd_keeps_a_bank_that_moves_once_a_step(micro_batch):
    engine = train([Term(CrossEntropy), Term(MemoryBank)], net(), teacher=net(32), micro_batch=micro_batch)
    objective = engine.system.terms[1].objective
    assert objective.constant > 0  # primed before the first forward
    assert (objective.bank.abs().sum(1) > 0).all()  # every sample was seen
    assert "terms.1.objective.bank" in engine.system.state_dict()  # so it resumes


class ReusedClassifier(nn.Module):
    """SimKD: the student's body, a projector, and the teacher's own frozen classifier; all needed for inference."""

    def __init__(self, student: nn.Sequential, teacher: nn.Sequential):
        super().__init__()
        self.body, self.projector = student[:2], nn.Linear(student[0].out_features, teacher[0].out_features)
        self.classifier = teacher[2].requires_grad_(False)

    def forward(self, x):
        return self.classifier(self.projector(self.body(x)))


class MatchFeatures(Objective):
    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        assert student.shape == teacher.shape
        return cls()

    def forward(self, student, teacher):
        return (student - teacher).square().mean(1)


def test_simkd_adapts_the_student_and_leaves_the_reused_classifier_alone():
    student, teacher = net(), net(32)
    adapted = ReusedClassifier(student, teacher)
    before = {k: v.clone() for k, v in adapted.state_dict().items()}
    train([Term(MatchFeatures, "projector", "embedding")], adapted, teacher=teacher)
    after = adapted.state_dict()
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert not torch.equal(before["projector.weight"], after["projector.weight"])


class Budgeted:
    """CKD: answers from a cache of N calls, and refuses call N + 1. It shows no live network."""

    trained, module, provides = False, None, frozenset()

    def __init__(self, network: nn.Module, budget: int):
        self._network, self.left, self.answers = network, budget, torch.full((SAMPLES, CLASSES), torch.nan)
        self.fingerprint = "budgeted"

    def __call__(self, task, batch, view, taps):
        index = batch.views[view].index
        new = self.answers[index].isnan().any(1)
        if int(new.sum()) > self.left:
            raise ValueError(f"the teacher may be called {self.left} more times, {int(new.sum())} were asked")
        with torch.no_grad():
            self.answers[index[new]] = self._network(batch.views[view].input[new])
        self.left -= int(new.sum())
        return Outputs(self.answers[index])

    def state_dict(self):
        return {"left": self.left, "answers": self.answers}

    def load_state_dict(self, state):
        self.left, self.answers = state["left"], state["answers"]


class Comparisons(Plain):
    """Pairs of images become one example: the difference of their logits, on both sides."""

    derived: ClassVar[dict] = {"comparison": ("first", "second")}

    def prepare(self, batch, sources, progress, seed):
        main = batch.main
        other = View(main.input.roll(1, 0), main.index.roll(1), main.label.roll(1))
        difference = View(None, main.index, extras={"target": main.label - other.label})
        yield replace(batch, views={MAIN: main, "first": main, "second": other, "comparison": difference})

    def combine(self, outputs, batch):
        return {
            name: {**views, "comparison": Outputs(views["first"].output - views["second"].output)}
            for name, views in outputs.items()
        }


class Plateau(Callback):
    """A callback with memory: lowers the learning rate and stops."""

    def __init__(self):
        self.seen = 0

    def on_evaluate(self, engine, metrics):
        self.seen += 1
        engine.lr_factor *= 0.1
        engine.stop = self.seen == 2

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_ckd_compares_within_a_budget_and_stops_on_a_plateau(micro_batch):
    term = Term(MatchFeatures, "output@comparison", "output@comparison")
    teacher, plateau = Budgeted(net(), budget=SAMPLES), Plateau()
    engine = train(
        [term], net(), teacher=teacher, task=Comparisons(), epochs=9, callbacks=[plateau], micro_batch=micro_batch
    )
    assert teacher.left == 0
    assert engine.done_epochs == 2  # stopped by the callback
    assert engine.lr_factor == pytest.approx(0.01)
    assert isinstance(teacher, Stateful)  # so both are in the checkpoint
    assert isinstance(plateau, Stateful)


def test_ckd_refuses_one_call_too_many():
    term = Term(MatchFeatures, "output@comparison", "output@comparison")
    with pytest.raises(ValueError, match="may be called"):
        train([term], net(), teacher=Budgeted(net(), budget=SAMPLES - 1), task=Comparisons())


class Branched(nn.Module):
    """ONE: a shared stem and three heads; the answer is their gated ensemble."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Linear(8, 16), nn.Linear(16, 3)
        self.heads = nn.ModuleList(nn.Linear(16, CLASSES) for _ in range(3))

    def forward(self, x):
        hidden = self.stem(x).relu()
        answers = torch.stack([head(hidden) for head in self.heads], 1)
        return (self.gate(hidden).softmax(1)[:, :, None] * answers).sum(1)


def test_one_teaches_its_own_branches_without_a_teacher():
    terms = [Term(CrossEntropy)]
    terms += [Term(CrossEntropy, f"heads.{b}", None, name=f"ce{b}") for b in range(3)]
    terms += [Term(Spec.of(KD, temperature=3.0), f"heads.{b}", "student:output", name=f"kd{b}") for b in range(3)]
    engine = train(terms, Branched())
    assert set(engine.system.sources) == {"student"}
    assert all(p.grad is not None for p in engine.system.parameters())


class Speculative(Plain):
    """SKD: the student proposes, the teacher replaces; two optimizer steps come of one loader batch."""

    steps_per_batch = 2

    def prepare(self, batch, sources, progress, seed):
        student, teacher = sources["student"].module, sources["teacher"].module
        if teacher is None:
            raise ValueError("speculative sampling needs a live teacher, not a cached or budgeted one")
        with torch.no_grad(), sources["student"].evaluating():
            proposed, judged = student(batch.main.input), teacher(batch.main.input)
        kept = proposed.argmax(1) == judged.argmax(1)
        mixed = torch.where(kept[:, None], batch.main.input, batch.main.input.flip(0))
        for step in range(2):
            yield batch.with_view(
                MAIN, replace(batch.main, input=mixed + step, mask=kept | (batch.main.index % 2 == 0))
            )


def test_skd_makes_the_batch_with_both_networks():
    student = net()
    student.train()
    engine = train([Term(KD)], student, teacher=net(), task=Speculative())
    assert engine.step == 2 * 2 * STEPS  # two epochs, two steps a batch
    assert engine.total == engine.step
    assert student.training  # as it was


def test_skd_refuses_a_teacher_that_is_not_live():
    with pytest.raises(ValueError, match="live teacher"):
        train([Term(KD)], net(), teacher=Budgeted(net(), SAMPLES), task=Speculative())


def test_the_stubs_are_what_the_contracts_say():
    assert isinstance(Plain(), Task)
    assert isinstance(Budgeted(net(), 1), Source)
    assert isinstance(Network(net(), trained=False), Source)
