"""Prompts, responses and references out of files: the shared data sets by name, and a user's own."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bpe import bpe

from potstill.language.spec import Text
from potstill.language.texts import load

COLOURS = [{"prompt": f"Name colour {n}.\n", "response": f"Colour {n}."} for n in range(40)]
ASKED = [{"role": "user", "content": "Hello?"}]
TALK = [{"role": "system", "content": "Be brief."}, *ASKED, {"role": "assistant", "content": "Hello."}]
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_the_known_data_sets(shared):
    """What each is, by its own folder: no template, column or split is named."""
    train, valid = load(Text(root=shared("data", "text", "multi30k")))
    assert (len(train), len(valid), valid.split) == (29000, 1014, "validation")
    assert train.prompts[0].startswith("Translate to English: Zwei junge weiße Männer sind im Freien")
    assert train.prompts[0].endswith("Büsche.\n")
    assert train.responses[0] == "Two young, White males are outside near many bushes."
    assert valid.references[0] == ["A group of men are loading cotton onto a truck"]

    train, valid = load(Text("dialogsum", root=shared("data", "text", "dialogsum"), valid_split="test", train_rows=100))
    assert (len(train), len(valid)) == (100, 500)
    assert {len(some) for some in valid.references} == {3}
    assert all(response == some[0] for response, some in zip(valid.responses, valid.references, strict=True))

    train, valid = load(Text("gsm8k", root=shared("data", "text", "gsm8k"), valid_rows=10))
    assert (valid.split, len(valid)) == ("test", 10)
    assert train.responses[0].endswith("#### 72")


def test_instructions_set_a_part_aside_by_their_prompts(shared):
    folder = shared("data", "text", "instructions")
    train, valid = load(Text("instructions", root=folder))
    assert len(train) + len(valid) == 4998
    assert 400 < len(valid) < 600
    assert not set(train.prompts) & set(valid.prompts)
    assert any("2 of 5,000 rows have an empty" in note for note in train.notes)
    assert any("set aside" in note for note in train.notes)
    with_input = [prompt for prompt in train.prompts if "### Input:" in prompt]
    assert 0.3 < len(with_input) / len(train) < 0.5
    assert all(prompt.split("### Input:\n")[1].split("\n\n### Response:")[0].strip() for prompt in with_input)
    further = (folder / "evol_instruct_eval_218.parquet", folder / "ultrafeedback_eval_2000.parquet")
    asked, same = load(Text("instructions", root=folder, extra=further))
    assert len(asked) == len(train) + 2218
    assert asked.responses is None
    assert same.digest == valid.digest
    assert asked.place(len(asked) - 1).endswith("ultrafeedback_eval_2000.parquet, row 1999")


def test_lines_of_prompts_and_responses(tmp_path):
    write(tmp_path / "train.jsonl", COLOURS[:30])
    write(tmp_path / "valid.jsonl", COLOURS[30:])
    train, valid = load(Text("colours", root=tmp_path))
    assert (train.prompts[2], train.responses[2]) == ("Name colour 2.\n", "Colour 2.")
    assert (len(valid), valid.references[0], valid.place(0)) == (
        10,
        ["Colour 30."],
        f"{tmp_path / 'valid.jsonl'}, line 1",
    )
    # The same rows are the same texts, whatever they lie in and however the columns are called.
    other = tmp_path / "other"
    renamed = [{"ask": row["prompt"], "say": row["response"]} for row in COLOURS]
    write(other / "train-00000.parquet", renamed[:15])
    write(other / "train-00001.parquet", renamed[15:30])
    write(other / "dev-0.parquet", renamed[30:])
    again, held = load(Text(root=other, prompt="{ask}", response="{say}"))
    assert (again.digest, held.digest) == (train.digest, valid.digest)
    assert again.place(20) == f"{other / 'train-00001.parquet'}, row 5"
    assert load(Text(root=other, prompt="{say}", response="{ask}"))[0].digest != train.digest


def test_what_is_set_aside_stays_so_when_rows_are_added(tmp_path):
    some, more = (write(tmp_path / f"{n}.jsonl", COLOURS[:n]) for n in (20, 40))
    (_, few), (train, many) = load(Text(root=some, held_out=0.3)), load(Text(root=more, held_out=0.3))
    assert set(few.prompts) == set(many.prompts) & {row["prompt"] for row in COLOURS[:20]}
    assert 5 < len(many) < 20
    assert train.notes
    assert set(load(Text(root=more, held_out=0.3, data_seed=1))[1].prompts) != set(many.prompts)


def test_templates_and_their_alternatives(tmp_path):
    rows = [{"q": "Why {so}?", "hint": "think", "a": "Because."}, {"q": "When?", "a": "Now."}]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", rows)
    _, valid = load(Text(root=tmp_path, prompt=("{q} ({hint}) {{}}\\n", "{q}\n"), response=" {a}"))
    assert valid.prompts == ["Why {so}? (think) {}\n", "When?\n"]
    assert valid.responses == [" Because.", " Now."]


def test_conversations(tmp_path):
    """The assistant's last turn is the response; the turns before it are in the tokenizer's words, or plain ones."""
    more = [*TALK, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}]
    write(tmp_path / "two" / "train.parquet", [{"messages": TALK}, {"messages": more}])
    write(tmp_path / "two" / "test.jsonl", [{"messages": TALK}, {"messages": more}])
    train, valid = load(Text(root=tmp_path / "two"), bpe(chat_template=CHATML))
    assert train.digest == valid.digest
    assert train.prompts[0] == "<system>Be brief.\n<user>Hello?\n<assistant>"
    assert train.responses == ["Hello.", "Bye."]
    assert load(Text(root=tmp_path / "two"), bpe())[0].prompts[1] == (
        "System:\nBe brief.\n\nUser:\nHello?\n\nAssistant:\nHello.\n\nUser:\nAnd?\n\nAssistant:\n"
    )
    write(tmp_path / "open" / "train.jsonl", [{"messages": ASKED}] * 2)
    write(tmp_path / "open" / "test.jsonl", [{"messages": TALK}])
    asked, valid = load(Text(root=tmp_path / "open"))
    assert (asked.responses, valid.responses) == (None, ["Hello."])
    write(tmp_path / "plain" / "train.jsonl", COLOURS[:2])
    write(tmp_path / "plain" / "test.jsonl", COLOURS[:2])
    shown = load(Text(root=tmp_path / "plain", chat=True, response="none"), bpe(chat_template=CHATML))[0]
    assert (shown.prompts[0], shown.responses) == ("<user>Name colour 0.\n\n<assistant>", None)


GOOD = '{"prompt": "a", "response": "b"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "response": "b",}', r"line 3: not JSON.*\n.*comma before the closing bracket"),
        ("{'prompt': 'a', 'response': 'b'}", r"line 3: not JSON.*\n.*double quotes"),
        ('{"prompt": "a", "resp', r"line 3: not JSON \(Unterminated.*\n.*cut short"),
        ('{"prompt": "a\tb", "response": "b"}', r"line 3: not JSON.*\n.*\\t for a tab"),
        (GOOD + GOOD, r"line 3: not JSON \(Extra data.*\n.*new line"),
        ("[", r"line 3: not JSON.*\n.*one JSON document over many lines"),
        ('["a", "b"]', "line 3: a list where an object was expected, such as"),
        ('{"prompt": "a", "respons": "b"}', r"line 3 has no 'response'; did you mean 'respons'\?"),
        ('{"prompt": "a", "response": 42}', r"line 3: 'response' is a number \(42\); expected text"),
        ('{"prompt": "a", "response": ["b"]}', "line 3: 'response' is a list; expected text"),
        (
            '{"prompt": "a", "response": " \\n"}',
            r"line 3: the response is empty \(1 such rows of 3\).*--data.skip_empty",
        ),
        ('{"prompt": null, "response": "b"}', "line 3: the prompt is empty"),
    ],
)
def test_a_bad_line_is_named_with_a_mend(tmp_path, line, said):
    path = write(tmp_path / "mine.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(ValueError, match=said) as error:
        load(Text(root=path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages is empty; expected"),
        ("Hello", "messages is a string; expected"),
        ([{"role": "user", "text": "Hello"}], "turn 1 has 'role', 'text'; expected role and content"),
        ([*ASKED, {"role": "asistant", "content": "a"}], "turn 2 is by 'asistant'; did you mean 'assistant'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "the content of turn 1 is a list; expected text"),
        (TALK[2:], "the assistant speaks without having been asked"),
        (ASKED, r"the last turn is not the assistant's \(1 of 2 conversations\)"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, messages, said):
    path = write(tmp_path / "mine.jsonl", [{"messages": TALK}, {"messages": messages}])
    with pytest.raises(ValueError, match=f"line 2: {said}"):
        load(Text(root=path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"prompt": "{promt}"}, "no column 'promt', which data.prompt '{promt}' names; did you mean 'prompt'"),
        ({"response": "yes"}, "data.response 'yes' names no column.*prompt, response"),
        ({"prompt": "{prompt"}, "template '{prompt': .*braces"),
        ({"prompt": "{prompt!r}"}, "braces hold a column's name and nothing else"),
        ({"train_rows": 99}, "has .* rows, fewer than the 99 asked for"),
        ({"valid_split": "test"}, r"has no split 'test' \(data.valid_split\)"),
        ({"held_out": 1e-6}, "leaves none to validate on"),
        ({"extra": (Path("nowhere.jsonl"),)}, "nowhere.jsonl is no file"),
    ],
)
def test_what_the_user_says_must_fit_the_data(tmp_path, spec, said):
    path = write(tmp_path / "mine.jsonl", COLOURS)
    with pytest.raises(ValueError, match=said):
        load(Text(root=path, **spec))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "gsm8"}, "unknown text data 'gsm8'; did you mean 'gsm8k'"),
        ({"measures": "blue"}, "unknown measure 'blue'; did you mean 'bleu'"),
        ({"too_long": "trim"}, "error, drop or cut, got 'trim'"),
        ({"max_prompt": 0}, "data.max_prompt must be at least 1"),
        ({"root": Path("nowhere")}, "data.root nowhere does not exist"),
    ],
)
def test_what_the_user_says_must_make_sense(spec, said):
    with pytest.raises(ValueError, match=said):
        load(Text(**spec))


def test_a_folder_without_a_training_split(tmp_path):
    write(tmp_path / "a.jsonl", COLOURS)
    write(tmp_path / "b.jsonl", COLOURS)
    with pytest.raises(ValueError, match=r"no files train-\*.*there is a.jsonl, b.jsonl"):
        load(Text(root=tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        load(Text(root=tmp_path))
    assert len(load(Text(root=tmp_path, train_split="a", valid_split="b"))[0]) == 40


def test_the_hub_by_the_library_itself(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    write(tmp_path / "hub" / "train.parquet", [{"question": "1 + 1?", "answer": "#### 2"}] * 3)
    write(tmp_path / "hub" / "test.parquet", [{"question": "1 + 2?", "answer": "#### 3"}])
    real, asked = datasets.load_dataset, []

    def offline(*names):
        asked.append(names)
        return real(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", offline)
    train, valid = load(Text("gsm8k"), quiet=True)
    assert asked == [("openai/gsm8k", "main")]
    assert (train.prompts[0], valid.responses) == ("Question: 1 + 1?\nAnswer:\n", ["#### 3"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(ValueError, match=r"could not load 'openai/gsm8k'.*no route.*--data.root"):
        load(Text("gsm8k"))
