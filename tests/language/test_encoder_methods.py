"""DistilBERT, TinyBERT and MiniLM between encoders of unequal width and depth, on film reviews."""

import copy
import json
import os
import signal
from dataclasses import replace

import pyarrow.parquet as parquet
import pytest
import tokenizers
import torch
import transformers as hf

from potstill.cell import assemble, train_stages
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.language.views import padded
from potstill.language.views import teaching as responses_of
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.schemes import DistilBERT
from potstill.tasks.classify import Classify
from potstill.tasks.language import Language
from potstill.tasks.masked_language import MaskedLanguage, Masking, rarity_of
from potstill.types import Batch, DataInfo, View

FIT = Fit(epochs=2, batch_size=16, optimizer="adamw", lr=3e-3, weight_decay=0.0, schedule="constant")
TEXTS = 48
PAD, MASK = 0, 4
SPECIAL = (0, 1, 2, 3, 4)


class Reading(Classify):
    """Whatever a network of transformers answers about a text."""

    def forward(self, model, batch, view):
        return model(**batch.views[view].input).logits


class Reviews:
    """Batches of padded texts, in an order that is a function of the epoch."""

    exact = True

    def __init__(self, rows, labels):
        self.rows, self.labels, self.steps = rows, labels, len(rows) // FIT.batch_size

    def batch(self, index):
        longest = max(len(self.rows[i]) for i in index)
        ids = torch.tensor([self.rows[i] + [PAD] * (longest - len(self.rows[i])) for i in index])
        inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        return Batch({"main": View(inputs, torch.tensor(index), self.labels[index])})

    def epoch(self, epoch, start=0):
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        for step in range(start, self.steps):
            yield self.batch(order[step * FIT.batch_size : (step + 1) * FIT.batch_size])


@pytest.fixture(scope="module")
def tokenizer(reviews):
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(reviews["sentence"], trainer)
    names = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, **names)


@pytest.fixture(scope="module")
def reviews(shared):
    table = parquet.read_table(shared("data", "text", "sst2") / "validation-00000-of-00001.parquet")
    return table.slice(0, TEXTS).to_pydict()


@pytest.fixture(scope="module")
def examples(reviews, tokenizer):
    rows = [[2, *tokenizer.encode(text, add_special_tokens=False)[:20], 3] for text in reviews["sentence"]]
    loader = Reviews(rows, torch.tensor(reviews["label"]))
    info = DataInfo(len(rows), FIT.batch_size, 2, loader.labels)
    return Examples(loader, info, loader.batch(list(range(8))), task=Reading())


