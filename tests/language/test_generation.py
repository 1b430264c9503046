"""Batched sampling with caches, on real architectures: against transformers, and against reading everything anew."""

import pytest
import torch
from causal_networks import causal
from scipy.stats import chisquare

from potstill.language.generation import Ends, Sampling, draw, entropy, generate, warped
from potstill.language.speculative import interleave

PROMPT = torch.tensor([[0, 0, 0, 3, 4, 5], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 9, 8], [0, 0, 0, 0, 0, 7]])
MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]]).bool()
GREEDY = Sampling(temperature=0, max_new_tokens=10)
ALL = ("llama", "eager", "gpt2", "qwen2", "mistral", "gemma3", "bloom")


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ALL)
def test_greedy_text_is_what_transformers_writes(name):
    network = causal(name)
    free = generate(network, PROMPT, MASK, GREEDY, Ends((), 0), random())
    assert bool(free.mask.all())
    # Two tokens that are written end texts, at different places in different rows.
    stop = (int(free.tokens[0, 4]), int(free.tokens[1, 7]))
    ours = generate(network, PROMPT, MASK, GREEDY, Ends(stop, 0), random())
    theirs = network.generate(
        input_ids=PROMPT,
        attention_mask=MASK.long(),
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=list(stop),
        pad_token_id=0,
    )[:, 6:]
    width = theirs.shape[1]
    assert torch.equal(ours.tokens[:, :width], theirs)
    assert not ours.mask[:, width:].any()
    assert torch.equal(ours.ended, torch.isin(theirs, torch.tensor(stop)).any(1))
    assert ours.mask.sum(1).min() < ours.mask.sum(1).max()


def one_by_one(student, teacher, prompt, k, sampling, stop):
    """Algorithm 1 as the paper writes it, greedy, one text, no cache."""
    written, replaced = [], []
    while len(written) < sampling.max_new_tokens and not (written and written[-1] in stop):
        text = torch.tensor([prompt + written])
        token = int(student(text).logits[0, -1].argmax())
        ranked = teacher(text).logits[0, -1].argsort(descending=True).tolist()
        replaced.append(token not in ranked[:k])
        written.append(ranked[0] if replaced[-1] else token)
    return written, replaced


@pytest.mark.parametrize(("student", "teacher"), [("llama", "gpt2"), ("mistral", "gemma3"), ("bloom", "qwen2")])
@torch.no_grad()
def test_blocks_write_what_algorithm_1_writes_token_by_token(student, teacher):
    pair = causal(student).double(), causal(teacher, seed=1).double()
    stop = (11, 12, 13, 14)
    expected = [one_by_one(*pair, row[real].tolist(), 20, GREEDY, stop) for row, real in zip(PROMPT, MASK, strict=True)]
    assert any(any(flags) and not all(flags) for _, flags in expected)
    for draft in (1, 4):
        found = interleave(
            *pair,
            PROMPT,
            MASK,
            k=20,
            draft=draft,
            student_sampling=GREEDY,
            teacher_sampling=GREEDY,
            ends=Ends(stop, 49),
            generator=random(),
        )
        for row, (written, replaced) in enumerate(expected):
            real = found.mask[row]
            assert found.tokens[row][real].tolist() == written
            assert found.replaced[row][real].tolist() == replaced
            assert bool(found.ended[row]) == (written[-1] in stop)
        assert bool((found.tokens[~found.mask] == 49).all())
        assert not found.replaced[~found.mask].any()


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "bloom"])
@torch.no_grad()
def test_what_was_read_through_the_cache_is_what_a_plain_forward_reads(name):
    student, teacher = causal(name).double(), causal("llama", seed=3).double()
    warm = Sampling(max_new_tokens=12)
    found = interleave(
        student,
        teacher,
        PROMPT,
        MASK,
        k=25,
        student_sampling=warm,
        teacher_sampling=warm,
        ends=Ends((11, 12), 0),
        generator=random(),
        measure=True,
    )
    assert 0 < int(found.replaced.sum()) < int(found.mask.sum())
    for row in range(len(PROMPT)):
        prompt, written = PROMPT[row][MASK[row]], found.tokens[row][found.mask[row]]
        text = torch.cat([prompt, written])[None]
        ours, theirs = (network(text).logits[0, len(prompt) - 1 : -1] for network in (student, teacher))
        real = found.mask[row]
        assert torch.allclose(found.entropy[row][real], entropy(ours), atol=1e-5)
        both = [set(logits.topk(25).indices[i].tolist()) for logits in (ours, theirs) for i in range(len(written))]
        common = [len(a & b) / 25 for a, b in zip(both[: len(written)], both[len(written) :], strict=True)]
        assert found.overlap[row][real].tolist() == pytest.approx(common)
        # A token that was let stand is in the teacher's top-k, and one that was replaced came from the teacher.
        rank = (theirs > theirs.gather(1, written[:, None])).sum(1)
        assert bool((found.replaced[row][real] | (rank < 25)).all())


