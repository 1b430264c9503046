"""Language models as plain values: new ones, folders with and without weights, and what cannot be built."""

import pytest
import torch
from language_kit import SMALL, logits, tiny
from torch import nn

pytest.importorskip("transformers")
from potstill.language import tokenizers
from potstill.language.models import LanguageModel, build


def test_the_default_is_a_small_llama():
    one, two = (build(LanguageModel(), 4096, seed=7) for _ in range(2))
    assert 4e6 < sum(weight.numel() for weight in one.parameters()) < 6e6
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build(LanguageModel(), 4096, seed=8)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_the_random_state_of_the_caller_stays():
    state = torch.get_rng_state()
    tiny("gpt2")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_dropout_is_off_unless_asked_for(name):
    head = "causal" if name == "gpt2" else "masked"
    rates = lambda model: {part.p for part in model.modules() if isinstance(part, nn.Dropout)}  # noqa: E731
    assert rates(build(LanguageModel(name, head=head, **SMALL), 50)) == {0.0}
    assert rates(build(LanguageModel(name, head=head, dropout=None, **SMALL), 50)) == {0.1}
    assert rates(build(LanguageModel("teacher", head=head, dropout=0.3), 50, teacher=tiny(name, 50, head=head))) == {
        0.3
    }


def test_a_tokenizer_says_what_ends_and_what_fills():
    tokenizer = tokenizers.train(["a few words of text"], 300)
    model = build(LanguageModel("gpt2", pad_to=64, **SMALL), tokenizer)
    rows = model.get_input_embeddings().num_embeddings
    assert rows % 64 == 0
    assert 0 <= rows - len(tokenizer) < 64
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_folder_brings_its_weights(tmp_path):
    teacher = tiny("qwen2")
    teacher.save_pretrained(tmp_path / "full")
    full = LanguageModel(str(tmp_path / "full"))
    assert full.taught
    assert torch.equal(logits(build(full, 101)), logits(teacher))
    assert build(LanguageModel(full.name, dtype="bfloat16"), 101).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="has 101 tokens in its vocabulary, and the tokenizer has 102"):
        build(full, 102)
    teacher.config.save_pretrained(tmp_path / "bare")
    bare = LanguageModel(str(tmp_path / "bare"))
    assert not bare.taught
    assert logits(build(bare, 101)).shape == logits(teacher).shape
    assert not any(LanguageModel(name).taught for name in ("llama", "teacher"))


def test_an_encoder_becomes_a_classifier(tmp_path):
    tiny("bert", head="masked").save_pretrained(tmp_path)
    spec = LanguageModel(str(tmp_path), head="classify", labels=3)
    one, two = build(spec, 101, seed=1), build(spec, 101, seed=1)
    assert torch.equal(logits(one), logits(two))
    assert logits(one).shape == (2, 3)
    one.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"its weights lack cls\.predictions"):
        build(LanguageModel(str(tmp_path / "classifier"), head="masked"), 101)


def test_pickled_weights_are_tensors_or_refused(tmp_path, capsys):
    class Bad:
        def __reduce__(self):
            return print, ("this must not be seen",)

    teacher = tiny("gpt2")
    teacher.config.save_pretrained(tmp_path)
    torch.save(teacher.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(build(LanguageModel(str(tmp_path)), 101)), logits(teacher))
    torch.save({"transformer.wte.weight": Bad()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled Python objects, which can run any code"):
        build(LanguageModel(str(tmp_path)), 101)
    assert "seen" not in capsys.readouterr().out
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="damaged or cut short"):
        build(LanguageModel(str(tmp_path)), 101)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"name": "lama"}, r"did you mean 'llama'.*OWNER/NAME"),
        ({"name": "t5"}, "t5 has no head 'causal'"),
        ({"name": "bert"}, "bert is an encoder"),
        ({"name": "gpt2", "kv_heads": 2}, "kv_heads=2 has no effect"),
        ({"name": "llama", "width": 30, "heads": 4}, "width=30 is not a multiple of heads=4"),
        ({"name": "teacher"}, "it is made from the teacher, and there is none"),
        ({"name": "./no/such"}, "there is no folder no/such"),
        ({"name": "teacher", "layers": 3}, "layers=3 has no effect on a student made from the teacher"),
        ({"name": "a/b", "width": 8}, "width=8 has no effect on a/b"),
        ({"name": "llama", "lora_alpha": 2.0}, "no effect without lora"),
        ({"name": "llama", "labels": 3}, "labels=3 has no effect with head=causal"),
        ({"name": "llama", "layers": 0}, "layers must be at least 1"),
        ({"name": "llama", "lora": 2, "lora_targets": ("q_poj",)}, "no linear layer 'q_poj': did you mean 'q_proj'"),
    ],
)
def test_what_cannot_be_built(kw, message):
    with pytest.raises(ValueError, match=message):
        build(LanguageModel(**kw), 50)


def test_a_folder_without_a_configuration_and_a_hub_out_of_reach(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no config\.json, which model\.save_pretrained"):
        build(LanguageModel(str(tmp_path)), 50)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"(?s)nobody/nothing: .*there is no folder nobody/nothing either"):
        build(LanguageModel("nobody/nothing"), 50)


@pytest.mark.parametrize(("name", "teacher"), [("llama", "gpt2"), ("distilbert", "gpt2")])
def test_another_architecture_than_the_teacher(name, teacher):
    with pytest.raises(ValueError, match=f"{name}: it cannot be made from a teacher of the architecture 'gpt2'"):
        build(LanguageModel(name, from_teacher=(2,)), 101, teacher=tiny(teacher))
    with pytest.raises(ValueError, match="the teacher is a Linear"):
        build(LanguageModel("teacher"), 101, teacher=nn.Linear(2, 2))
