"""The path to vLLM, with a module of that name that writes down how it is called."""

import sys
from types import SimpleNamespace

import pytest
import torch
from causal_networks import causal

from potstill.language.generation import Ends, Sampling
from potstill.language.vllm_generator import VllmGenerator

PROMPT = torch.tensor([[0, 0, 4], [5, 6, 7]])
MASK = torch.tensor([[False, False, True], [True, True, True]])


class Engine:
    """Answers every prompt with its tokens backwards and the stop token, cut at max_tokens."""

    def __init__(self, **settings):
        self.settings, self.calls = settings, []

    def generate(self, prompts, sampling_params, use_tqdm=True):
        self.calls.append((prompts, sampling_params, use_tqdm))
        texts = [[*reversed(prompt["prompt_token_ids"]), 2] for prompt in prompts]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=text[: asked.max_tokens])])
            for text, asked in zip(texts, sampling_params, strict=True)
        ]

    def collective_rpc(self, method, kwargs):
        self.calls.append((method, kwargs))

    def reset_prefix_cache(self):
        self.calls.append("reset")


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace))
    generator = VllmGenerator("some/model", dtype="bfloat16")
    return generator, generator._engine


def test_prompts_go_without_padding_and_texts_come_back_padded(engine):
    generator, vllm = engine
    assert vllm.settings == {"model": "some/model", "skip_tokenizer_init": True, "dtype": "bfloat16"}
    rollout = generator(PROMPT, MASK, Sampling(0.7, 0.9, 20, max_new_tokens=3), Ends((2,), 9), seed=1)
    prompts, asked, bar = vllm.calls[0]
    assert prompts == [{"prompt_token_ids": [4]}, {"prompt_token_ids": [5, 6, 7]}]
    assert (asked[0].temperature, asked[0].top_p, asked[0].top_k, asked[0].max_tokens) == (0.7, 0.9, 20, 3)
    assert asked[0].stop_token_ids == [2]
    assert asked[0].ignore_eos
    assert asked[0].seed != asked[1].seed
    assert bar is False
    assert rollout.tokens.tolist() == [[4, 2, 9], [7, 6, 5]]
    assert rollout.mask.tolist() == [[True, True, False], [True, True, True]]
    assert rollout.ended.tolist() == [True, False]
    generator(PROMPT, MASK, Sampling(max_new_tokens=3), Ends((2,), 9), seed=1)
    assert [each.seed for each in vllm.calls[1][1]] == [each.seed for each in asked]


def test_the_students_present_weights_are_read_again(engine, tmp_path):
    generator, vllm = engine
    generator.refresh(causal("llama"), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size > 10000
    assert vllm.calls == [("reload_weights", {"weights_path": str(tmp_path)}), "reset"]


def test_bad_input_is_refused_in_words(engine, monkeypatch):
    generator, _ = engine
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generator(PROMPT, torch.tensor([[True] * 3, [False] * 3]), Sampling(), Ends((2,), 0), seed=0)
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    with pytest.raises(ValueError, match="pip install vllm"):
        VllmGenerator("some/model")


def test_a_student_may_let_vllm_write_and_shows_it_its_weights_before_every_batch(monkeypatch):
    from potstill.language.outside import ByVllm
    from potstill.language.views import teaching
    from potstill.types import Batch, Progress

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace))
    student = causal("llama")
    seen = teaching(PROMPT, MASK, torch.tensor([[1], [1]]), torch.ones(2, 1, dtype=torch.bool), torch.arange(2))
    sources = {"student": SimpleNamespace(module=student)}
    writer = ByVllm("student", "on_policy", Ends((2,), 0), Sampling(max_new_tokens=4))
    first = writer(Batch({"main": seen}), sources, Progress(0, 0, 2), seed=3)
    assert first.main.label.tolist() == [[4, 2, 0, 0], [7, 6, 5, 2]]
    calls = writer._engine._engine.calls
    assert not [call for call in calls if call[0] == "reload_weights"]
    writer(Batch({"main": seen}), sources, Progress(1, 0, 2), seed=3)
    assert [call for call in calls if call[0] == "reload_weights"]
    assert calls[0][1][0].seed != calls[-1][1][0].seed
