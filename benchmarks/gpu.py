"""Potstill on one GPU: cost of a step, CUDA graphs and compiling, a long run's projection, a ViT, equal accuracy.

    python benchmarks/gpu.py --series steps graphs long --out $OUT
    python benchmarks/gpu.py --series vit --out $OUT
    python benchmarks/gpu.py --series equivalence --data shared/data/cifar100 --seeds 0 1 --out $OUT
    python benchmarks/gpu.py --device cpu --smoke          # everything but graphs and the compiler, in seconds

Each series prints a table and writes `gpu-<series>.json` into --out. Ways take turns, a block of steps each; ms a step
is the median over blocks of wall clock around a synchronised block. Shares of the peak are analytic: operations
and bytes that a step must do or move, over the GPU's data sheet (`gpu_steps.py`).

`steps`        our step in each precision, with its floor (a plain step by hand), peak memory, images per second
`graphs`       what torch.compile and a recorded step (CUDA graph) gain over our bf16 channels-last step
`long`         WRN-40-2 -> WRN-16-2 by ICD with a live teacher, data and evaluation included, projected to 240 epochs
`vit`          ViT-B/16 -> ViT-S/16 at 224 pixels against a plain loop with bf16, compiling and a fused optimizer (timm)
`equivalence`  accuracy of the fastest way against the plain eager float32 loop, paired by seed, on real CIFAR-100

Needs torch, pyarrow, Pillow and accelerate, and none of the packages that the command line needs.
"""

# ruff: noqa: E402 (paths and a stand-in come first)
from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median, quantiles, stdev
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # a checkout that is not installed


def _missing(name: str) -> None:
    raise AttributeError(name)


if find_spec("jaxtyping") is None:  # it is only in annotations, which nothing reads here
    stand_in = ModuleType("jaxtyping")
    # Whatever kind is asked for: anything that takes two things in brackets.
    vars(stand_in)["__getattr__"] = lambda name: dict if name[0].isupper() else _missing(name)
    sys.modules["jaxtyping"] = stand_in

from gpu_steps import (
    HALF,
    Bare,
    Step,
    Task,
    bare_step,
    block,
    endless,
    engine_step,
    noise,
    peak_mib,
    plain_step,
    shares,
    table,
    work,
)

from potstill.data import Data, Images, Preprocess, batches, load
from potstill.models import build
from potstill.precision import Precision, waited
from potstill.recipe import Fit
from potstill.tasks.classify import Classify

Row = dict[str, Any]
FLOAT32, CHEAP = Precision(), Precision(bf16=True, channels_last=True)
LIMIT = 480.0
"""Seconds that pairs of students may take in one call, the teacher's training left aside."""
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t by the number of pairs."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=[*SERIES], default=[*SERIES])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, a few steps")
    parser.add_argument("--out", type=Path, help="folder for the JSON files")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50, help="steps of a block")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100 as Parquet, for the series equivalence")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--train-rows", type=int, help="fewer training images, for the series equivalence")
    asked = parser.parse_args(words)
    if asked.smoke:
        asked.rounds, asked.steps, asked.epochs = 2, 2, 1
    if asked.device == "cuda":
        torch.backends.cudnn.benchmark = True
    for name in asked.series:
        began = time.perf_counter()
        rows = SERIES[name](asked)
        print(f"\n{name}\n")
        print("\n".join(table(rows)), flush=True)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
            found = {"series": name, **machine(asked), "seconds": round(time.perf_counter() - began, 1), "rows": rows}
            (asked.out / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def machine(asked: argparse.Namespace) -> Row:
    device = torch.cuda.get_device_name() if asked.device == "cuda" else asked.device
    found = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "device": device}
    return found | {name: getattr(asked, name) for name in ("smoke", "rounds", "steps")}


def cifar(asked: argparse.Namespace, **kw: Any) -> Task:
    """Noise of CIFAR-100's size: arithmetic takes as long as on images."""
    names = ("resnet20", "resnet8") if asked.smoke else ("wrn_40_2", "wrn_16_2")
    rows, size, classes = (64, 8, 10) if asked.smoke else (50_000, 32, 100)
    fit = Fit(epochs=240, batch_size=8 if asked.smoke else 64)
    device = torch.device(asked.device)

    def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
        teacher, student = (build(name, num_classes=classes).to(device) for name in names)
        return teacher, student

    return Task(noise(rows, size, classes, device), networks, HALF, "icd", fit, device, **kw)


