"""Runs in which teacher and student each bring a tokenizer: two folders, as a user has them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from language_kit import tiny

from potstill.comparison import Options
from potstill.console import Talk
from potstill.language import comparison, folder, texts, tokenizers
from potstill.language.loader import first
from potstill.language.models import LanguageModel
from potstill.language.pairing import both, crossed
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import run
from potstill.language.spec import Text
from potstill.recipe import Fit
from potstill.types import Progress

ANIMALS = ["the cat", "a dog", "猫", "两只狗", "القط"]
PLACES = ["in the garden", "on the roof", "在屋顶上", "في الحديقة"]
ROWS = [
    {"prompt": f"Where is {animal}? {place}\n", "response": f"{animal.capitalize()} is {place}。👩\u200d👧"}
    for animal in ANIMALS
    for place in PLACES
]
WORDS = [text for row in ROWS for text in row.values()]
FIT = Fit(epochs=2, batch_size=4, optimizer="adamw", lr=2e-2)
SIZES = {"layers": 1, "width": 16, "heads": 2, "context": 160}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}<assistant> "


def saved(place, vocabulary, seed, rows=None, chat=None):
    tokenizer = tokenizers.train(WORDS, vocabulary, chat_template=chat)
    folder.save_folder(place, tiny(vocabulary=rows or len(tokenizer), seed=seed, **SIZES), tokenizer)
    return LanguageModel(str(place))


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """The page of a run has its own tests, and takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "write_report", lambda out: None)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a student's folder and a teacher's, of different tokenizers."""
    place = tmp_path_factory.mktemp("two")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    saved(place / "student", 290, 0)
    saved(place / "teacher", 340, 1, chat=TEMPLATE)
    return place


def recipe(place, *methods, student="student", teacher="teacher", **kw):
    data = Text(root=place / "rows.jsonl", held_out=0.3, measures=("chrf", "loss"))
    student, teacher = (LanguageModel(str(place / one)) if isinstance(one, str) else one for one in (student, teacher))
    own = {"data": data, "student": student, "teacher": teacher, "fit": FIT, "judged": 2}
    return LanguageRecipe(**{**own, "methods": methods, **kw})


def ran(recipe, out, precision="float32"):
    return run(recipe, Options(out, torch.device("cpu"), Talk(quiet=True), precision=precision))


def history(out, method):
    return [json.loads(line) for line in (out / method / "seed0" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(place):
    """One run of everything that two tokenizers can do."""
    methods = ("student", "gold", "gold(hybrid=True)", "uld", "on_policy(tokens=6)+gold")
    return place / "run", methods, ran(recipe(place, *methods), place / "run")


def test_every_method_that_crosses_is_a_cell_of_an_ordinary_run(done):
    out, methods, summary = done
    assert [row["method"] for row in summary["rows"]] == list(methods)
    assert "two tokenizers: " in summary["notes"][-1]
    for method in ("gold", "gold(hybrid=True)"):
        rows = history(out, method)
        assert rows[-1]["terms"]["gold"] < rows[0]["terms"]["gold"]
        assert rows[-1]["report"] == {"grouped": 1.0}
    assert history(out, "uld")[-1]["terms"]["uld"] < history(out, "uld")[0]["terms"]["uld"]
    assert "report" not in history(out, "student")[-1], "nobody reads the teacher's view"
    own = history(out, "on_policy(tokens=6)+gold")[-1]["report"]
    assert 3 < own["length"] <= 6
    assert 0 < own["grouped"] <= 1


def test_each_side_speaks_its_own_tokens(done, place):
    """The teacher's loss is what transformers makes of the texts in its tokens; the student keeps its own."""
    out, _, summary = done
    taught = folder.load_student(place / "teacher")
    _, valid = texts.load(Text(root=place / "rows.jsonl", held_out=0.3))
    total, count = 0.0, 0
    for prompt, response in zip(valid.prompts, valid.responses, strict=True):
        asked = taught.tokenizer(prompt)["input_ids"]
        answer = [*taught.tokenizer(response)["input_ids"], taught.tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(asked) + answer])
        with torch.no_grad():
            total += taught.model(input_ids=torch.tensor([asked + answer]), labels=labels).loss.item() * len(answer)
        count += len(answer)
    assert summary["teacher"]["scores"]["loss"] == pytest.approx(total / count, rel=1e-5)
    samples = json.loads((out / "teacher" / "samples.json").read_text())["items"]
    with torch.no_grad():
        asked = torch.tensor([taught.tokenizer(valid.prompts[0])["input_ids"]])
        first = taught.model(input_ids=asked).logits[0, -1].argmax()
    assert samples[0]["response"].startswith(taught.tokenizer.decode([first]).rstrip("\ufffd"))
    student = folder.load_student(out / "gold" / "seed0" / "model")
    assert len(student.tokenizer) == student.model.config.vocab_size == 290


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("forward_kl", "forward_kl: student and teacher have different tokenizers: '"),
        ("skd", "skd: skd shows the teacher tokens of the student"),
        ("seqkd", "seqkd: seqkd shows"),
        ("minillm", "minillm: minillm shows"),
        ("on_policy", "on_policy: student and teacher have different tokenizers"),
        ("gold+forward_kl", "different tokenizers"),
    ],
)
def test_what_compares_tokens_one_by_one_is_refused(place, tmp_path, method, what):
    with pytest.raises(ValueError, match=what) as error:
        ran(recipe(place, "student", method), tmp_path / "out")
    assert "gold compares tokens that cover the same bytes, uld" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_tokenizer_and_two_widths_just_works(place, tmp_path):
    for name, seed, rows in (("narrow", 0, 300), ("wide", 1, 320)):
        saved(tmp_path / name, 290, seed, rows)
    wanted = recipe(place, "forward_kl", "skd(k=5,tokens=4)", judged=0)
    for one, other in (("narrow", "wide"), ("wide", "narrow")):
        sides = {"student": LanguageModel(str(tmp_path / one)), "teacher": LanguageModel(str(tmp_path / other))}
        out = tmp_path / f"{one} run"
        summary = ran(replace(wanted, **sides), out)
        assert not any("two tokenizers" in note for note in summary["notes"])
        rows = history(out, "forward_kl")
        assert rows[-1]["terms"]["forward_kl"] < rows[0]["terms"]["forward_kl"]
        student = folder.load_student(out / "forward_kl" / "seed0" / "model").model
        assert student.config.vocab_size == (300 if one == "narrow" else 320)


