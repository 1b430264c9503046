"""A student as a folder of transformers: loaded by theirs and by ours, whole or not there."""

import json

import pytest
import torch
from language_kit import SMALL, logits, tiny
from safetensors.torch import load_file
from torch import nn

transformers = pytest.importorskip("transformers")
from potstill.language import tokenizers  # noqa: E402
from potstill.language.folder import CARD, how_to_load, load_student, save_folder  # noqa: E402
from potstill.language.models import LanguageModel, build  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(["to be, or not to be: that is the question"] * 4, 280)


def student(kind, tokenizer, **kw):
    model = build(LanguageModel(kind, **{**SMALL, **kw}), tokenizer)
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


@pytest.mark.parametrize(("kind", "kw"), [("llama", {"tied": False}), ("gpt2", {}), ("llama", {"lora": 2})])
def test_transformers_loads_what_was_saved(kind, kw, tokenizer, tmp_path):
    model = student(kind, tokenizer, pad_to=64, **kw)
    folder = save_folder(tmp_path / "run" / "model", model, tokenizer, {"method": "skd", "data": "multi30k"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = "to be, or"
    inputs = tokenizer(prompt, return_tensors="pt")
    torch.testing.assert_close(logits(theirs, inputs.input_ids), logits(model, inputs.input_ids), rtol=1e-4, atol=1e-4)
    assert logits(theirs, inputs.input_ids).shape[-1] % 64 == 0  # padding columns are kept
    write = transformers.pipeline("text-generation", str(folder))
    said = write(prompt, max_new_tokens=6, do_sample=False)[0]["generated_text"]
    own = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
    assert said == tokenizer.decode(own, skip_special_tokens=True)
    rows = theirs.generate(**inputs, do_sample=False, eos_token_id=None)
    assert rows.shape[1] == SMALL["context"]  # without a limit it ends with the context
    mine = load_student(tmp_path / "run")
    assert torch.equal(logits(mine.model, inputs.input_ids), logits(theirs, inputs.input_ids))
    assert tokenizers.fingerprint(mine.tokenizer) == tokenizers.fingerprint(tokenizer)
    assert mine.card["method"] == "skd"
    assert "| data | multi30k |" in (folder / "README.md").read_text()


def test_an_architecture_that_brings_its_own_tokenizer(tokenizer, tmp_path):
    """Qwen2's splits and normalises text otherwise: transformers takes it, and the student keeps the one it knows."""
    with pytest.warns(UserWarning, match="reads the tokenizer of a qwen2 network as Qwen2Tokenizer"):
        save_folder(tmp_path / "s", tiny("qwen2", tokenizer), tokenizer)
    assert tokenizers.fingerprint(load_student(tmp_path / "s").tokenizer) == tokenizers.fingerprint(tokenizer)


def test_tied_weights_are_stored_once(tokenizer, tmp_path):
    model = student("llama", tokenizer)
    twice = {name: value.clone() for name, value in model.state_dict().items()}  # as gathered from shards
    save_folder(tmp_path / "a", model, tokenizer)
    save_folder(tmp_path / "b", model, tokenizer, weights=twice)
    for name in ("a", "b"):
        assert "lm_head.weight" not in load_file(tmp_path / name / "model.safetensors")
        back = load_student(tmp_path / name).model
        assert back.lm_head.weight is back.model.embed_tokens.weight
        assert torch.equal(logits(back), logits(model))


def test_averaged_weights_stand_for_the_models_own(tokenizer, tmp_path):
    model, other = (build(LanguageModel("gpt2", **SMALL), tokenizer, seed=seed) for seed in (0, 1))
    save_folder(tmp_path / "one", model, tokenizer, weights=other.state_dict())
    assert torch.equal(logits(load_student(tmp_path / "one").model), logits(other))
    pytest.importorskip("peft")
    adapters, trained = (student("gpt2", tokenizer, lora=2) for _ in range(2))
    weights = trained.state_dict()
    save_folder(tmp_path / "two", adapters, tokenizer, weights=weights)
    torch.testing.assert_close(logits(load_student(tmp_path / "two").model), logits(trained), rtol=1e-4, atol=1e-4)


def test_a_classifier_needs_no_tokenizer(tmp_path):
    model = tiny("bert", head="classify", labels=3)
    save_folder(tmp_path / "s", model)
    back = load_student(tmp_path / "s")
    assert torch.equal(logits(back.model), logits(model))
    assert back.tokenizer is None


def test_a_save_that_fails_leaves_what_was_there(tokenizer, tmp_path, monkeypatch):
    first, second = (student("llama", tokenizer, layers=layers) for layers in (1, 2))
    save_folder(tmp_path / "s", first, tokenizer)

    def broken(*_args, **_kw):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", broken)
    for name in ("s", "new"):
        with pytest.raises(ValueError, match="no space left"):
            save_folder(tmp_path / name, second, tokenizer)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert load_student(tmp_path / "s").model.config.num_hidden_layers == 1
    save_folder(tmp_path / "s", second, tokenizer)  # a student is replaced by the next
    assert load_student(tmp_path / "s").model.config.num_hidden_layers == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_what_is_not_a_students_is_not_touched(tokenizer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    with pytest.raises(ValueError, match=f"holds no student of potstill.*{CARD}"):
        save_folder(tmp_path / "mine", tiny(), tokenizer)
    with pytest.raises(ValueError, match="a Linear cannot be saved"):
        save_folder(tmp_path / "new", nn.Linear(2, 2))
    assert [entry.name for entry in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


def test_what_to_call(tokenizer, tmp_path):
    assert how_to_load(tmp_path) is None
    save_folder(tmp_path / "run" / "model", student("gpt2", tokenizer), tokenizer)
    assert "load_student" in how_to_load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds no language model: did you mean 'run'"):
        load_student(tmp_path / "rum")
    with pytest.raises(ValueError, match=r"holds no language model: no config\.json"):
        load_student(tmp_path)
    path = tmp_path / "run" / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["Trainer"]}))
    with pytest.raises(ValueError, match="names the class 'Trainer', which transformers has not"):
        load_student(tmp_path / "run")