def test_networks_come_back_as_they_were_and_the_generator_is_all_the_randomness():
    student, teacher = causal("llama", attention_dropout=0.5), causal("gpt2")
    student.train()
    student.model.layers[0].eval()
    modes = [module.training for module in student.modules()]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    settings = {"ends": Ends((11,), 0), "student_sampling": Sampling(max_new_tokens=8)}
    texts = [interleave(student, teacher, PROMPT, MASK, generator=random(seed), **settings) for seed in (1, 1, 2)]
    assert torch.equal(texts[0].tokens, texts[1].tokens)
    assert torch.equal(texts[0].replaced, texts[1].replaced)
    assert not torch.equal(texts[0].tokens, texts[2].tokens)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in student.parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_a_wrapper_of_peft_is_looked_through():
    from peft import LoraConfig, get_peft_model

    plain = generate(causal("llama"), PROMPT, MASK, GREEDY, Ends((), 0), random())
    adapted = get_peft_model(causal("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    assert torch.equal(generate(adapted, PROMPT, MASK, GREEDY, Ends((), 0), random()).tokens, plain.tokens)


def test_columns_behind_the_vocabulary_are_never_written():
    student, teacher = causal("llama"), causal("llama", seed=1, vocab_size=56)
    hot = Sampling(temperature=50.0, max_new_tokens=10)
    settings = {"ends": Ends((), 0), "student_sampling": hot, "teacher_sampling": hot}
    for first, second in ((student, teacher), (teacher, student)):
        assert interleave(first, second, PROMPT, MASK, generator=random(), k=5, **settings).tokens.max() < 50
    narrow = interleave(student, teacher, PROMPT, MASK, generator=random(), k=5, vocabulary=40, **settings)
    assert 25 < narrow.tokens.max() < 40
    assert generate(teacher, PROMPT, MASK, hot, Ends((), 0), random(), vocabulary=40).tokens.max() < 40


def test_a_rank_that_has_ended_reads_on_until_the_others_have(monkeypatch):
    student, teacher = causal("llama"), causal("gpt2")
    short = Sampling(max_new_tokens=3)
    settings = {"ends": Ends((), 0), "student_sampling": short, "draft": 2}
    alone = interleave(student, teacher, PROMPT, MASK, generator=random(), **settings)
    rounds = []

    def another_rank(facts, operation):
        rounds.append(facts.clone())
        facts[0] = 1 if len(rounds) < 6 else 0

    monkeypatch.setattr("potstill.language.reading.sharded", lambda network: True)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", another_rank)
    shared = interleave(student, teacher, PROMPT, MASK, generator=random(), **settings)
    assert len(rounds) == 6
    assert rounds[-1][0] == 0
    assert bool(shared.mask.all())
    assert torch.equal(shared.tokens[:, :2], alone.tokens[:, :2])


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.5, 0.5), Sampling(2.0, 0.9, 7), Sampling(1.0, 1.0, 3), Sampling(0.7, 0.2), Sampling(1.0, 0.95, 60)],
)
def test_what_is_cut_off_is_what_transformers_cuts_off(sampling):
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(64, 50, generator=random(), dtype=torch.float64) * 3
    logits[:8] = logits[:8].round()  # ties
    if sampling.top_p < 1:
        logits = logits[8:]  # a tie on the nucleus' edge may go either way
    chain = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    chain += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    chain += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    assert torch.equal(warped(logits, sampling), chain(None, logits.clone()))


