"""Taps of transformers, against what the networks themselves say with output_hidden_states and output_attentions."""

import pytest
import torch
import transformers as hf

from potstill.functional import attention_scores
from potstill.sources import Network
from potstill.taps import Taps

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
OWN = {
    "distilbert": {"vocab_size": 50, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "modernbert": {**SMALL, **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"), 0)},
}
ENCODERS = {
    "bert": hf.AutoModelForMaskedLM,
    "roberta": hf.AutoModelForSequenceClassification,
    "distilbert": hf.AutoModel,
}
OTHERS = {
    "modernbert": hf.AutoModelForMaskedLM,
    "gpt2": hf.AutoModelForCausalLM,
    "llama": hf.AutoModelForCausalLM,
    "qwen2": hf.AutoModelForSequenceClassification,
}
IDS = torch.arange(2, 14).view(2, 6)
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def network(kind, attention, **changes):
    config = hf.AutoConfig.for_model(kind, **{**OWN.get(kind, SMALL), **changes})
    config.pad_token_id = 0
    torch.manual_seed(0)
    return (ENCODERS | OTHERS)[kind].from_config(config, attn_implementation=attention).eval()


def read(model, *addresses):
    source = Network(model, trained=False)
    names = source.expand(addresses)
    with torch.no_grad():
        found = source.taps(names)(lambda: model(input_ids=IDS, attention_mask=MASK))
    return [found.taps[name] for name in names]


@pytest.mark.parametrize("kind", ENCODERS | OTHERS)
def test_hidden_states_are_those_that_the_network_gives(kind):
    model = network(kind, "eager")
    with torch.no_grad():
        said = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    found = read(model, "hiddens")
    assert len(found) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, said.hidden_states, strict=True))
    (words,) = read(model, "words")
    assert torch.equal(words, model.get_input_embeddings()(IDS))


@pytest.mark.parametrize("kind", ENCODERS)
def test_scores_are_those_of_the_attention_whatever_computes_it(kind):
    eager, fused = network(kind, "eager"), network(kind, "sdpa")
    with torch.no_grad():
        said = eager(input_ids=IDS, attention_mask=MASK, output_attentions=True)
    first, second, *keys = read(fused, "attention")
    for query, key, looks in zip((first, second), keys, said.attentions, strict=True):
        assert query.shape == (2, 6, 4, 8)
        scores = attention_scores(query, key).masked_fill(MASK[:, None, None] == 0, -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), looks, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OTHERS)
def test_scores_that_are_no_products_are_refused(kind):
    model = network(kind, "eager")
    with pytest.raises(ValueError, match="its scores are not their products; relations of queries, keys and values"):
        read(model, "attention")
    query, key, value = read(model, "last.q", "layer2.k", "layer2.v")
    heads = {"llama": 2, "qwen2": 2}.get(kind, 4)
    assert query.shape == (2, 6, 4, 8)
    assert key.shape == value.shape == (2, 6, heads, 8)


def test_values_make_the_attention_output():
    """GPT-2's one projection is cut where queries, keys and values meet."""
    model = network("gpt2", "eager")
    with torch.no_grad():
        looks = model(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions[1]
        (value,) = read(model, "last.v")
        mixed = torch.einsum("bhqk,bkhd->bqhd", looks, value).flatten(2)
        taps = Taps(model, {"projected": "transformer.h.1.attn.c_proj.input"}, needs_gradient=False)
        expected = taps(lambda: model(input_ids=IDS, attention_mask=MASK)).taps["projected"]
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)


def test_a_network_inside_another():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network("bert", "sdpa")

        def forward(self, **inputs):
            return self.inner(**inputs).logits

    model = Wrapped()
    inside, outside = read(model.inner, "last_hidden"), read(model, "last_hidden")
    assert torch.equal(inside[0], outside[0])
    by_hand = read(model, "inner.bert.encoder.layer.1.attention.self.query.heads8")
    assert torch.equal(by_hand[0], read(model, "last.q")[0])


def test_what_is_not_there():
    bert = network("bert", "sdpa")
    with pytest.raises(ValueError, match=r"has no 'layer9.q': it has 2 layers; did you mean 'layer"):
        read(bert, "layer9.q")
    with pytest.raises(ValueError, match=r"gives 32 numbers a token, which are no 1 equal part\(s\) in heads of 7"):
        read(bert, "bert.encoder.layer.1.attention.self.query.heads7")
    with pytest.raises(ValueError, match="has no such module"):
        read(bert, "bert.encoder.layer.7.heads8")
    with pytest.raises(ValueError, match="name module paths by hand"):
        read(torch.nn.Sequential(torch.nn.Linear(2, 2)), "hiddens")
    sizes = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50}
    both = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    bart = hf.BartModel(hf.BartConfig(**sizes, **both))
    with pytest.raises(ValueError, match=r"several lists of layers \(encoder.layers, decoder.layers\)"):
        read(bart, "queries")
