"""Text from vLLM instead of from the network itself: for students or teachers that are too large to sample in place.

vLLM is an optional package for GPUs; nothing here imports it before a `VllmGenerator` is made. It writes what
`potstill.language.generation.generate` writes, from the same `Sampling` and `Ends`; only plain sampling: SKD's
interleaving needs both networks' logits at every token and stays in PyTorch.

    generator = VllmGenerator("Qwen/Qwen2-7B-Instruct", gpu_memory_utilization=0.4, max_model_len=2048)
    rollout = generator(prompt, prompt_mask, Sampling(max_new_tokens=256), Ends((151645,), 151643), seed=7)
    generator.refresh(student, folder)   # on-policy: vLLM reads the student's present weights

Written for vLLM's `LLM.generate` with token prompts, `SamplingParams` and its workers' `reload_weights(weights_path=…)`,
as they are in the source of version 0.33; never run on a GPU by us.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.hashing import hash_int
from potstill.language.extra import silent
from potstill.language.generation import Ends, Rollout, Sampling
from potstill.language.reading import base

MOST_SEED = 2**31 - 1


class VllmGenerator:
    """A vLLM engine that continues left-padded prompts as `generate` does.

    Args:
        model: name or folder of the network, as `vllm.LLM` takes it.
        engine: whatever else `vllm.LLM` takes (`dtype`, `max_model_len`, `gpu_memory_utilization`,
            `tensor_parallel_size` …). The tokenizer is not loaded: prompts and texts are token ids.

    Raises:
        ValueError: vLLM is not installed.
    """

    def __init__(self, model: str | Path, **engine: Any):
        try:
            import vllm  # ty: ignore[import-not-found]
        except ImportError as error:
            raise ValueError(
                "sampling with vLLM needs the package vllm, which is not installed (pip install vllm; it needs a GPU); "
                "without it the network writes its own texts"
            ) from error
        self._vllm = vllm
        self._engine = vllm.LLM(model=str(model), skip_tokenizer_init=True, **engine)

    def __call__(self, prompt: Tensor, prompt_mask: Tensor, sampling: Sampling, ends: Ends, seed: int) -> Rollout:
        """Continue each prompt; one request a row, each with a seed of its own, so that order and load do not matter.

        Args:
            prompt: int64 `[B, P]`, padded on the left.
            prompt_mask: bool `[B, P]`.
            seed: the same seed asks for the same texts (vLLM repeats them where its kernels do).
        """
        rows = zip(prompt.tolist(), prompt_mask.tolist(), strict=True)
        asked = [[token for token, real in zip(*row, strict=True) if real] for row in rows]
        for number, tokens in enumerate(asked):
            if not tokens:
                raise ValueError(f"prompt {number} is empty: give it at least a beginning-of-text token")
        answers = self._engine.generate(
            [{"prompt_token_ids": tokens} for tokens in asked],
            [self._parameters(sampling, ends, hash_int(seed, "vllm", row) % MOST_SEED) for row in range(len(asked))],
            use_tqdm=False,
        )
        texts = [list(answer.outputs[0].token_ids) for answer in answers]
        return _rollout(texts, sampling.max_new_tokens, ends, prompt.device)

    def refresh(self, network: nn.Module, folder: str | Path) -> None:
        """Let vLLM go on with a network's present weights, which are written to `folder` on the way.

        Files and not shared memory: it works for every number of GPUs on both sides, at the price of a copy to disk
        (put `folder` on /dev/shm). Cached prompts of the old weights are forgotten.
        """
        with silent():
            base(network).save_pretrained(str(folder))
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._engine.reset_prefix_cache()

    def _parameters(self, sampling: Sampling, ends: Ends, seed: int) -> Any:
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(ends.stop),
            # Only what `ends` names ends a text, not what the model's folder calls its end.
            ignore_eos=True,
            detokenize=False,
            seed=seed,
        )


def _rollout(texts: Sequence[list[int]], width: int, ends: Ends, device: torch.device) -> Rollout:
    tokens = torch.tensor([text + [ends.pad] * (width - len(text)) for text in texts], dtype=torch.int64)
    length = torch.tensor([len(text) for text in texts])
    mask = torch.arange(width) < length[:, None]
    ended = torch.tensor([bool(text) and text[-1] in ends.stop for text in texts])
    return Rollout(tokens.to(device), mask.to(device), ended.to(device))
