"""Students cut out of their teachers: whole layers, parts of widths, adapters."""

import pytest
import torch
from language_kit import TOKENS, ids, logits, tiny
from torch import nn

pytest.importorskip("transformers")
from potstill.language.lora import merged
from potstill.language.models import LanguageModel, build
from potstill.language.students import from_teacher, kept_layers

KINDS = [("llama", "causal"), ("gpt2", "causal"), ("qwen2", "causal"), ("bert", "classify"), ("distilbert", "masked")]


def student(teacher, head="causal", **kw):
    return build(LanguageModel("teacher", head=head, **kw), TOKENS, seed=3, teacher=teacher).eval()


@pytest.mark.parametrize(
    ("keep", "rule", "layers"),
    [
        ((6,), "spread", (0, 2, 4, 7, 9, 11)),  # DistilBERT's
        ((6,), "first", (0, 1, 2, 3, 4, 5)),  # MixKD's
        ((4,), "blocks", (2, 5, 8, 11)),  # TinyBERT's g(m) = 3m, counted from 1
        ((1,), "spread", (0,)),
        ((12,), "blocks", tuple(range(12))),
        ((1, 10), "first", (1, 10)),
    ],
)
def test_which_layers_stay(keep, rule, layers):
    assert kept_layers(12, keep, rule) == layers


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_all_layers_answer_as_the_teacher(kind, head):
    teacher = tiny(kind, head=head)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    whole = student(teacher, head)
    assert torch.equal(logits(whole), logits(teacher))
    for weight in whole.parameters():  # a copy: what is trained is not the teacher
        nn.init.zeros_(weight)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_dropping_layers_is_the_teacher_without_them(kind, head):
    """The teacher itself, with the other layers taken out of its list, says what the student must say."""
    teacher = tiny(kind, head=head)
    shallow = student(teacher, head, from_teacher=(0, 2))
    stack = next(part for part in teacher.modules() if isinstance(part, nn.ModuleList) and len(part) == 4)
    del stack[3], stack[1]
    for place, layer in enumerate(stack):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = place
    teacher.config.num_hidden_layers = 2
    assert torch.equal(logits(shallow), logits(teacher))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_units_that_do_nothing_are_those_that_go(kind):
    """Without the inner units whose weights are zero nothing changes, wherever they lie."""
    teacher = tiny(kind, head="masked" if kind == "bert" else "causal", inner=48)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if name.endswith(("gate_proj.weight", "c_fc.weight", "intermediate.dense.weight")):
                dead = torch.randperm(48, generator=generator)[:24]
            if 48 in weight.shape:
                weight.index_fill_(list(weight.shape).index(48), dead, 0)
    narrow = student(teacher, "masked" if kind == "bert" else "causal", inner=24, cut="norm")
    torch.testing.assert_close(logits(narrow), logits(teacher))
    assert not torch.allclose(
        logits(student(teacher, "masked" if kind == "bert" else "causal", inner=24)), logits(teacher)
    )


def test_heads_that_do_nothing_are_those_that_go():
    """Heads 0 and 1 share keys and values, and so do 2 and 3: one pair of each layer is silenced."""
    teacher = tiny("llama")
    with torch.no_grad():
        for place, layer in enumerate(teacher.model.layers):
            pair = slice(0, 16) if place == 1 else slice(16, 32)
            shared = slice(0, 8) if place == 1 else slice(8, 16)
            layer.self_attn.o_proj.weight[:, pair] = 0
            layer.self_attn.q_proj.weight[pair] = 0
            layer.self_attn.k_proj.weight[shared] = 0
            layer.self_attn.v_proj.weight[shared] = 0
    narrow = student(teacher, heads=2, cut="norm")
    assert narrow.config.num_key_value_heads == 1
    torch.testing.assert_close(logits(narrow), logits(teacher))


