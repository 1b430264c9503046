"""Losses between two tokenizers, and a student that learns from a teacher of another one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_alignment import MAKES
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.cell import assemble
from potstill.examples import Examples, source
from potstill.language.alignment import Cutter, aligned
from potstill.language.crossing import TEACHER, CrossTokenizer
from potstill.language.encode import encode
from potstill.language.loader import TextLoader, batches, first
from potstill.language.texts import Texts
from potstill.language.views import padded, teaching
from potstill.methods import parse
from potstill.objectives import GOLD, JSD, ULD
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.tasks.language import Language
from potstill.terms import Spec, Term, units
from potstill.types import Batch, DataInfo, Progress
from potstill.wiring import wire

START = Progress(step=0, epoch=0, total=10)


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in MAKES.items()}


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laws(values):
    return values.softmax(-1).tolist()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_with_one_tokenizer_gold_is_jsd(tokenizers, beta):
    """Value and gradient: every token is a group of its own, and every token is matched."""
    cutter = Cutter(tokenizers["small"])
    found = aligned(cutter, cutter, ["Hello 你好", "a"])
    mask, size = found.student.mask, len(tokenizers["small"])
    student, teacher = (logits(*mask.shape, size, seed=seed) for seed in (1, 2))
    extras = {"mask": mask, "label": found.student.ids, **found.extras}
    every = torch.arange(size).expand(2, -1)
    gold = GOLD((size, size), every, hybrid=True, beta=beta)
    given = {name: extras[name] for name in gold.needs}
    one, other = (student.clone().requires_grad_() for _ in range(2))
    losses, expected = gold(one, teacher, **given), JSD(beta)(other, teacher)
    torch.testing.assert_close(losses[mask], expected[mask], rtol=1e-12, atol=1e-14)
    losses[mask].mean().backward()
    expected[mask].mean().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-14)


def merged(rows, labels, groups, merge):
    """One sample's rows by group, in plain numbers."""
    found = []
    for number in range(max(groups) + 1):
        places = [place for place, group in enumerate(groups) if group == number]
        base = places[-1] if merge == "bayesian" else places[0]
        factor = math.prod(max(rows[place][labels[place]], 1e-8) for place in places if place != base)
        found.append([factor * p for p in rows[base]])
    return found


def apart(p, q):
    p, q = (sorted(side, reverse=True) + [0.0] * (len(p) + len(q) - len(side)) for side in (p, q))
    return sum(abs(a - b) for a, b in zip(p, q, strict=True))


def divided(p, q, beta):
    middle = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return sum(
        beta * a * math.log(a / m) + (1 - beta) * b * math.log(b / m) for a, b, m in zip(p, q, middle, strict=True)
    )


@pytest.mark.parametrize("merge", ["bayesian", "observed"])
def test_gold_is_its_formula(merge):
    group, other = [0, 0, 1, 2, -1, -1], [0, 1, 1, 1, 2]
    label, known = [3, 0, 5, 1, 0, 0], [1, 6, 2, 2, 0]
    mask = [True, True, True, True, True, False]
    student, teacher = logits(1, 6, 7), logits(1, 5, 9, seed=1)
    teacher[0, 2, 2] = -40  # an actual token that the teacher gives next to nothing
    matched = torch.tensor([[0, 3, 5], [8, 1, 2]])
    given = [torch.tensor([value]) for value in (mask, label, group, known, other)]
    q, p = merged(laws(student[0]), label, group, merge), merged(laws(teacher[0]), known, other, merge)
    plain = [apart(a, b) for a, b in zip(p, q, strict=True)]
    names = dict(matched.T.tolist())
    hybrid = []
    for a, b in zip(p, q, strict=True):
        named = divided([a[j] for j in names.values()], [b[i] for i in names], 0.5)
        rest = apart(
            [v for j, v in enumerate(a) if j not in names.values()], [v for i, v in enumerate(b) if i not in names]
        )
        hybrid.append(3 / 9 * named + 6 / 9 * rest)
    for expected, options in ((plain, {}), (hybrid, {"hybrid": True})):
        losses = GOLD((7, 9), matched, merge=merge, **options)(student, teacher, *given)
        assert [place for place, value in enumerate(losses[0]) if value] == [1, 2, 3], "where groups close"
        assert losses[0][mask].mean().item() == pytest.approx(sum(expected) / 3, rel=1e-10)
    weighted = GOLD((7, 9), matched, hybrid=True, merge=merge, matched_weight=2.0, unmatched_weight=0.0)
    named = [divided([a[j] for j in names.values()], [b[i] for i in names], 0.5) for a, b in zip(p, q, strict=True)]
    assert weighted(student, teacher, *given)[0][mask].mean().item() == pytest.approx(2 * sum(named) / 3, rel=1e-10)