def encoder(kind, layers, width, heads=4, seed=0, spread=0.2):
    config = hf.BertConfig(
        vocab_size=300,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=32,
        initializer_range=spread,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def teaching(kind, text, examples, teacher=(4, 32, 4), student=(2, 16, 4), **kw):
    guide = source(
        encoder(kind, *teacher, seed=1),
        examples.probe,
        trained=False,
        preprocess=None,
        precision=Precision(),
        task=examples.task,
    )
    return encoder(kind, *student, spread=0.05), guide, parse(text), examples, kw.pop("fit", FIT)


def terms(history):
    return [row["terms"] for row in history]


def distilbert(tokenizer, options=""):
    scheme = DistilBERT.of(tokenizer)
    return f"distilbert(mask_id={scheme.mask_id},special={scheme.special}{options})"


@pytest.mark.parametrize("options", ["", ",only_masked=True,smoothing=0"])
def test_distilbert_learns_what_is_hidden_and_what_the_teacher_says(options, examples, tokenizer):
    run = assemble(*teaching(hf.BertForMaskedLM, distilbert(tokenizer, options), examples, fit=replace(FIT, epochs=5)))
    first, *_, last = terms(run.run().history)
    assert first.keys() == {"kd", "mlm", "cosine"}
    assert all(last[name] < first[name] for name in first)


def test_a_killed_run_hides_the_same_tokens(examples, tokenizer, tmp_path):
    def run(folder, on_step=None):
        return assemble(
            *teaching(hf.BertForMaskedLM, distilbert(tokenizer), examples, fit=replace(FIT, checkpoint_steps=1)),
            folder=tmp_path / folder,
            on_step=on_step,
        )

    def press(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    whole, rest = run("whole"), run("parts")
    whole.run()
    with pytest.raises(Interrupted):
        run("parts", press).run()
    rest.run(resume=True)
    for ours, theirs in zip(rest.student.parameters(), whole.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_tinybert_learns_layers_first_and_answers_then(examples, tmp_path):
    method = "tinybert(share=1)+ce:0.1"
    student, guide, *rest = teaching(hf.BertForSequenceClassification, method, examples)
    engine, result = train_stages(
        student, guide, rest[0], lambda fit: examples, FIT, begin=lambda label, total: lambda progress: None,
        label="x", folder=tmp_path,
    )  # fmt: skip
    rows = (tmp_path / "intermediate/metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(rows[number])["terms"] for number in (0, -1))
    assert len(rows) == 2
    assert first.keys() == {"attention_mse", "hidden_mse"}
    assert all(last[name] < first[name] for name in first)
    answers = terms(result.history)
    assert answers[0].keys() == {"kd", "ce"}
    assert answers[-1]["kd"] < answers[0]["kd"]
    assert [term.name for term in engine.system.wired] == ["kd", "ce"]


def test_tinybert_moves_no_classifier_in_its_first_stage(examples):
    method = parse("tinybert")
    given = teaching(hf.BertForSequenceClassification, "tinybert", examples)
    before = copy.deepcopy(given[0].classifier.state_dict())
    run = assemble(*given[:4], replace(FIT, epochs=1), stage=method.stages[0])
    run.run()
    assert all(torch.equal(value, before[name]) for name, value in run.student.classifier.state_dict().items())


@pytest.mark.parametrize(
    ("method", "student"),
    [("minilm(heads=8)", (2, 16, 2)), ("minilm(heads=2,layer=3)", (3, 16, 2)), ("minilm(version=1)", (2, 16, 4))],
)
def test_minilm_learns_relations(method, student, examples):
    run = assemble(*teaching(hf.BertForMaskedLM, method, examples, student=student))
    losses = [row["loss"] for row in run.run().history]
    assert losses[-1] < losses[0]


def test_methods_that_do_not_fit_say_so(examples, tokenizer):
    kind = hf.BertForMaskedLM
    with pytest.raises(ValueError, match="student has 2 attention heads and the teacher 4"):
        assemble(*teaching(kind, "tinybert", examples, student=(2, 16, 2)), stage=parse("tinybert").stages[0])
    with pytest.raises(ValueError, match="set heads to one of 1, 2, 4, 8, 16"):
        assemble(*teaching(kind, "minilm", examples))
    with pytest.raises(ValueError, match=r"'layer5.q': it has 4 layers"):
        assemble(*teaching(kind, "minilm(layer=5)", examples))
    with pytest.raises(ValueError, match="id 500 lies outside the vocabulary of 300 tokens"):
        assemble(*teaching(kind, "distilbert(mask_id=500)", examples))
    with pytest.raises(ValueError, match="expected ids of tokens such as 0/101/102"):
        parse("distilbert(special=cls)")
    with pytest.raises(ValueError, match="its first stage has no loss"):
        parse("tinybert(attention=0,hidden=0)")
    with pytest.raises(ValueError, match="version is 1 or 2, got 3"):
        parse("minilm(version=3)")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask token"):
        DistilBERT.of(tokenizer)


ROWS, LONG = 400, 40
IDS = torch.arange(ROWS * LONG).view(ROWS, LONG) * 7919 % 95 + 5
KEEP = torch.arange(LONG) < 20 + torch.arange(ROWS)[:, None] % 21


def test_as_many_tokens_are_hidden_as_the_paper_says():
    masking = Masking(MASK, 100, SPECIAL)
    ids = torch.where(torch.arange(LONG) == 0, 2, IDS)
    shown, chosen = masking(ids, KEEP, torch.arange(ROWS), 0)
    assert not (chosen & (~KEEP | (ids < 5))).any()
    assert torch.equal(shown[~chosen], ids[~chosen])
    share = chosen.sum() / KEEP.sum()
    assert 0.14 < share < 0.16
    assert ((chosen.sum(1) - 0.15 * KEEP.sum(1)).abs() < 1).all()
    become = shown[chosen]
    hidden, stayed = (become == MASK).float().mean(), (become == ids[chosen]).float().mean()
    assert 0.78 < hidden < 0.82
    assert 0.08 < stayed < 0.12
    others = become[(become != MASK) & (become != ids[chosen])]
    assert 0.08 < len(others) / len(become) < 0.12
    assert others.min() < 5
    assert others.max() > 94
    places = chosen[:, 1:20].float().mean(0)  # in front as often as behind
    assert places.min() > 0.1
    assert places.max() < 0.21


def test_what_is_hidden_depends_on_the_text_and_the_step_alone():
    masking, index = Masking(MASK, 100, SPECIAL), torch.arange(ROWS)
    shown, chosen = masking(IDS, KEEP, index, 0, "mask", 3)
    alone = masking(IDS[7:8], KEEP[7:8], index[7:8], 0, "mask", 3)
    assert torch.equal(alone[0], shown[7:8])
    assert torch.equal(alone[1], chosen[7:8])
    length = int(KEEP[7].sum())
    left_ids, left_keep = IDS[7:8].roll(LONG - length, 1), KEEP[7:8].roll(LONG - length, 1)
    padded = masking(left_ids, left_keep, index[7:8], 0, "mask", 3)[0]
    assert torch.equal(padded[left_keep], shown[7:8][KEEP[7:8]])
    later = masking(IDS, KEEP, index, 0, "mask", 4)[1]
    assert 0.1 < (later & chosen).sum() / chosen.sum() < 0.2


def test_rare_tokens_are_hidden_more_often():
    ids = torch.where(torch.arange(LONG) % 4 == 0, 10 + torch.arange(ROWS)[:, None] % 80, 5)  # 5 is three in four
    view = View({"input_ids": ids, "attention_mask": KEEP.long()}, torch.arange(ROWS))
    rarity = rarity_of([Batch({"main": view})] * 2, 100, 0.7)
    count = 2 * int((KEEP & (ids == 10)).sum())
    assert float(rarity[10]) == pytest.approx(count**-0.7)
    assert float(rarity[99]) == 1.0
    parts = []
    for weights in (None, rarity):
        _, chosen = Masking(MASK, 100, SPECIAL, rarity=weights)(ids, KEEP, torch.arange(ROWS), hash_int(0))
        parts.append(float((chosen & (ids != 5)).sum() / chosen.sum()))
    assert 0.22 < parts[0] < 0.3
    assert parts[1] > 0.8


def test_the_masked_loss_of_a_network_is_evaluated_on_the_same_tokens(examples, tokenizer):
    task = MaskedLanguage(Masking(MASK, 300, SPECIAL))
    student = source(
        encoder(hf.BertForMaskedLM, 2, 16, spread=0.01), examples.probe, trained=True, preprocess=None,
        precision=Precision(), task=task,
    )  # fmt: skip
    found = task.evaluate(student, examples.loader.epoch(0))
    assert found.scores == task.evaluate(student, examples.loader.epoch(0)).scores
    assert found.scores["loss"] == pytest.approx(torch.tensor(300.0).log().item(), abs=0.1)  # knows nothing yet


def test_micro_batches_hide_the_same_tokens_and_give_the_same_weights(examples, tokenizer):
    weights = []
    for micro in (None, 6):
        fit = replace(FIT, epochs=1, optimizer="sgd", lr=0.1, micro_batch=micro)
        wide = (2, 32, 4)  # no matrix of float32 between the hidden states
        given = teaching(hf.BertForMaskedLM, distilbert(tokenizer), examples, student=wide, fit=fit)
        student, guide, *rest = given
        guide.module.double()
        run = assemble(student.double(), guide, *rest)
        run.run()
        weights.append([value.clone() for value in run.student.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_hidden_states_and_relations_of_a_causal_language_model(examples, reviews):
    """Beside logits that are never made whole."""

    def llama(layers, width, seed):
        sizes = {"vocab_size": 300, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **heads))

    class Responses(Reviews):
        def batch(self, index):
            prompt, real = padded([self.rows[i][:3] for i in index], left=True)
            rest, kept = padded([self.rows[i][3:] for i in index])
            return Batch({"main": responses_of(prompt, real, rest, kept, torch.tensor(index))})

    loader = Responses(examples.loader.rows, examples.loader.labels)
    texts = replace(examples, loader=loader, probe=loader.batch(list(range(8))), task=Language())
    guide = source(
        llama(4, 32, 1), texts.probe, trained=False, preprocess=None, precision=Precision(), task=texts.task
    )  # fmt: skip
    method = parse("ce:0+forward_kl:1+hidden_mse:1+minilm_relations(heads=4):1")
    run = assemble(llama(2, 16, 0), guide, method, texts, FIT)
    first, *_, last = terms(run.run().history)
    assert all(last[name] < first[name] for name in ("forward_kl", "hidden_mse", "minilm_relations"))
