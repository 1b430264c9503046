"""`potstill.distill_text`: two language models in memory, and texts in whatever form a user has them."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import potstill
from potstill.engine import Engine
from potstill.language import tokenizers
from potstill.language.models import LanguageModel, build

PAIRS = [
    {"prompt": f"{who} {does}", "response": f" {what} {where}."}
    for who in ("A man", "A dog", "The child")
    for does in ("sees", "holds", "likes")
    for what in ("a ball", "some water")
    for where in ("outside", "at home")
]
QUICK = potstill.Fit(epochs=2, batch_size=8, optimizer="adamw", lr=1e-2, schedule="constant")
SMALL = {"layers": 1, "heads": 2, "context": 48}


def words(pairs=PAIRS):
    return [text for pair in pairs for text in pair.values()]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(words(), 300)


@pytest.fixture
def networks(tokenizer):
    return tuple(build(LanguageModel("llama", width=w, **SMALL), tokenizer, seed) for w, seed in ((32, 1), (16, 0)))


def distill(networks, data=PAIRS, **kw):
    kw = {"fit": QUICK, "precision": "float32", "quiet": True, "method": "forward_kl", **kw}
    return potstill.distill_text(*networks, data, **kw)


def bits(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_student_that_transformers_loads(networks, tokenizer, tmp_path):
    teacher, student = networks
    before, taught = bits(student), bits(teacher)
    teacher.train()
    run = tmp_path / "run"
    found = distill(networks, tokenizer=tokenizer, valid=PAIRS[::5], method="skd(draft=2,tokens=4)", out=run)
    assert found is student
    assert not student.training
    assert teacher.training  # as it was
    assert same(taught, teacher.state_dict())
    assert not same(before, student.state_dict())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert 0 <= rows[0]["report"]["replaced"] <= 1
    again, its = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    ids = its(PAIRS[0]["prompt"], return_tensors="pt").input_ids
    assert ids.tolist() == [tokenizer(PAIRS[0]["prompt"]).input_ids]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, student(ids).logits)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rows"][0]["mean"]["loss"] == pytest.approx(rows[-1]["valid_loss"])
    assert "skd" in (run / "report.html").read_text()


def test_the_same_texts_in_other_forms(networks, tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    start = bits(networks[1])
    found = []
    file = tmp_path / "my.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    for data in (PAIRS, str(file), datasets.Dataset.from_list(PAIRS)):
        networks[1].load_state_dict(start)
        found.append(bits(distill(networks, data, tokenizer=tokenizer)))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_conversations_and_prompts_alone(networks, tokenizer):
    tokenizer = tokenizers.train(
        words(), 300, chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    start = bits(networks[1])
    turns = [
        {"messages": [{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p["response"]}]}
        for p in PAIRS
    ]
    distill(networks, turns, tokenizer=tokenizer)
    assert not same(start, networks[1].state_dict())
    start = bits(networks[1])
    prompts = [{"prompt": pair["prompt"]} for pair in PAIRS]
    distill(networks, prompts, tokenizer=tokenizer, method="on_policy(tokens=3)")
    assert not same(start, networks[1].state_dict())
    for method in ("forward_kl", "student"):
        with pytest.raises(ValueError, match="learns from the responses of your data, which has prompts only"):
            distill(networks, prompts, tokenizer=tokenizer, method=method)


def test_two_tokenizers(networks, tokenizer):
    other = tokenizers.train([text[::-1] for text in words()], 290)
    start = bits(networks[1])
    with pytest.raises(ValueError, match=r"different tokenizers: .* gold .* uld"):
        distill(networks, tokenizer=tokenizer, teacher_tokenizer=other)
    with pytest.raises(ValueError, match="different tokenizers"):
        distill(networks, tokenizer=tokenizer, teacher_tokenizer=other, method="skd(tokens=3)+gold")
    for method in ("gold", "on_policy(tokens=4)+uld"):
        distill(networks, tokenizer=tokenizer, teacher_tokenizer=other, method=method, valid=PAIRS[:4])
        assert not same(start, networks[1].state_dict())
        start = bits(networks[1])
    distill(networks, tokenizer=tokenizer, teacher_tokenizer=tokenizer)  # the same one: as if it were not given


def test_an_interrupted_run_goes_on(networks, tokenizer, tmp_path, monkeypatch):
    start = bits(networks[1])
    kw = {"tokenizer": tokenizer, "method": "on_policy(tokens=3)", "fit": QUICK}
    whole = bits(distill(networks, out=tmp_path / "whole", **kw))
    networks[1].load_state_dict(start)

    move, steps = Engine.move, []

    def interrupting(self):
        move(self)
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "move", interrupting)
        with pytest.raises((potstill.Interrupted, KeyboardInterrupt)):
            distill(networks, out=tmp_path / "parts", **kw)
    networks[1].load_state_dict(start)
    assert same(whole, bits(distill(networks, out=tmp_path / "parts", resume=True, **kw)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "train data is empty"),
        ([1], "row 0: a number where a dictionary was expected"),
        ([{"prompt": "A man", "response": ""}], "train data, row 0: the response is empty"),
        ([{"prompt": "A man", "response": " sees" * 99}], r"row 0: .*tokens.*48"),
        ({"prompt": "A man"}, "data is a dict; expected the path of a .jsonl or .parquet file"),
        ("nowhere.jsonl", r"nowhere\.jsonl is no file"),
    ],
)
def test_data_that_cannot_be_learnt_from(data, message, networks, tokenizer):
    with pytest.raises(ValueError, match=message):
        distill(networks, data, tokenizer=tokenizer)


def test_networks_that_cannot_learn(networks, tokenizer):
    teacher, student = networks
    with pytest.raises(ValueError, match="the same module"):
        distill((teacher, teacher), tokenizer=tokenizer)
    small = build(LanguageModel("llama", width=16, **SMALL), 40, 0)
    with pytest.raises(ValueError, match="the teacher knows 40 tokens, and its tokenizer has"):
        distill((small, student), tokenizer=tokenizer)
    with torch.no_grad():
        next(teacher.parameters()).fill_(float("nan"))
    for method in ("forward_kl", "skd(tokens=3)"):
        with pytest.raises(ValueError, match="NaN"):
            distill(networks, tokenizer=tokenizer, method=method)
