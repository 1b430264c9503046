"""MixKD on tiny encoders: the loss written out text by text, its limits, and runs that are killed."""

import os
import signal
from dataclasses import replace

import pytest
import torch
import transformers
from torch.nn import functional as F

from potstill.cell import assemble
from potstill.examples import source
from potstill.language.labelled_examples import labelled_examples
from potstill.language.labelled_loader import Tokens
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.tasks.mixed_embeddings import MixedEmbeddings, mixed
from potstill.types import Batch, Progress, View

VOCABULARY, TEXTS = 50, 18
FIT = Fit(epochs=2, batch_size=6, optimizer="adamw", lr=0.01, schedule="constant", checkpoint_steps=1)
FLOAT64 = Precision.named("float64")


def texts(scores=False):
    """Pairs of texts of unequal lengths; the label can be read off the first token."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 10, (TEXTS,), generator=generator)
    ids = torch.randint(5, VOCABULARY, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    types = torch.cat([(torch.arange(n) >= n // 2).int() for n in lengths])
    kind = ids[offsets[:-1]].long() % 2
    return Tokens(ids, types, offsets, 2.5 * kind.double() if scores else kind, 0, "texts", None if scores else 2)


def encoder(width, seed, outputs=2, dropout=0.0):
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=16,
        num_labels=outputs,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.BertForSequenceClassification(config)


def engine(text, *, scores=False, folder=None, on_step=None, dropout=0.0, fit=FIT):
    tokens, outputs = texts(scores), 1 if scores else 2
    examples = labelled_examples(tokens, tokens, fit, seed=2)
    probe, task = examples.probe, examples.task
    method = parse(text)
    guide = encoder(16, 1, outputs)
    frozen = source(guide, probe, trained=False, preprocess=None, precision=FLOAT64, task=task)
    return assemble(
        encoder(12, 0, outputs, dropout),
        frozen if method.needs_teacher else None,
        method,
        examples,
        fit,
        precision=FLOAT64,
        folder=folder,
        on_step=on_step,
    )


def summed(model, ids, types):
    """Token, position and segment embeddings of one text `[L, D]`."""
    table = model.bert.embeddings
    return (
        table.word_embeddings(ids) + table.position_embeddings.weight[: len(ids)] + table.token_type_embeddings(types)
    )


def answer(model, embedded):
    """Logits `[1, K]` of embeddings `[L, D]` that all count."""
    hidden = model.bert.encoder(model.bert.embeddings.LayerNorm(embedded)[None]).last_hidden_state
    return model.classifier(model.bert.pooler(hidden))


def alone(view, row):
    length = int(view.input["attention_mask"][row].sum())
    return view.input["input_ids"][row, :length], view.input["token_type_ids"][row, :length]


def two(model, one, other, share):
    """Of two texts: each counts as zero behind its end."""
    first, second = (summed(model, *text) for text in (one, other))
    longest = max(len(first), len(second))
    first, second = (F.pad(side, (0, 0, 0, longest - len(side))) for side in (first, second))
    return answer(model, share * first + (1 - share) * second)


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_value_and_gradient_are_the_formula_text_by_text(distance):
    run = engine(f"mixkd(sm=0.7,tmkd=0.5,kd=0.3,distance={distance},temperature=2)")
    run.begin()
    batch = next(iter(run.loader.epoch(0)))
    (prepared,) = run.prepared(batch)
    run.differentiate(prepared)
    student, teacher = (run.sources[name].module for name in ("student", "teacher"))
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert all(p.grad is None for p in teacher.parameters())

    view, main = prepared.views["mixed"], prepared.main
    position = {index: row for row, index in enumerate(main.index.tolist())}
    partner_ids = view.extras["partner_input_ids"]
    losses = dict.fromkeys(("ce", "sm", "tmkd", "kd"), 0.0)

    def unlike(left, right):
        if distance == "mse":
            return F.mse_loss(left, right)
        return 4 * F.kl_div((left / 2).log_softmax(1), (right / 2).softmax(1), reduction="batchmean")

    for row in position.values():
        other = next(r for r in position.values() if torch.equal(main.input["input_ids"][r], partner_ids[row]))
        share, one, its = view.extras["share"][row], alone(main, row), alone(main, other)
        assert 0 < share < 1
        plain, mixture = answer(student, summed(student, *one)), two(student, one, its, share)
        with torch.no_grad():
            told, told_mixed = answer(teacher, summed(teacher, *one)), two(teacher, one, its, share)
        losses["ce"] += F.cross_entropy(plain, main.label[row, None])
        pair = main.label[row, None], main.label[other, None]
        losses["sm"] += share * F.cross_entropy(mixture, pair[0]) + (1 - share) * F.cross_entropy(mixture, pair[1])
        losses["tmkd"] += unlike(mixture, told_mixed)
        losses["kd"] += unlike(plain, told)
    means = [losses[name] / len(main) for name in ("ce", "sm", "tmkd", "kd")]
    torch.testing.assert_close(run.sums, torch.stack(means).detach(), rtol=1e-9, atol=1e-12)
    total = sum(weight * mean for weight, mean in zip((1, 0.7, 0.5, 0.3), means, strict=True))
    names = list(found)
    expected = torch.autograd.grad(total, [student.get_parameter(name) for name in names])
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)


TINY = {"vocab_size": VOCABULARY, "num_labels": 3, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
NETWORKS = {
    "bert": lambda: transformers.BertConfig(**TINY, intermediate_size=20, pad_token_id=0),
    "roberta": lambda: transformers.RobertaConfig(**TINY, intermediate_size=20, pad_token_id=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=20, num_labels=3, pad_token_id=0
    ),
    "llama": lambda: transformers.LlamaConfig(**TINY, intermediate_size=20, pad_token_id=0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_text_that_is_not_mixed_is_the_text_itself(name):
    config = NETWORKS[name]()
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    lengths, rows = torch.tensor([9, 4, 6, 2]), torch.arange(4)
    mask = torch.arange(9) < lengths[:, None]
    ids = torch.randint(5, VOCABULARY, (4, 9), generator=generator).where(mask, torch.tensor(config.pad_token_id))
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask.long() * (torch.arange(9) > 2)}
    main, partner, task = View(inputs, rows, torch.tensor([0, 1, 2, 0])), torch.tensor([1, 2, 3, 0]), MixedEmbeddings()

    def said(share):
        views = {"main": main, "mixed": mixed(main, partner, share)}
        return task.forward(model, Batch(views), "mixed").detach()

    plain = task.forward(model, Batch({"main": main}), "main").detach()
    assert torch.equal(said(torch.ones(4)), plain)
    torch.testing.assert_close(said(torch.zeros(4)), plain[partner])
    between = said(torch.full((4,), 0.5))
    assert not torch.allclose(between, plain, atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_either_of_the_two_may_be_called_the_first():
    main = texts().view(torch.arange(6))
    share = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64)
    partner = torch.tensor([3, 4, 5, 2, 1, 0])
    rows = View({k: v[partner] for k, v in main.input.items()}, main.index[partner], main.label[partner])
    views = mixed(main, partner, share), mixed(rows, partner.argsort(), 1 - share)
    model, task = encoder(12, 0).double(), MixedEmbeddings()
    losses = []
    for view in views:
        logits = task.forward(model, Batch({"main": main, "mixed": view}), "mixed")
        own, other = (F.cross_entropy(logits, y, reduction="none") for y in (view.label, view.extras["other"]))
        losses.append((view.extras["share"] * own + (1 - view.extras["share"]) * other).mean())
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    longest = main.input["attention_mask"] | main.input["attention_mask"][partner]
    assert torch.equal(views[0].input["attention_mask"][:5], longest[:5])
    assert torch.equal(views[0].input["attention_mask"][5], main.input["attention_mask"][5])  # all its own


def test_shares_are_drawn_for_each_text_or_once_a_batch():
    tokens = texts()
    batch = Batch({"main": tokens.view(torch.arange(TEXTS))})

    def shares(per, step=0):
        (made,) = MixedEmbeddings(0.4, per).prepare(batch, {}, Progress(step, 0, 9), seed=1)
        return made.views["mixed"].extras["share"]

    assert shares("sample").unique().numel() == TEXTS
    assert shares("batch").unique().numel() == 1
    assert torch.equal(shares("sample"), shares("sample"))
    assert not torch.equal(shares("sample"), shares("sample", step=1))
    many = torch.cat([shares("sample", step) for step in range(80)])
    assert abs(many.mean() - 0.5) < 0.03
    assert abs(many.var() - 0.25 / 1.8) < 0.01  # of Beta(a, a): 1 / (4 (2a + 1))


def test_without_its_terms_it_is_fine_tuning_bit_for_bit():
    runs = [engine(text, dropout=0.2) for text in ("mixkd(sm=0,tmkd=0)", "student")]
    for run in runs:
        run.run()
    one, other = (run.system.networks["student"].state_dict() for run in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("scores", [False, True], ids=["classes", "scores"])
def test_it_trains_and_a_killed_run_goes_on_with_the_same_bits(scores, tmp_path):
    text = f"mixkd(kd=1,target={'scores' if scores else 'classes'})"
    whole = engine(text, scores=scores, folder=tmp_path / "whole", dropout=0.1)
    before = {name: value.clone() for name, value in whole.sources["teacher"].module.state_dict().items()}
    history = whole.run().history
    assert history[-1]["loss"] < history[0]["loss"]
    assert {"valid_pearson" if scores else "valid_accuracy", "valid_loss"} <= history[-1].keys()
    after = whole.sources["teacher"].module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    def press(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        engine(text, scores=scores, folder=tmp_path / "parts", on_step=press, dropout=0.1).run()
    rest = engine(text, scores=scores, folder=tmp_path / "parts", dropout=0.1)
    rest.run(resume=True)
    expected = whole.system.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in rest.system.state_dict().items())
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_micro_batches_give_the_same_gradient():
    """A row and its partner may lie in different micro-batches."""
    gradients = []
    for micro in (None, 2):
        run = engine("mixkd(kd=1)", fit=replace(FIT, micro_batch=micro))
        run.begin()
        (prepared,) = run.prepared(next(iter(run.loader.epoch(0))))
        run.differentiate(prepared)
        gradients.append([p.grad for p in run.system.networks["student"].parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_another_samples_teacher_is_another_teacher():
    one, other = (engine("mixkd" + control) for control in ("", "~shuffled"))
    rows = [run.run().history[0]["terms"] for run in (one, other)]
    assert rows[0]["tmkd"] != rows[1]["tmkd"]


def test_a_score_is_mixed_like_its_text():
    tokens = texts(scores=True)
    batch = Batch({"main": tokens.view(torch.arange(6))})
    (made,) = MixedEmbeddings().prepare(batch, {}, Progress(0, 0, 9), seed=1)
    view, ids = made.views["mixed"], batch.main.input["input_ids"]
    for row in range(6):
        other = next(r for r in range(6) if torch.equal(ids[r], view.extras["partner_input_ids"][row]))
        share = view.extras["share"][row]
        torch.testing.assert_close(view.label[row], share * tokens.labels[row] + (1 - share) * tokens.labels[other])


def test_refusals_say_what_to_write():
    for text, said in {
        "mixkd(distance=mean)": "unknown distance='mean'; did you mean|known: kl, mse",
        "mixkd(distance=kl,target=scores)": "write distance=mse",
        "mixkd(sm=-1)": "must not be negative",
        "mixkd(alpha=0)": "alpha must be positive",
    }.items():
        with pytest.raises(ValueError, match=said):
            parse(text)
    with pytest.raises(ValueError, match=r"labels of this data are scores; write mixkd\(target=scores\)"):
        engine("mixkd", scores=True)
    with pytest.raises(ValueError, match=r"write ce:0\+score_mse:1"):
        engine("student", scores=True)
    with pytest.raises(ValueError, match="for images write mixup_kd"):
        mixed(View(torch.zeros(2, 1, 4, 4), torch.arange(2)), torch.tensor([1, 0]), torch.ones(2))
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    gpt2 = transformers.GPT2ForSequenceClassification(config)
    view = mixed(texts().view(torch.arange(2)), torch.tensor([1, 0]), torch.ones(2))
    with pytest.raises(ValueError, match="nobody knows where to mix them; take an encoder"):
        MixedEmbeddings().forward(gpt2, Batch({"main": view, "mixed": view}), "mixed")
