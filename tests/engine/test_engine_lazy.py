"""LazyLogits through the engine: a small language model whose head is its embedding, waiting, and refusals."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from engine_kit import FIT, Given, Gram, LazyHead, Scores, example, make, sequences
from test_engine_waiting import NoWaiting
from torch import nn

from potstill import lazy
from potstill.engine import Engine
from potstill.objectives import DIST, KD, CrossEntropy, ForwardKL, ReverseKL
from potstill.sources import Network, Shuffled
from potstill.tasks.classify import Classify
from potstill.terms import Spec, Term
from potstill.types import MAIN, Batch, DataInfo, LazyLogits, View
from potstill.wiring import wire

VOCABULARY, ROWS, TOKENS = 23, 8, 5
TERMS = [Term(CrossEntropy, weight=0.5), Term(ForwardKL), Term(Spec.of(ReverseKL, temperature=2.0), weight=0.25)]


class Language(nn.Module):
    """Embedding, one causal layer, and the embedding again as the last layer."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(VOCABULARY, width)
            self.body = nn.Linear(width, width)
        self.whole = False

    def forward(self, tokens):
        past = self.embedding(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        answer = LazyLogits(torch.tanh(self.body(past)), self.embedding.weight)
        return answer.dense() if self.whole else answer


def text(step: int) -> Batch:
    """Token numbers, the next token as the label, and masks of very different lengths."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCABULARY, (ROWS, TOKENS + 1), generator=generator)
    lengths = torch.tensor([5, 0, 0, 1, 5, 2, 0, 3])
    mask = torch.arange(TOKENS)[None] < lengths[:, None]
    return Batch({MAIN: View(tokens[:, :-1], torch.arange(ROWS) + ROWS * step, tokens[:, 1:].contiguous(), mask)})


def train(micro=None, steps=3, shuffled=False, whole=False):
    """The student after some steps in float64."""
    student, teacher = Language(4, 1).double(), Language(6, 2).double()
    student.whole = teacher.whole = whole
    speaker = Network(teacher, trained=False)
    sources = {"student": Network(student, trained=True), "teacher": Shuffled(speaker) if shuffled else speaker}
    batches, task = [text(step) for step in range(steps)], Classify()
    wired = wire(TERMS, sources, task, batches[0], DataInfo(100, ROWS, VOCABULARY), 3)
    fit = replace(FIT, micro_batch=micro)
    engine = Engine(task=task, sources=sources, terms=wired, loader=Given(batches), fit=fit, seed=3)
    return student, list(engine.run().history[0]["terms"].values())


def by_hand(steps=3):
    """The same from whole logits, in a plain loop."""
    student, teacher = Language(4, 1).double(), Language(6, 2).double()
    student.whole = teacher.whole = True
    means = torch.zeros(3, dtype=torch.float64)
    for view in (text(step).main for step in range(steps)):
        z, t = student(view.input)[view.mask], teacher(view.input)[view.mask].detach()
        p, soft, softer = t.log_softmax(-1), (z / 2).log_softmax(-1), (t / 2).log_softmax(-1)
        terms = [
            F.cross_entropy(z, view.label[view.mask]),
            F.kl_div(z.log_softmax(-1), p, log_target=True, reduction="batchmean"),
            F.kl_div(softer, soft, log_target=True, reduction="batchmean"),
        ]
        gradients = torch.autograd.grad(
            0.5 * terms[0] + terms[1] + 0.25 * terms[2], [student.embedding.weight, *student.body.parameters()]
        )
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
        means += torch.stack(terms).detach() / steps
    return student, means.tolist()


@pytest.mark.parametrize("micro", [None, 4, 3, 1])
def test_a_shared_head_learns_as_from_whole_logits(micro, monkeypatch):
    monkeypatch.setattr(lazy, "LOGITS", 7 * VOCABULARY)
    monkeypatch.setattr(lazy, "TEMPORARIES", 2 * VOCABULARY)
    expected, means = by_hand()
    found, seen = train(micro)
    assert seen == pytest.approx(means, rel=1e-10)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_shuffled_control():
    (one, _), (other, _) = train(shuffled=True), train(shuffled=True, whole=True)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("micro", [None, 4])
def test_nothing_waits(micro, monkeypatch):
    monkeypatch.setattr(lazy, "LOGITS", 20)
    batches = [sequences(step) for step in range(3)]
    engine = make([Term(CrossEntropy), Term(KD)], batches, task=LazyHead(), fit=replace(FIT, micro_batch=micro))
    engine.begin()
    engine.train_on(batches[0])
    with NoWaiting():
        engine.train_on(batches[1])


class LazyScores(LazyHead, Scores):
    """Relates whole answers, and has none."""


class Warm(KD):
    """Learns its temperature."""

    def __init__(self, temperature=4.0):
        super().__init__(temperature)
        self.factor = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("term", "task", "message"),
    [
        (Term(DIST), LazyHead, "'dist': DIST reads whole logits, and the student answers with LazyLogits"),
        (Term(DIST, "body", "output"), LazyHead, "the teacher answers with LazyLogits"),
        (Term(KD, "output,body", "output"), LazyHead, "the student answers with LazyLogits"),
        (Term(Gram, "output", "output"), LazyHead, "Gram reads whole logits"),
        (Term(KD), LazyScores, "LazyScores relates the samples of a batch and needs whole answers"),
        (Term(Warm()), LazyHead, "gets no gradient for parameters of its own, and Warm trains some"),
    ],
)
def test_refused_at_wiring(term, task, message):
    with pytest.raises(ValueError, match=message):
        make([term], [example(0)], task=task())


def test_a_teacher_that_overflows():
    teacher = Language(6, 2)
    teacher.embedding.weight.data[3, 1] = torch.inf
    sources = {"student": Network(Language(4, 1), trained=True), "teacher": Network(teacher, trained=False)}
    with pytest.raises(ValueError, match="answers with NaN or infinity"):
        wire(TERMS, sources, Classify(), text(0), DataInfo(100, ROWS, VOCABULARY))
