"""A causal language model as a backbone and its head: where that is all there is to its logits, and where not."""

import pytest
import torch
from language_kit import ids, logits, tiny
from torch import nn

from potstill.batch import LazyLogits

transformers = pytest.importorskip("transformers")
from potstill.language.heads import split  # noqa: E402
from potstill.language.lora import with_lora  # noqa: E402

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def of(kind, **kw):
    config = transformers.AutoConfig.for_model(kind, **SIZES, **kw)
    return transformers.AutoModelForCausalLM.from_config(config)


def made_of_parts(model, inputs):
    parts = split(model)
    with torch.no_grad():
        return LazyLogits(parts.hidden(input_ids=inputs), parts.weight, parts.bias).dense()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "opt", "phi", "gpt_neox", "gemma"])
def test_hidden_states_and_head_make_the_logits(kind):
    grouped = {"gemma": {"head_dim": 8, "num_key_value_heads": 2}, "qwen2": {"num_key_value_heads": 2}}
    model = of(kind, **grouped.get(kind, {})).eval()
    if model.get_output_embeddings().bias is not None:  # phi's
        nn.init.normal_(model.get_output_embeddings().bias)
    inputs = ids(vocabulary=50)
    torch.testing.assert_close(made_of_parts(model, inputs), logits(model, inputs))


@pytest.mark.parametrize(
    ("kind", "kw"),
    [
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_logits_that_are_more_than_that_are_left_alone(kind, kw):
    assert split(of(kind, **kw)) is None  # a new network's logits are far below the cap


def test_an_encoder_has_a_layer_in_front_of_its_head():
    assert split(tiny("bert", head="masked")) is None
    assert split(tiny("bert", head="classify")) is None
    assert split(nn.Linear(2, 2)) is None


def test_the_model_is_left_as_it_was_and_gradients_arrive():
    model = of("gpt2").train()
    model.transformer.h[1].eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    parts = split(model)
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(state, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())
    LazyLogits(parts.hidden(input_ids=ids(vocabulary=50)), parts.weight).dense().square().mean().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_wrapper_of_data_parallelism():
    model = tiny()
    torch.testing.assert_close(made_of_parts(nn.DataParallel(model), ids()), logits(model))


def test_adapters_below_the_head_are_used_and_one_on_it_is_refused():
    pytest.importorskip("peft")
    model = with_lora(tiny(), 2)
    before = made_of_parts(model, ids())
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    torch.testing.assert_close(made_of_parts(model, ids()), logits(model))
    assert not torch.allclose(before, logits(model))
    assert split(with_lora(tiny(tied=False), 2, targets=("lm_head",))) is None
