"""Tiny networks of several architectures with weights that matter, for tests of language models."""

import torch

from potstill.language.models import LanguageModel, build

SMALL = {"layers": 4, "width": 32, "heads": 4, "context": 64}
TOKENS = 101


def tiny(name="llama", vocabulary=TOKENS, seed=0, **kw):
    """A network in evaluation mode. New ones answer nearly alike everywhere: these weights are larger."""
    if name in ("llama", "qwen2"):
        kw.setdefault("kv_heads", 2)
    model = build(LanguageModel(name, **{**SMALL, **kw}), vocabulary, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def ids(rows=2, length=9, vocabulary=TOKENS, seed=2):
    return torch.randint(1, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, inputs=None):
    with torch.no_grad():
        return model.eval()(input_ids=ids() if inputs is None else inputs).logits