def compiled(asked: argparse.Namespace, precision: Precision) -> list[Precision]:
    """The same compiled, where compilers are not left out."""
    return [] if asked.smoke else [replace(precision, compiled=True)]


def steps(asked: argparse.Namespace) -> list[Row]:
    task, ways = cifar(asked), {}
    precisions = [Precision(), Precision(channels_last=True), Precision(bf16=True), CHEAP]
    for precision in (*precisions, *compiled(asked, CHEAP)):
        ways[f"potstill {precision.name}"] = engine_step(task, precision), precision
    for precision in (FLOAT32, CHEAP):
        ways[f"floor {precision.name}"] = plain_step(task, precision), precision
    return compared(task, ways, asked)


def graphs(asked: argparse.Namespace) -> list[Row]:
    task, ways = cifar(asked), {}
    ways[f"potstill {CHEAP.name}"] = engine_step(task, CHEAP), CHEAP
    for precision in (CHEAP, *compiled(asked, CHEAP)):
        ways[f"bare {precision.name}"] = bare_step(task, precision, graph=False), precision
        if asked.device == "cuda":
            ways[f"graph {precision.name}"] = bare_step(task, precision, graph=True), precision
    ways[f"floor {FLOAT32.name}"] = plain_step(task, FLOAT32), FLOAT32
    return compared(task, ways, asked)


def vit(asked: argparse.Namespace) -> list[Row]:
    device, rows = torch.device(asked.device), 16 if asked.smoke else 1024
    size, classes = (16, 10) if asked.smoke else (224, 1000)

    def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
        if asked.smoke:  # any two: what is tried is the series
            pair = [build(name, num_classes=classes) for name in ("resnet20", "resnet8")]
        else:
            import timm

            pair = [timm.create_model(f"vit_{s}_patch16_224", num_classes=classes) for s in ("base", "small")]
        return pair[0].to(device), pair[1].to(device)

    fit = Fit(epochs=300, batch_size=8 if asked.smoke else 128, optimizer="adamw", lr=1e-3, weight_decay=0.05)
    task = Task(noise(rows, size, classes, device), networks, HALF, "kd", fit, device)
    ways: dict[str, tuple[Step, Precision]] = {
        "plain, well tuned": (plain_step(task, CHEAP, compiled=not asked.smoke, fused=asked.device == "cuda"), CHEAP)
    }
    for precision in (FLOAT32, CHEAP, *compiled(asked, CHEAP)):
        ways[f"potstill {precision.name}"] = engine_step(task, precision), precision
    for precision in (CHEAP, *compiled(asked, CHEAP)) if asked.device == "cuda" else ():
        ways[f"graph {precision.name}"] = bare_step(task, precision, graph=True), precision
    return compared(task, ways, asked)


