"""Streamed images, killed on four ranks and resumed on two: the same samples and the same losses as in one process.

The work is in stream_worker.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stream_worker import STEPS, train

from potstill import checkpoint

WORKER = Path(__file__).with_name("stream_worker.py")
KILLED, SAVED = 97, 90


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """320 small photographs of four classes, of several sizes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(352):
        folder = root / ("train" if number < 320 else "val") / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8) // 2 + 30 * np.uint8(number % 4)
        image = Image.fromarray(pixels).resize((16 + number % 5, 20), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:03}.jpg")
    return root


def torchrun(ranks, *words):
    """(exit status, everything printed)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, "--monitor-interval=0.1", str(WORKER), *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


def lines(path):
    return dict(json.loads(line) for line in path.read_text().splitlines())


def order(folder, world):
    """The samples of each global batch, put together from the ranks."""
    parts = [lines(folder / f"order{world}.{rank}.jsonl") for rank in range(world)]
    return {step: [row for part in parts for row in part[step]] for step in parts[0] if all(step in p for p in parts)}


@pytest.mark.slow
def test_killed_on_four_ranks_and_resumed_on_two(pictures, tmp_path_factory, monkeypatch):
    tmp_path = tmp_path_factory.mktemp("runs")
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    whole = train(pictures, tmp_path / "whole", workers=0)
    status, printed = torchrun(4, pictures, tmp_path / "parts", "until", KILLED)
    assert status != 0, printed
    assert checkpoint.read(tmp_path / "parts")["position"]["step"] == SAVED
    status, printed = torchrun(2, pictures, tmp_path / "parts")
    assert status == 0, printed
    assert not printed.strip()

    expected, before, after = (
        order(tmp_path / name, world) for name, world in (("whole", 1), ("parts", 4), ("parts", 2))
    )
    assert list(expected) == list(range(STEPS))
    assert set(after) == set(range(SAVED, STEPS))  # in the middle of an epoch of 40, and not earlier
    assert {step: before[step] for step in range(SAVED)} | after == expected

    losses = [
        lines(tmp_path / name / f"losses{world}.jsonl") for name, world in (("whole", 1), ("parts", 4), ("parts", 2))
    ]
    joined = {step: losses[1][step] for step in range(SAVED)} | losses[2]
    together, alone = (
        torch.tensor([found[step] for step in range(STEPS)], dtype=torch.float64) for found in (joined, losses[0])
    )
    assert (together - alone).abs().max() < 1e-8
    assert alone[:20].mean(0)[0] > alone[-20:].mean(0)[0]  # it learns
    state = checkpoint.read(tmp_path / "parts")["system"]
    for name, value in whole.system.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-8)
