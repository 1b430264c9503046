"""Losses over tokens: one mean over all that count, however they are split, padded and answered."""

from dataclasses import replace

import pytest
import torch
from engine_kit import FIT, Given, LargestOfTeacher, LazyHead, Scores, example, make
from test_engine_lazy import VOCABULARY, Language
from test_engine_waiting import NoWaiting

from potstill import lazy
from potstill.engine import Engine
from potstill.largest import top_logits
from potstill.objectives import AKL, DIST, JSD, KD, CrossEntropy, ReverseKL
from potstill.sources import Network, Shuffled
from potstill.step import Stepper
from potstill.tasks.classify import Classify
from potstill.terms import Spec, Term
from potstill.types import MAIN, Batch, DataInfo, Outputs, Progress, View
from potstill.wiring import wire

LENGTHS = [5, 0, 1, 4, 2, 7, 0, 3]
ROWS = len(LENGTHS)
WEIGHTS = 0.5, 1.0, 2.0
KNOWN = 6


class Knows(Language):
    """A teacher of which only the most probable tokens are told."""

    def forward(self, tokens):
        self.whole = True
        return top_logits(super().forward(tokens), KNOWN)


def networks(form):
    """Student and teacher: `dense` or `lazy` answers, and with `top` the teacher's largest alone."""
    student = Language(4, 1).double()
    teacher = (Knows if "top" in form else Language)(6, 2).double()
    student.whole = teacher.whole = "dense" in form
    return student, teacher


def text(longest):
    """The same texts, each filled up with whatever there is to the longest."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(0, VOCABULARY, (2, ROWS, max(LENGTHS)), generator=generator)
    junk, wrong = torch.randint(0, VOCABULARY, (2, ROWS, longest), generator=torch.Generator().manual_seed(longest))
    mask = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    ready = [
        torch.where(mask, torch.cat([kept, filler], 1)[:, :longest], filler)
        for kept, filler in ((tokens, junk), (labels, wrong))
    ]
    return Batch({MAIN: View(ready[0], torch.arange(ROWS), ready[1], mask)})


def gradients(form, micro, longest):
    """Of one step, and the means of the terms."""
    student, teacher = networks(form)
    sources = {"student": Network(student, trained=True), "teacher": Network(teacher, trained=False)}
    terms = [Term(kind, weight=weight) for kind, weight in zip((CrossEntropy, JSD, AKL), WEIGHTS, strict=True)]
    batch, task = text(longest), Classify()
    wired = wire(terms, sources, task, batch, DataInfo(ROWS, ROWS, VOCABULARY), 3)
    engine = Engine(task=task, sources=sources, terms=wired, loader=Given([batch]), fit=FIT, seed=3)
    means = Stepper(engine.system, engine.system, micro)(batch, Progress(0, 0, 1))
    return [parameter.grad for parameter in student.parameters()], means


def by_hand(form):
    """Text by text and token by token, without any filler."""
    student, teacher = networks(form.replace("lazy", "dense"))
    batch, means = text(max(LENGTHS)), [0.0, 0.0, 0.0]
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            past = batch.main.input[row, : place + 1][None]
            z = student(past)[:, -1]
            t = teacher(past)
            t = replace(t, log_probs=t.log_probs[:, -1], indices=t.indices[:, -1]) if "top" in form else t[:, -1]
            values = -z.log_softmax(-1)[0, batch.main.label[row, place]], JSD()(z, t)[0], AKL()(z, t)[0]
            means = [mean + value / sum(LENGTHS) for mean, value in zip(means, values, strict=True)]
    loss = sum(weight * mean for weight, mean in zip(WEIGHTS, means, strict=True))
    return torch.autograd.grad(loss, list(student.parameters())), torch.stack(means).detach()


@pytest.mark.parametrize("form", ["dense", "lazy", "dense top", "lazy top"])
def test_neither_splits_nor_padding_change_the_gradient(form, monkeypatch):
    monkeypatch.setattr(lazy, "LOGITS", 20 * VOCABULARY)
    monkeypatch.setattr(lazy, "TEMPORARIES", 9 * VOCABULARY)
    expected, means = by_hand(form)
    for micro, longest in ((None, 12), (3, 7), (1, 9)):
        found, seen = gradients(form, micro, longest)
        torch.testing.assert_close(seen, means, rtol=1e-10, atol=0)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_nothing_waits_for_the_largest():
    batches = [example(step) for step in range(2)]
    terms = [Term(Spec.of(kind, temperature=4.0)) for kind in (KD, ReverseKL, AKL)]
    engine = make(terms, batches, task=LargestOfTeacher(), fit=replace(FIT, micro_batch=4))
    engine.begin()
    engine.train_on(batches[0])
    with NoWaiting():
        engine.train_on(batches[1])


def test_the_shuffled_control_hears_about_another_text():
    known = top_logits(torch.randn(4, 3, VOCABULARY), KNOWN)

    class Says:
        provides, fingerprint = None, "says"

        def __call__(self, task, batch, view, taps):
            return Outputs(known)

    view = View(torch.zeros(4, 3), torch.arange(4))
    said = Shuffled(Says())(Classify(), Batch({MAIN: view}), MAIN, ()).output
    assert torch.equal(said.log_probs, known.log_probs[[3, 0, 1, 2]])
    assert torch.equal(said.indices, known.indices[[3, 0, 1, 2]])


class LargestScores(LargestOfTeacher, Scores):
    """Relates whole answers, and knows a part."""


class LargestOfBoth(LazyHead):
    def forward(self, model, batch, view):
        return top_logits(super().forward(model, batch, view).dense(), 2, 4.0)


class NotNumbers(LargestOfTeacher):
    def forward(self, model, batch, view):
        answer = super().forward(model, batch, view)
        return replace(answer, log_probs=answer.log_probs + 1) if hasattr(answer, "log_probs") else answer


class DenseStudent(LargestOfTeacher):
    def forward(self, model, batch, view):
        answer = super().forward(model, batch, view)
        return answer.dense() if hasattr(answer, "dense") else answer


@pytest.mark.parametrize(
    ("term", "task", "message"),
    [
        (Term(DIST), DenseStudent, "'dist': DIST reads all of the teacher's logits, and of this teacher only the 2"),
        (Term(KD, "output", "output,body"), DenseStudent, "only the 2 most probable tokens are known"),
        (
            Term(JSD),
            LargestOfTeacher,
            "'jsd' has temperature 1, and the teacher's TopLogits are known at temperature 4",
        ),
        (Term(KD), LargestOfBoth, "the student answers with TopLogits, which carry no gradient"),
        (Term(KD), LargestScores, "LargestScores relates the samples of a batch and needs whole answers"),
        (Term(KD), NotNumbers, "source 'teacher' gives no distribution. .* sum to more than 1"),
    ],
)
def test_refused_at_wiring(term, task, message):
    with pytest.raises(ValueError, match=message):
        make([term], [example(0)], task=task())
