"""BERT's weights under the names of DistilBERT, which is BERT without token types and pooler."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from potstill.language.extra import need

LAYER = (
    ("attention.self.query.", "attention.q_lin."),
    ("attention.self.key.", "attention.k_lin."),
    ("attention.self.value.", "attention.v_lin."),
    ("attention.output.dense.", "attention.out_lin."),
    ("attention.output.LayerNorm.", "sa_layer_norm."),
    ("intermediate.dense.", "ffn.lin1."),
    ("output.dense.", "ffn.lin2."),
    ("output.LayerNorm.", "output_layer_norm."),
)
REST = (
    ("bert.embeddings.", "distilbert.embeddings."),
    ("cls.predictions.transform.dense.", "vocab_transform."),
    ("cls.predictions.transform.LayerNorm.", "vocab_layer_norm."),
    ("cls.predictions.decoder.", "vocab_projector."),
)
STACK = "distilbert.transformer.layer"
DROPPED = ("token_type_embeddings", "token_type_ids")


def as_distilbert(bert: nn.Module, kind: Any, fold: bool) -> tuple[Any, dict[str, Tensor], str, Any]:
    """Configuration, weights, path of the layers and class of the DistilBERT with all layers of a BERT.

    Raises ValueError for another teacher.
    """
    transformers = need("transformers", "a DistilBERT student")
    own: Any = bert.config
    if own.model_type != "bert":
        raise ValueError(f"a DistilBERT is made from a BERT; the teacher is of the architecture {own.model_type!r}")
    if not hasattr(bert, "bert"):
        raise ValueError(f"a DistilBERT is made from a BERT with a head, which a {type(bert).__name__} has not")
    if kind is None:
        kind = getattr(transformers, type(bert).__name__.replace("Bert", "DistilBert"), None)
        if kind is None:
            raise ValueError(f"there is no DistilBERT of the kind of a {type(bert).__name__}")
    config = transformers.DistilBertConfig(
        vocab_size=own.vocab_size,
        max_position_embeddings=own.max_position_embeddings,
        n_layers=own.num_hidden_layers,
        n_heads=own.num_attention_heads,
        dim=own.hidden_size,
        hidden_dim=own.intermediate_size,
        dropout=own.hidden_dropout_prob,
        attention_dropout=own.attention_probs_dropout_prob,
        activation=own.hidden_act,
        initializer_range=own.initializer_range,
        pad_token_id=own.pad_token_id,
        tie_word_embeddings=own.tie_word_embeddings,
        num_labels=own.num_labels,
        problem_type=own.problem_type,
    )
    state = {_named(name): value for name, value in bert.state_dict().items() if not any(n in name for n in DROPPED)}
    if fold:
        types, positions = (f"embeddings.{name}_embeddings.weight" for name in ("token_type", "position"))
        state[f"distilbert.{positions}"] = state[f"distilbert.{positions}"] + bert.state_dict()[f"bert.{types}"][0]
    # Both heads have a `classifier`, of different inputs: DistilBERT's begins at random, as its pre-classifier does.
    return config, {name: value for name, value in state.items() if not name.startswith("classifier.")}, STACK, kind


def _named(name: str) -> str:
    start = "bert.encoder.layer."
    if name.startswith(start):
        place, _, rest = name.removeprefix(start).partition(".")
        old, new = next(pair for pair in LAYER if rest.startswith(pair[0]))
        return f"{STACK}.{place}.{new}{rest.removeprefix(old)}"
    for old, new in REST:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