@pytest.mark.parametrize("length", [2, 5])
def test_uld_is_its_formula(length):
    """Tokens are paired by their number, as many as the shorter response has."""
    student, teacher = logits(2, 3, 6), logits(2, length, 8, seed=1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    other = torch.arange(length) < torch.tensor([[2], [length]])
    losses = ULD()(student, teacher, mask, other)
    for n, pairs in ((0, 2), (1, 1)):
        p, q = laws(teacher[n]), laws(student[n])
        expected = sum(apart(p[t], q[t]) for t in range(pairs)) / pairs
        assert losses[n][mask[n]].mean().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "first"}, "merge 'bayesian' or 'observed'"),
        ({"beta": 2.0}, r"beta in \[0, 1\]"),
        ({"matched_weight": 1.0}, "give both"),
        ({"hybrid": True}, "hybrid needs matched"),
        ({"hybrid": True, "matched": torch.tensor([[0], [9]])}, "matched names token 9, and a side answers with 9"),
    ],
)
def test_what_gold_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        GOLD((7, 9), **options)
    for kind in (GOLD, ULD):
        with pytest.raises(ValueError, match=r"\[B, R, V\]"):
            kind.sized(torch.zeros(2, 7), torch.zeros(2, 9), DataInfo(2, 2), {})


def network(tokenizer, seed, padding=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + padding,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=bool(padding),
    )
    return LlamaForCausalLM(config)


def sure(teacher):
    """With logits far enough apart to have something to say."""
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    return teacher


def examples(tokenizer, prompts, responses):
    cut = Cutter(tokenizer).cut(responses)
    prompt = padded(tokenizer(prompts)["input_ids"], left=True)
    return Batch({"main": teaching(*prompt, cut.ids, cut.mask, torch.arange(len(prompts)))})


PROMPTS, RESPONSES = ["Hello", "two", "你好"], ["world, how are you?", "tab  spaces", "世界！café 👩"]


