"""`benchmarks/gpu.py` where there is no GPU and where little is installed, and its step by hand beside the engine's."""

import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
ALONE = """
import runpy, sys
absent = ("tyro", "altair", "jaxtyping", "datasets", "sklearn", "scipy", "pandas", "matplotlib", "transformers", "timm")
sys.modules.update(dict.fromkeys(absent))
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def test_every_series_runs_small_on_a_cpu_without_the_packages_of_the_command_line(tmp_path):
    words = ["--device", "cpu", "--smoke", "--seeds", "0", "1", "--out", tmp_path]
    command = [sys.executable, "-c", ALONE, ROOT / "benchmarks" / "gpu.py", *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(found) == {f"gpu-{name}" for name in ("steps", "graphs", "long", "vit", "equivalence")}
    steps = {row["way"]: row for row in found["gpu-steps"]["rows"]}
    assert steps["potstill float32"]["ratio"] == 1
    assert all(row["ms"] > 0 and row["images_per_second"] > 0 for row in steps.values())
    assert [row["seed"] for row in found["gpu-equivalence"]["rows"]] == [0, 1, "mean"]
    assert "| potstill bf16-channels-last |" in done.stdout


def test_the_step_by_hand_is_the_engines(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_steps import HALF, Bare, Task, noise, work

    from potstill.models import build
    from potstill.precision import Precision
    from potstill.recipe import Fit

    cpu = torch.device("cpu")

    def networks():
        return build("resnet20", num_classes=10), build("resnet8", num_classes=10)

    task = Task(noise(16, 8, 10, cpu), networks, HALF, "icd+fitnet", Fit(epochs=1, batch_size=4, lr=0.01), cpu)
    engine, bare = task.engine(Precision()), Bare(task.engine(Precision()))
    for batch in task.loader().epoch(0):  # four; the rate falls after the second
        engine.train_on(batch)
        bare(batch)
    for mine, theirs in zip(bare.system.state_dict().values(), engine.system.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert bare.engine.progress == engine.progress
    found = work(task)
    assert found.operations > 0
    assert found.bytes(Precision(bf16=True)) < found.bytes(Precision()) < 2 * found.bytes(Precision(bf16=True))