def compared(task: Task, ways: dict[str, tuple[Step, Precision]], asked: argparse.Namespace) -> list[Row]:
    """The ways in turn, a block of steps each; `ratio` to the first of them, block by block."""
    given = endless(task.loader())
    first: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    for name, (step, _) in ways.items():
        first[name] = waited(lambda step=step: block(step, given, 5), task.device)  # compiles, chooses kernels, records
        peaks[name] = peak_mib(lambda step=step: block(step, given, 2), task.device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, (step, _) in ways.items():
            times[name].append(waited(lambda step=step: block(step, given, asked.steps), task.device) / asked.steps)
    found, rows, base = work(task), [], next(iter(times.values()))
    for name, taken in times.items():
        seconds, precision = median(taken), ways[name][1]
        ratios = [mine / other for mine, other in zip(taken, base, strict=True)]
        rows.append(
            {
                "way": name,
                "ms": round(1000 * seconds, 3),
                "ratio": round(median(ratios), 3),
                "quartiles": [round(value, 3) for value in quantiles(ratios, n=4)[::2]],
                "images_per_second": round(task.fit.batch_size / seconds),
                **shares(found, seconds, precision, task.device),
                "peak_mib": peaks[name],
                "first_seconds": round(first[name], 1),
            }
        )
    return rows


def fast(task: Task, asked: argparse.Namespace, teacher: dict[str, torch.Tensor] | None = None) -> Bare:
    """The fastest way that there is: recorded, in bf16 channels-last, compiled."""
    precision = (compiled(asked, CHEAP) or [CHEAP])[0]
    return Bare(task.engine(precision, teacher), graph=task.device.type == "cuda")


def long(asked: argparse.Namespace) -> list[Row]:
    """Steps with their data, an evaluation, and what 240 epochs with one every 10 would take."""
    task, rows = cifar(asked), []
    held = noise(64 if asked.smoke else 10_000, task.images.size[0], len(task.images.classes), task.device)
    number = 2 * asked.steps if asked.smoke else 1000
    ways: dict[str, Any] = {"engine": engine_step(task, CHEAP), "fastest": fast(task, asked)}
    for name, step in ways.items():
        engine = step.engine if isinstance(step, Bare) else step.__self__
        given = endless(task.loader())
        first = waited(lambda step=step, given=given: block(step, given, 5), task.device)
        taken = waited(lambda step=step, given=given: block(step, given, number), task.device) / number

        def evaluate(engine: Any = engine) -> None:
            Classify().evaluate(engine.evaluated, batches(held, 512, task.device))

        waited(evaluate, task.device)
        once = waited(evaluate, task.device)
        total = 240 * (50_000 // 64) * taken + 24 * once + first
        rows.append(
            {
                "way": name,
                "ms": round(1000 * taken, 3),
                "evaluation_ms": round(1000 * once, 1),
                "first_seconds": round(first, 1),
                "projected_minutes": round(total / 60, 2),
                "target_minutes": 6,
            }
        )
    return rows


def equivalence(asked: argparse.Namespace) -> list[Row]:
    """One teacher, trained the fast way; then pairs of students from the same initial weights and batches."""
    task = cifar(asked)
    held = noise(64, task.images.size[0], len(task.images.classes), task.device)
    if asked.data is not None:
        read = Data(name="cifar100", root=asked.data, train_rows=asked.train_rows)
        train, held = (images.to(task.device) for images in load(read, quiet=True))
        task = replace(task, images=train, prepare=Preprocess.of(train))
    elif not asked.smoke:
        raise SystemExit("the series equivalence needs --data FOLDER, CIFAR-100 as Parquet files")
    task = replace(task, fit=replace(task.fit, epochs=asked.epochs))
    pupil = task.networks

    def twice() -> tuple[torch.nn.Module, torch.nn.Module]:
        return pupil()[0], pupil()[0]

    first, _, _ = trained(fast(replace(task, networks=twice, method="student"), asked), held)
    teacher = {name: value.detach().clone() for name, value in first.engine.student.state_dict().items()}
    rows, began = [], time.perf_counter()
    for number, seed in enumerate(asked.seeds):
        spent = time.perf_counter() - began
        if number and spent * (number + 1) / number > LIMIT:
            print(f"no time is left for seeds {asked.seeds[number:]}: give them to another call")
            break
        mine = replace(task, seed=seed)
        _, quick, quick_seconds = trained(fast(mine, asked, teacher), held)
        _, plain, plain_seconds = trained(Bare(mine.engine(FLOAT32, teacher)), held)
        rows.append({"seed": seed, "fast_top1": quick, "plain_top1": plain, "difference": round(quick - plain, 3)})
        rows[-1] |= {"fast_seconds": round(quick_seconds, 1), "plain_seconds": round(plain_seconds, 1)}
        print(rows[-1], flush=True)
    differences = [row["difference"] for row in rows]
    if len(rows) in T95:
        mean, reach = fmean(differences), T95[len(rows)] * stdev(differences) / len(rows) ** 0.5
        rows.append({"seed": "mean", "difference": round(mean, 3), "interval": [mean - reach, mean + reach]})
    return rows


def trained(step: Bare, held: Images) -> tuple[Bare, float, float]:
    """Train to the end; top-1 in percent, and seconds without evaluation."""
    engine, began = step.engine, time.perf_counter()
    for epoch in range(engine.fit.epochs):
        for batch in engine.loader.epoch(epoch):
            step(batch)
        engine.done_epochs += 1
    waited(lambda: None, engine.device)
    seconds = time.perf_counter() - began
    return step, Classify().evaluate(engine.evaluated, batches(held, 512, engine.device)).top1, seconds


SERIES = {"steps": steps, "graphs": graphs, "long": long, "vit": vit, "equivalence": equivalence}

if __name__ == "__main__":
    main()