def test_new_networks_with_tokenizers_of_their_own(place, tmp_path):
    """A tokenizer is trained for the student; the teacher learns its texts in its own, before it teaches."""
    new = LanguageModel("llama", **SIZES)
    theirs = {"student": new, "teacher": new, "teacher_tokenizer": str(place / "teacher"), "judged": 0}
    wanted = recipe(place, "gold", tokenizer="new", vocabulary=280, **theirs)
    summary = ran(replace(wanted, fit=replace(FIT, epochs=1)), tmp_path / "out", precision="auto")
    assert [row["method"] for row in summary["rows"]] == ["gold"]
    sizes = [
        len(folder.load_student(tmp_path / "out" / part / "model").tokenizer) for part in ("gold/seed0", "teacher")
    ]
    assert sizes == [280, 340]


def test_a_student_made_from_the_teacher_has_its_tokenizer(place, tmp_path):
    wanted = recipe(place, "gold", student=LanguageModel("teacher"), tokenizer=str(place / "student"))
    with pytest.raises(ValueError, match=r"made from the teacher has the teacher's tokenizer.*leave tokenizer out"):
        ran(wanted, tmp_path / "out")


def test_samples_stay_together_whatever_either_side_leaves_out(place):
    """Prompts in each one's template, and what is too long for one side is left out of both."""
    one, other = (tokenizers.load(place / name) for name in ("student", "teacher"))
    one.chat_template = "Q: {{ messages[0]['content'] }}A: "
    train, _ = texts.load(Text(root=place / "rows.jsonl", held_out=0.3, chat=True), one)
    spec = Text(root=place / "rows.jsonl", too_long="drop")
    whole = both(train, spec, one, other)[0].lengths
    limit = int(np.median(whole))
    mine, theirs = both(train, spec, one, other, limit, int(np.median(both(train, spec, one, other)[1].lengths)))
    assert 0 < len(mine) < (whole <= limit).sum()
    crossing = crossed(one, mine, other, theirs)
    seen = crossing.alone(first(mine, len(mine))).main
    for n in range(len(mine)):
        row = ROWS[mine.texts.rows[n]]
        said = seen.input["input_ids"][n][seen.input["attention_mask"][n]]
        assert one.decode(mine.prompt(n)) == f"Q: {row['prompt']}A: "
        asked = f"<user> {row['prompt']}\n<assistant> "
        assert other.decode(said) == asked + row["response"] + other.eos_token
    short = crossed(one, mine, other, theirs, int(theirs.prompts.max()) + 3)
    made = short(first(mine, len(mine)), {}, Progress(0, 0, 1), 0)
    assert made.views["teacher"].input["input_ids"].shape[1] <= theirs.prompts.max() + 3 + np.ptp(theirs.prompts)
    assert made.views["teacher"].input["attention_mask"].sum(1).max() == theirs.prompts.max() + 3
    assert (made.main.extras["group"][:, 0] >= 0).any()
    assert (made.main.extras["group"] < 0).any()