@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize("sampling", [Sampling(0.8, 0.6), Sampling(), Sampling(0.8, 0.6, 20)])
def test_tokens_are_drawn_by_the_law_that_is_left(sampling, spread):
    # 300 tokens: a flat law's nucleus is larger than the candidates that are looked at first.
    logits = torch.randn(300, generator=random(), dtype=torch.float64) * spread
    law = warped(logits, sampling).softmax(-1)
    drawn = draw(logits.expand(8000, -1), sampling, random(1))
    seen = torch.bincount(drawn, minlength=300)
    assert not seen[law == 0].any()
    assert (
        chisquare(
            seen[law > 1e-3].tolist(), (law[law > 1e-3] / law[law > 1e-3].sum() * seen[law > 1e-3].sum()).tolist()
        ).pvalue
        > 1e-3
    )
    assert draw(logits[None], Sampling(temperature=0), random()).item() == logits.argmax()


def refuse(words, call):
    with pytest.raises(ValueError, match=words):
        call()


def test_bad_input_is_refused_in_words():
    network, other = causal("llama"), causal("llama", max_position_embeddings=16)
    ends, seed = Ends((), 0), random()
    refuse(
        "longest prompt has 6 tokens and max_new_tokens is 60: 66 .* 64",
        lambda: generate(network, PROMPT, MASK, Sampling(max_new_tokens=60), ends, seed),
    )
    refuse(
        "the teacher's context of 16",
        lambda: interleave(
            network, other, PROMPT, MASK, ends=ends, generator=seed, student_sampling=Sampling(max_new_tokens=11)
        ),
    )
    long = torch.ones(1, 17, dtype=torch.int64)
    refuse(
        "prompt has 17 tokens, more than the network's context of 16",
        lambda: generate(other, long, long.bool(), GREEDY, ends, seed),
    )
    refuse("padded on the left", lambda: generate(network, PROMPT, MASK.flip(1), GREEDY, ends, seed))
    refuse(
        "prompt 1 is empty",
        lambda: generate(network, PROMPT[:2], torch.stack([MASK[0], torch.zeros(6).bool()]), GREEDY, ends, seed),
    )
    refuse(r"\[B, P\]", lambda: generate(network, PROMPT, MASK[:2], GREEDY, ends, seed))
    refuse(
        "accept_on='wraped' .* 'warped'",
        lambda: interleave(network, network, PROMPT, MASK, ends=ends, generator=seed, accept_on="wraped"),
    )
    for bad in ({"k": -1}, {"draft": 0}, {"teacher_p": 0.0}, {"decay": -1}, {"decay": 2, "k": 0}, {"tested": "kep"}):
        refuse(
            "must|does nothing|unknown",
            lambda bad=bad: interleave(network, network, PROMPT, MASK, ends=ends, generator=seed, **bad),
        )
    for bad in ({"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_k": -1}, {"max_new_tokens": 0}):
        refuse(next(iter(bad)), lambda bad=bad: Sampling(**bad))
    refuse("at least 0", lambda: Ends((-1,), 0))
    broken = causal("llama", seed=1)
    broken.lm_head.weight.data.fill_(float("nan"))
    refuse(
        "the teacher gave NaN logits",
        lambda: interleave(network, broken, PROMPT, MASK, ends=ends, generator=seed, student_sampling=GREEDY),
    )
    refuse(
        "the student gave NaN logits",
        lambda: interleave(broken, network, PROMPT, MASK, ends=ends, generator=seed, student_sampling=GREEDY),
    )
    refuse("the network gave NaN logits", lambda: generate(broken, PROMPT, MASK, GREEDY, ends, seed))


def test_a_state_that_cannot_be_taken_back_is_refused():
    from transformers import MambaConfig, MambaForCausalLM, MptConfig, MptForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, state_size=2))
    mpt = MptForCausalLM(MptConfig(vocab_size=50, d_model=32, n_layers=1, n_heads=4))
    refuse("cannot be taken back", lambda: generate(mamba, PROMPT, MASK, GREEDY, Ends((), 0), random()))
    refuse("takes no position_ids", lambda: generate(mpt, PROMPT, MASK, GREEDY, Ends((), 0), random()))