def test_a_narrower_gpt2_holds_the_first_units_of_each_part():
    teacher = tiny("gpt2")
    narrow = student(teacher, width=16, context=32, from_teacher=(1, 3))
    assert narrow.get_input_embeddings().num_embeddings == TOKENS
    theirs, mine = teacher.transformer.h[3].attn.c_attn.weight, narrow.transformer.h[1].attn.c_attn.weight
    assert mine.shape == (16, 48)
    for part in range(3):  # queries, keys, values
        assert torch.equal(mine[:, 16 * part : 16 * part + 16], theirs[:16, 32 * part : 32 * part + 16])
    assert torch.equal(narrow.transformer.wpe.weight, teacher.transformer.wpe.weight[:32, :16])
    assert narrow.lm_head.weight is narrow.transformer.wte.weight
    assert logits(narrow).isfinite().all()


@pytest.mark.parametrize(("kind", "head"), KINDS)
@pytest.mark.parametrize("cut", ["first", "norm"])
def test_narrower_students_run(kind, head, cut):
    teacher = tiny(kind, head=head)
    narrow = student(teacher, head, width=16, from_teacher=(2,), cut=cut)
    assert logits(narrow).shape == logits(teacher).shape
    assert sum(w.numel() for w in narrow.parameters()) < 0.4 * sum(w.numel() for w in teacher.parameters())


def test_a_distilbert_from_a_bert():
    bert = tiny("bert", head="masked")
    torch.testing.assert_close(logits(from_teacher(bert, distilbert=True, fold=True)), logits(bert))
    half = build(LanguageModel("distilbert", head="masked", from_teacher=(2,)), TOKENS, teacher=bert)
    theirs, mine = bert.bert.encoder.layer[3], half.distilbert.transformer.layer[1]
    assert torch.equal(mine.ffn.lin1.weight, theirs.intermediate.dense.weight)
    assert torch.equal(
        half.distilbert.embeddings.position_embeddings.weight, bert.bert.embeddings.position_embeddings.weight
    )
    classifier = build(LanguageModel("distilbert", head="classify", labels=3, from_teacher=(2,)), TOKENS, teacher=bert)
    assert logits(classifier).shape == (2, 3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_of_a_lora_student_only_adapters_train(kind):
    pytest.importorskip("peft")
    teacher = tiny(kind)
    made = build(LanguageModel("teacher", lora=2), TOKENS, seed=1, teacher=teacher)
    again = build(LanguageModel("teacher", lora=2), TOKENS, seed=1, teacher=teacher)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    torch.testing.assert_close(logits(made), logits(teacher))
    trained = [weight for weight in made.parameters() if weight.requires_grad]
    before = {name: w.clone() for name, w in made.named_parameters() if not w.requires_grad}
    optimizer = torch.optim.AdamW(trained, 0.1, weight_decay=0.1)
    for _ in range(3):
        made(input_ids=ids(), labels=ids()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(w, before[name]) for name, w in made.named_parameters() if name in before)
    assert not torch.allclose(logits(made), logits(teacher), atol=0.1)
    plain = merged(made)
    torch.testing.assert_close(logits(plain), logits(made), rtol=1e-4, atol=1e-4)
    assert {*plain.state_dict()} == {*teacher.state_dict()}
    torch.testing.assert_close(logits(student(made, from_teacher=(0, 1, 2, 3))), logits(plain))  # adapters as teachers


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"from_teacher": (5,)}, "5 layers to keep: the teacher has 4"),
        ({"from_teacher": (0, 4)}, "there is no layer 4; the teacher has 4 layers, 0 to 3"),
        ({"from_teacher": (2, 1)}, "they must rise"),
        ({"width": 20}, "heads of this network are 8 wide.*try width=16 or 24"),
        ({"width": 64}, "width=64: the teacher has 32"),
    ],
)
def test_students_that_the_teacher_cannot_give(kw, message):
    with pytest.raises(ValueError, match=message):
        student(tiny("gpt2"), **kw)


def test_heads_that_transformers_would_refuse_when_it_loads_the_student():
    with pytest.raises(ValueError, match="not a multiple of the number of attention heads"):
        student(tiny("llama", kv_heads=4), heads=3)


def test_a_matrix_that_is_not_known():
    teacher = tiny("gpt_neox")
    assert logits(student(teacher, from_teacher=(2,))).shape == logits(teacher).shape
    with pytest.raises(ValueError, match=r"embed_in\.weight.*is not known.*keep fewer layers"):
        student(teacher, width=16)
