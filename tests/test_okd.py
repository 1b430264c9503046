"""A teacher with modules that are trained beside the student: what moves, what does not, and whether they meet."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from potstill.cell import assemble
from potstill.examples import Examples, source
from potstill.language.views import teaching
from potstill.lora import LowRank, head_of, low_rank
from potstill.methods import parse
from potstill.online import Additions, Online
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.tasks.language import Language
from potstill.types import MAIN, Batch, DataInfo, View

TEXT = Path(__file__).resolve().parents[1] / "LICENSE"
VOCABULARY, WIDTH, ROWS, STEPS, PROMPT = 128, 40, 16, 4, 12
FIT = Fit(epochs=1, batch_size=ROWS, optimizer="adamw", lr=3e-3, schedule="constant", clip=0.1)


class Windows:
    """Windows of a part of a real text, byte by byte, the same in every epoch; every second response is shorter."""

    exact = True

    def __init__(self, first, steps):
        self.first, self.steps = first * ROWS, steps
        self.rows = torch.tensor([byte % VOCABULARY for byte in TEXT.read_bytes()]).unfold(0, WIDTH, 20)

    def epoch(self, epoch, start=0):
        for step in range(start, self.steps):
            index = torch.arange(step * ROWS, (step + 1) * ROWS)
            prompt, response = self.rows[self.first + index].split([PROMPT, WIDTH - PROMPT], 1)
            mask = torch.arange(WIDTH - PROMPT) < torch.where(index % 2 == 0, WIDTH - PROMPT, 20)[:, None]
            yield Batch({MAIN: teaching(prompt, torch.ones_like(prompt, dtype=torch.bool), response, mask, index)})


def llama(seed, width, layers=2, tied=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=tied,
            )
        )


def gpt2(seed, width):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"n_positions": 64, "n_embd": width, "n_layer": 2, "n_head": 4}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes))


LOADER = Windows(0, STEPS)
BATCH = next(iter(LOADER.epoch(0)))


def run(text, teacher, student=None, *, fit=FIT, task=None, folder=None, loader=LOADER):
    examples = Examples(loader, DataInfo(640, ROWS), BATCH, valid=lambda: [BATCH], task=task or Language())
    frozen = teacher and source(
        teacher, BATCH, trained=False, preprocess=None, precision=Precision(), task=examples.task
    )
    return assemble(student or llama(7, 16, layers=1), frozen, parse(text), examples, fit, folder=folder)


@pytest.fixture(scope="module")
def known():
    """The weights of a teacher that has read what follows."""
    fit = replace(FIT, epochs=3, lr=1e-2, clip=1.0)
    reader = run("student", None, llama(1, 32), fit=fit, loader=Windows(2 * STEPS, 20))
    reader.run()
    return reader.student.state_dict()


@pytest.fixture
def teacher(known):
    made = llama(1, 32)
    made.load_state_dict(known)
    return made


def bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def moved(online):
    """Additions that say something."""
    generator = torch.Generator().manual_seed(3)
    for added in online.additions.places.values():
        added.up.data.normal_(std=0.1, generator=generator)
    return online


def online(module, place, task, rank=3):
    base = source(module, BATCH, trained=False, preprocess=None, precision=Precision(), task=task)
    return Online(base, Additions(low_rank(module, rank, place, head_of(module, base.names))))


@pytest.mark.parametrize(("place", "lazy"), [("attention", True), ("linear", False)])
def test_with_a_rate_of_zero_it_is_supervised_distillation_bit_for_bit(place, lazy, teacher):
    task = Language(lazy=lazy)
    ours, plain = (run(text, teacher, task=task) for text in (f"okd(place={place},rate=0)", "forward_kl"))
    histories = [one.run().history for one in (ours, plain)]
    assert same(bits(ours.student), bits(plain.student))
    values = [[row["terms"]["forward_kl"] for row in history] for history in histories]
    assert values[0] == values[1]
    assert histories[0][0]["terms"]["ce_online"] > 0
    other = run(f"okd(place={place})", teacher, task=task)
    other.run()
    assert not same(bits(other.student), bits(plain.student))


def test_the_teacher_keeps_its_bits_and_nothing_is_sampled(teacher, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("generate() was called")

    monkeypatch.setattr(LlamaForCausalLM, "generate", refuse)
    before, asked = bits(teacher), [p.requires_grad for p in teacher.parameters()]
    engine = run("okd(mu=0.1,rank=2)", teacher, folder=tmp_path)
    first = bits(engine.system.networks["online"])
    history = engine.run().history
    assert same(bits(teacher), before)
    assert all(p.grad is None for p in teacher.parameters())
    assert [p.requires_grad for p in teacher.parameters()] == asked
    assert not any(module._forward_hooks for module in teacher.modules())
    assert not same(bits(engine.system.networks["online"]), first)
    # Two layers, four projections each of 32 to 32 (keys and values: to 16), rank 2.
    added = 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16))
    whole = added + sum(p.numel() for p in teacher.parameters())
    assert history[-1]["online_share"] == pytest.approx(100 * added / whole, abs=1e-4)
    kept = torch.load(tmp_path / "checkpoint" / "state.pt", weights_only=True)["system"]
    assert sum(value.numel() for name, value in kept.items() if "online" in name) == added
    assert {name.split(".")[1] for name in kept} == {"student", "online"}


def merged(module, added):
    """The network with the additions in its weights."""
    made = copy.deepcopy(module)
    for path, one in added.places.items():
        layer = made.get_submodule(path)
        change = (one.up.flatten(1) @ one.down.flatten(1)).detach()
        layer.weight.data += (change.T if type(layer).__name__ == "Conv1D" else change).view_as(layer.weight)
    return made


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("place", ["attention", "linear", "head"])
@pytest.mark.parametrize("made", [llama, gpt2])
def test_it_answers_as_a_network_with_other_weights(made, place, lazy):
    module, task = made(1, 32).double(), Language(lazy=lazy, vocabulary=VOCABULARY - 3)
    if made is gpt2:  # its embedding is its head, which alone is added to
        module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    speaker = moved(online(module, place, task))
    speaker.additions.double()
    said = speaker(task, BATCH, MAIN, ()).dense()
    expected = task.forward(merged(module, speaker.additions).eval(), BATCH, MAIN)
    torch.testing.assert_close(said, expected if isinstance(expected, torch.Tensor) else expected.dense())
    alone = task.forward(module, BATCH, MAIN)
    assert not torch.allclose(said, alone if isinstance(alone, torch.Tensor) else alone.dense())


def test_a_tied_head_is_added_to_and_the_embedding_is_not():
    module, task = llama(1, 32, tied=True), Language()
    speaker = moved(online(module, "head", task))
    assert list(speaker.additions.places) == ["lm_head"]
    with speaker.evaluating():
        said, alone = speaker(task, BATCH, MAIN, ()).output, task.forward(module, BATCH, MAIN)
    assert torch.equal(said.hidden[..., :32], alone.hidden)
    assert not torch.equal(said.dense(), alone.dense())


def test_convolutions_are_added_to_as_well():
    body = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    module = nn.Sequential(body, nn.Flatten(), nn.Linear(36, 5))
    batch = Batch({MAIN: View(torch.randn(3, 2, 6, 6), torch.arange(3))})
    base = source(module, batch, trained=False, preprocess=None, precision=Precision())
    speaker = moved(Online(base, Additions(low_rank(module, 2, "auto", head_of(module, base.names)))))
    assert list(speaker.additions.places) == ["0.0"]
    expected = merged(module, speaker.additions)(batch.main.input)
    torch.testing.assert_close(speaker(Classify(), batch, MAIN, ()).dense(), expected)


@pytest.mark.parametrize("place", ["attention", "head"])
def test_each_side_gets_the_gradient_of_its_own_loss(place, teacher):
    engine = run(f"okd(alpha=0.7,lam=0.6,mu=0.3,place={place},divergence=reverse_kl)", teacher)
    moved(engine.sources["online"])
    engine.begin()
    engine.differentiate(BATCH)
    task, label, mask = Language(lazy=False), BATCH.main.label, BATCH.main.mask
    q, p, p0 = (engine.sources[name](task, BATCH, MAIN, ()).dense() for name in ("student", "online", "teacher"))

    def ce(logits):
        return F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view_as(label)

    def kl(one, other):
        one, other = one.log_softmax(-1), other.log_softmax(-1)
        return (one.exp() * (one - other)).sum(-1)

    mine = 0.3 * ce(q) + 0.7 * kl(q, p.detach())
    theirs = ce(p) + 0.6 * kl(q.detach(), p) + 0.3 * kl(p0, p)
    for name, loss in (("student", mine), ("online", theirs)):
        found = dict(engine.system.networks[name].named_parameters())
        expected = torch.autograd.grad(loss[mask].mean(), list(found.values()))
        for one, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(one.grad, other, rtol=1e-4, atol=1e-6)


def test_teacher_and_student_meet_and_the_teacher_stays_able(teacher):
    fit = replace(FIT, epochs=2, lr=1e-2, clip=1.0)
    beginner = run("student", None, fit=fit, loader=Windows(2 * STEPS, 20))
    beginner.run()

    def taught(text):
        student = copy.deepcopy(beginner.student)
        return run(text, teacher, student, fit=replace(FIT, epochs=5, clip=1.0)).run().history

    ours, plain = (taught(text) for text in ("okd", "forward_kl"))
    gap = [[row["terms"]["forward_kl"] for row in history] for history in (ours, plain)]
    assert gap[0][0] == pytest.approx(gap[1][0], rel=0.1)
    assert all(one < other for one, other in zip(gap[0][1:], gap[1][1:], strict=True))
    assert gap[0][-1] < 0.95 * gap[1][-1]
    able = [row["terms"]["ce_online"] for row in ours]
    assert max(able[1:]) < able[0] + 0.01


def test_other_modules_can_be_plugged_in(teacher):
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(32, 4), nn.Linear(4, 32)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

        def forward(self, x, y):
            return y + self.up(torch.relu(self.down(y)))

    task, base = Language(), Network(teacher, trained=False)
    speaker = Online(base, Additions({"model.layers.1.mlp": Bottleneck()}))
    said = speaker(task, BATCH, MAIN, ()).dense()
    assert torch.equal(said, base(task, BATCH, MAIN, ()).dense())
    said.square().sum().backward()
    gradients = {name for name, p in speaker.module.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.rpartition("up.")[2] for name in gradients} == {"weight", "bias"}


def test_half_precision_teachers_are_answered_in_kind(teacher):
    half = copy.deepcopy(teacher).bfloat16()
    for place, lazy in (("attention", True), ("head", True), ("head", False)):
        task = Language(lazy=lazy)
        speaker = moved(online(half, place, task))
        answer = speaker(task, BATCH, MAIN, ()).output
        assert (answer.hidden if lazy else answer).dtype == torch.bfloat16
        assert all(p.dtype == torch.float32 for p in speaker.module.parameters())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("okd(alpha=1.5)", "alpha must lie in"),
        ("okd(lam=-1)", "lam must not be negative"),
        ("okd(rank=0)", "rank must be at least 1"),
        ("okd(place=heads)", "did you mean 'head'"),
        ("okd(divergence=forwad_kl)", "did you mean 'forward_kl'"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_teachers_that_cannot_be_added_to_are_refused(teacher):
    class Cached:
        trained, module, provides, fingerprint = False, None, frozenset(), ""

        def __call__(self, task, batch, view, taps):
            raise AssertionError

    examples = Examples(LOADER, DataInfo(640, ROWS), BATCH, task=Language())
    with pytest.raises(ValueError, match="okd: modules can be trained inside a live teacher only, and Cached"):
        assemble(llama(7, 16), Cached(), parse("okd"), examples, FIT)
    with pytest.raises(ValueError, match=r"has no place 'attention'.*its linear maps: 0, 2"):
        low_rank(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), 1, "attention", "2")
    with pytest.raises(ValueError, match="its linear maps: none"):  # what PyTorch's own attention never calls
        low_rank(nn.MultiheadAttention(4, 2), 1)
    unused = Online(Network(teacher, trained=False), Additions({"lm_head": LowRank(32, 9, 2, torch.Generator())}))
    with pytest.raises(ValueError, match="without calling lm_head"):
        unused(Elsewhere(), BATCH, MAIN, ())


class Elsewhere(Classify):
    """Answers with what stands in front of the head."""

    def forward(self, model, batch, view):
        return model.model(**batch.views[view].input, use_cache=False).last_hidden_state