@pytest.mark.parametrize(
    ("one", "other", "term"),
    [
        ("small", "pieces", Term(ULD)),
        ("large", "words", Term(Spec.of(GOLD, merge="observed"))),
    ],
    ids=["uld", "gold"],
)
def test_a_student_learns_from_a_teacher_of_another_tokenizer(tokenizers, one, other, term):
    """Steps as the engine takes them, on networks with logits that are no tokens."""
    student, teacher = network(tokenizers[one], 0, padding=8), sure(network(tokenizers[other], 1, padding=3))
    sources = {"student": Network(student, trained=True), "teacher": Network(teacher, trained=False)}
    crossing = CrossTokenizer(tokenizers[one], tokenizers[other])
    task = Language(crossing, lazy=False, vocabulary=crossing.vocabulary)
    batch = examples(tokenizers[one], PROMPTS, RESPONSES)
    (wired,) = wire([term], sources, task, batch, crossing.info(DataInfo(3, 3)))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    (made,) = task.prepare(batch, sources, START, seed=0)
    mask, losses = task.mask(made, "main"), []
    for _ in range(12):
        said = {
            "student": {"main": sources["student"](task, made, "main", ())},
            "teacher": {TEACHER: sources["teacher"](task, made, TEACHER, ())},
        }
        assert said["teacher"][TEACHER].output.shape[-1] == len(tokenizers[other])
        loss = wired(said, made, mask, units(mask, len(made), mask.device), START, seed=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    assert crossing.report() == {"grouped": 1.0}
    assert crossing.report() == {}


def test_a_run_of_a_method_string(tokenizers):
    """The engine's own loop, in micro-batches, with the loader of texts."""
    one, other = tokenizers["small"], tokenizers["pieces"]
    prompts = [f"{prompt} {n}" for prompt in PROMPTS for n in range(4)]
    responses = [f"{response} {n}" for response in RESPONSES for n in range(4)]
    texts = Texts(prompts, responses, [[response] for response in responses], "own", "train", np.arange(12), str)
    encoded, crossing = encode(texts, one), CrossTokenizer(one, other)
    task = Language(crossing, lazy=False, vocabulary=crossing.vocabulary)
    info, probe = crossing.info(DataInfo(12, 4)), first(encoded, 4, torch.device("cpu"))
    data = Examples(TextLoader(encoded, 4), info, probe, lambda: batches(encoded, 4, torch.device("cpu")), task=task)
    speaks = Language(lazy=False, vocabulary=len(other))
    frozen = {"trained": False, "preprocess": None, "precision": Precision()}
    teacher = source(sure(network(other, 1, padding=3)), crossing.alone(probe), **frozen, task=speaks)
    fit = Fit(epochs=4, batch_size=4, lr=1e-2, optimizer="adamw", micro_batch=2)
    rows = assemble(network(one, 0, padding=8), teacher, parse("gold(hybrid=True)"), data, fit).run().history
    assert rows[-1]["terms"]["gold"] < 0.9 * rows[0]["terms"]["gold"]
    assert rows[-1]["report"]["grouped"] == 1.0
    lazy = replace(data, task=Language(crossing, vocabulary=crossing.vocabulary))
    with pytest.raises(ValueError, match="GOLD reads whole logits"):
        assemble(network(one, 0), teacher, parse("gold"), lazy, fit)


def test_the_teacher_sees_the_same_text_in_its_own_tokens(tokenizers):
    one, other = tokenizers["small"], tokenizers["pieces"]
    batch = examples(one, PROMPTS, RESPONSES)
    crossing = CrossTokenizer(one, other)
    made = crossing(batch, {}, START, 0)
    seen = made.views[TEACHER]
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = seen.input["input_ids"][n][seen.input["attention_mask"][n]].tolist()
        assert ids == [*other(prompt)["input_ids"], *other(response)["input_ids"], other.eos_token_id]
        assert seen.label[n][seen.mask[n]].tolist() == [*other(response)["input_ids"], other.eos_token_id]
    assert torch.equal(made.main.extras["teacher_label"], seen.label)
    assert torch.equal(made.main.extras["teacher_mask"], seen.mask)
    assert torch.equal(made.main.extras["at"], batch.main.extras["at"])
    asked = CrossTokenizer(one, other, prompts=["Q: Hello", "Q: two", "Q: 你好"])(batch, {}, START, 0).views[TEACHER]
    assert asked.input["attention_mask"].sum() > seen.input["attention_mask"].sum()
    assert torch.equal(asked.label, seen.label)


class Backwards:
    """Writes the responses backwards: what somebody else may write."""

    def __call__(self, batch, sources, progress, seed):
        main = batch.main
        rows = [row[kept].flip(0).tolist() for row, kept in zip(main.label, main.mask, strict=True)]
        prompt = main.extras["prompt"], main.extras["prompt_mask"]
        return Batch({"main": teaching(*prompt, *padded(rows), main.index)})

    def report(self):
        return {"length": 5.0}


def test_whoever_writes_both_sides_read_it(tokenizers):
    """Tokens in an order in which no tokenizer would have cut the text, characters cut in two among them."""
    one, other = tokenizers["small"], tokenizers["pieces"]
    crossing = CrossTokenizer(one, other)
    task = Language(crossing, lazy=False, vocabulary=crossing.vocabulary).writing(Backwards())
    (made,) = task.prepare(examples(one, PROMPTS, RESPONSES), {}, START, 0)
    said = Cutter(one).read(made.main.label, made.main.mask)
    assert said[0][1] == "secaps  bat"
    group = made.main.extras["group"]
    assert (group[1] >= 0).sum() > 8
    assert not (group[0, 0] >= 0) or group[0].max() > 0
    report = task.report()
    assert report["length"] == 5.0
    assert 0 < report["grouped"] < 1


@pytest.mark.parametrize("kind", [GOLD((270, 330)), ULD()], ids=["gold", "uld"])
def test_where_nothing_that_was_written_is_text_nothing_is_learnt(tokenizers, kind):
    """A student that begins with half a character, in every sample: a loss of 0 that can be differentiated."""
    one, other = tokenizers["small"], tokenizers["large"]
    half = torch.tensor([[one.convert_tokens_to_ids("â"), one.convert_tokens_to_ids("Ĥ")]] * 2)
    prompt = padded(one(["a", "bc"])["input_ids"], left=True)
    batch = Batch({"main": teaching(*prompt, half, torch.ones_like(half, dtype=torch.bool), torch.arange(2))})
    made = CrossTokenizer(one, other)(batch, {}, START, 0)
    student = logits(2, 2, 270).requires_grad_()
    teacher = logits(2, made.views[TEACHER].label.shape[1], 330)
    extras = {"mask": made.main.mask, "label": made.main.label, **made.main.extras}
    losses = kind(student, teacher, **{name: extras[name] for name in kind.needs})
    losses.sum().backward()
    assert not losses.any()
    assert not student.grad.any()


def test_an_empty_prompt_for_a_teacher_that_begins_with_nothing(tokenizers):
    batch = examples(tokenizers["small"], ["<eos>"], ["a"])
    with pytest.raises(ValueError, match="prompt of sample 0 has no token for the teacher"):
        CrossTokenizer(tokenizers["small"], tokenizers["large"])(batch, {}, START, 0)
