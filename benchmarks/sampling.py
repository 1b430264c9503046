"""How fast SKD's interleaved sampler writes: tokens per second against what else one could do, all in one run.

Teacher and student are Llamas with random weights (output layers scaled up until the logits spread like a trained
network's). Two random networks rank each other's tokens at random, so a `k` of (1 − r)·V gives the replacement rate
r: the table shows the rate that came out, and a trained pair with that rate would cost the same. Nothing ends early.
The samplers are the release's: student temperature 0.5 and top-p 0.5, teacher 0.2 and 0.5.

Runs are interleaved; tokens per second are medians over the rounds with quartiles, on a CPU of the process's own time
(one thread), on a GPU of the wall clock. `gain` is SKD-in-blocks over that line in the same round, median.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py --json benchmarks/results/sampling.json
"""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch
import transformers
import tyro
from step_cost import abilities, interleaved
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.language import speculative
from potstill.language.generation import Ends, Rollout, Sampling, generate
from potstill.language.holes import HoleReader
from potstill.language.speculative import STUDENT, TEACHER, interleave
from potstill.runs import environment

Row = dict[str, Any]
BLOCKS = "SKD in blocks"


@dataclass
class Arguments:
    """Tokens per second of SKD's sampler."""

    batch_sizes: tuple[int, ...] = (8, 32)
    replaced: tuple[float, ...] = (0.02,)
    """Replacement rates, reached by k."""
    draft: int = 5
    prompt: int = 32
    new: int = 32
    vocabulary: int = 4096
    student: tuple[int, int] = (128, 4)
    """Width and layers."""
    teacher: tuple[int, int] = (320, 8)
    rounds: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    json: Path | None = None
    """Also write the rows here, after each number of rows and rate."""


def main(arguments: Arguments) -> None:
    torch.set_num_threads(arguments.threads)
    # transformers says at every call that a sampling flag of its defaults is unused.
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*generation flags.*")
    device = torch.device(arguments.device)
    student, teacher = (
        network(width, layers, arguments).to(device, getattr(torch, arguments.dtype))
        for width, layers in (arguments.student, arguments.teacher)
    )
    found = {
        "date": time.strftime("%Y-%m-%d"),
        **{
            name: getattr(arguments, name)
            for name in ("draft", "prompt", "new", "vocabulary", "rounds", "device", "dtype")
        },
        "parameters": {"student": size(student), "teacher": size(teacher)},
        "environment": {
            **environment(),
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            **abilities(),
        },
        "rows": [],
    }
    print("| rows | replaced | sampler | tokens/s | quartiles | gain |")
    print("| --: | --: | :-- | --: | --: | --: |")
    for rows in arguments.batch_sizes:
        for rate in arguments.replaced:
            for row in measure(student, teacher, rows, rate, device, arguments):
                found["rows"].append(row)
                spread = " – ".join(f"{value:.0f}" for value in row["quartiles"])
                cells = rows, f"{row['replaced']:.1%}", row["sampler"], f"{row['tokens_per_second']:.0f}", spread
                print("|", " | ".join(map(str, cells)), "|", f"{row['gain']:.2f}", "|", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(
    student: nn.Module, teacher: nn.Module, rows: int, rate: float, device: torch.device, arguments: Arguments
) -> list[Row]:
    torch.manual_seed(0)
    prompt = torch.randint(arguments.vocabulary, (rows, arguments.prompt), device=device)
    ends = Ends((), 0)
    seed = torch.Generator(device).manual_seed(0)
    mine = Sampling(STUDENT.temperature, STUDENT.top_p, max_new_tokens=arguments.new)
    k = round((1 - rate) * arguments.vocabulary)
    wrote: dict[str, list[Rollout | Tensor]] = {}

    def skd(ids: Tensor, draft: int) -> Rollout:
        return interleave(
            student,
            teacher,
            ids,
            torch.ones_like(ids, dtype=torch.bool),
            k=k,
            draft=draft,
            student_sampling=mine,
            teacher_sampling=TEACHER,
            ends=ends,
            generator=seed,
        )

    def plain(model: Any, ids: Tensor, sampling: Sampling, **more: Any) -> Tensor:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=arguments.new,
            eos_token_id=None,
            pad_token_id=0,
            **more,
        )[:, ids.shape[1] :]

    samplers: dict[str, Callable[[], Rollout | Tensor]] = {
        BLOCKS: lambda: skd(prompt, arguments.draft),
        "SKD in blocks, cache with holes": lambda: with_holes(lambda: skd(prompt, arguments.draft)),
        "SKD in blocks, one row": lambda: skd(prompt[:1], arguments.draft),
        "SKD token by token, batched": lambda: skd(prompt, 1),
        "SKD token by token, one row": lambda: skd(prompt[:1], 1),
        "student, transformers' generate": lambda: plain(student, prompt, mine),
        "student, generate here": lambda: generate(student, prompt, torch.ones_like(prompt).bool(), mine, ends, seed),
        "assisted generation of transformers, one row": lambda: plain(
            teacher, prompt[:1], TEACHER, assistant_model=student
        ),
    }
    runs: dict[str, Callable[[], object]] = {}
    for name, sampler in samplers.items():
        wrote[name] = []
        runs[name] = partial(note, sampler, wrote[name])
    interleaved(runs, 1, device)
    for texts in wrote.values():
        texts.clear()
    times = interleaved(runs, arguments.rounds, device)
    speeds = {
        name: [tokens(text) / taken for text, taken in zip(wrote[name], seconds, strict=True)]
        for name, seconds in times.items()
    }
    return [
        {
            "rows": rows,
            "sampler": name,
            "replaced": round(sum(replaced(text) for text in wrote[BLOCKS]) / arguments.rounds, 4),
            "k": k,
            "tokens_per_second": round(median(speed), 1),
            "quartiles": [round(value, 1) for value in spread(speed)],
            "gain": round(median(a / b for a, b in zip(speeds[BLOCKS], speed, strict=True)), 3),
            "gain_quartiles": [
                round(value, 3) for value in spread([a / b for a, b in zip(speeds[BLOCKS], speed, strict=True)])
            ],
        }
        for name, speed in speeds.items()
    ]


def network(width: int, layers: int, arguments: Arguments) -> LlamaForCausalLM:
    torch.manual_seed(width)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=arguments.vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=max(1, width // 64),
            max_position_embeddings=arguments.prompt + arguments.new + arguments.draft,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    # The last norm leaves vectors of length √width: logits with a standard deviation of about 3.
    nn.init.normal_(model.lm_head.weight, std=3 / width**0.5)
    return model.eval()


def with_holes(run: Callable[[], Rollout]) -> Rollout:
    """The same with transformers' growing cache and masked holes: what slots are measured against."""
    with patch.object(speculative, "reader", lambda model, rows, slots: HoleReader(model)):
        return run()


def note(sampler: Callable[[], Rollout | Tensor], texts: list[Rollout | Tensor]) -> None:
    texts.append(sampler())


def tokens(text: Rollout | Tensor) -> int:
    return int(text.mask.sum()) if isinstance(text, Rollout) else text.numel()


def replaced(text: Rollout | Tensor) -> float:
    assert isinstance(text, Rollout)
    assert text.replaced is not None
    return float(text.replaced.sum() / text.mask.sum())


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def spread(values: list[float]) -> tuple[float, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, high


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
