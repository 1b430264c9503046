"""Small causal networks for tests: real ones of several architectures, and one whose law is a table."""

from types import SimpleNamespace

import torch
from torch import nn

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def causal(name: str, seed: int = 0, **changed) -> nn.Module:
    """A random network with spread-out logits, so that its texts do not just repeat one token."""
    import transformers as hf

    grouped = {**SIZES, "num_key_value_heads": 2}
    half = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    makers = {
        "llama": (hf.LlamaConfig, grouped),
        "eager": (hf.LlamaConfig, {**grouped, "attn_implementation": "eager"}),
        "gpt2": (hf.GPT2Config, {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        "qwen2": (hf.Qwen2Config, grouped),
        "mistral": (hf.MistralConfig, {**grouped, "sliding_window": 4}),
        "gemma3": (hf.Gemma3TextConfig, {**grouped, "head_dim": 8, **half}),
        "bloom": (hf.BloomConfig, {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    }
    kind, arguments = makers[name]
    arguments = {**arguments, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, **changed}
    attention = arguments.pop("attn_implementation", "sdpa" if name != "bloom" else "eager")
    torch.manual_seed(seed)
    network = hf.AutoModelForCausalLM.from_config(kind(**arguments), attn_implementation=attention)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return network.eval()


class Table(nn.Module):
    """A causal network whose next-token law is row `(sum of all tokens so far) % rows` of a table.

    It keeps the tokens in the cache that it is given and sums what the mask shows it, so that a wrong cache, mask or
    position gives a wrong law.
    """

    _supports_attention_backend = True

    def __init__(self, laws: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(laws.log())
        self.config = SimpleNamespace(
            _attn_implementation="sdpa", max_position_embeddings=64, vocab_size=laws.shape[1], sliding_window=None
        )

    def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache):
        kept = input_ids[:, None, :, None].double()
        tokens, _ = past_key_values.update(kept, kept, 0)
        seen = (attention_mask * tokens[..., 0][:, :, None]).sum(-1)[:, 0].long()
        return SimpleNamespace(logits=self.logits[seen % len(self.logits)])
