"""What `potstill check` suggests, from what it has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potstill.console import spanned
from potstill.data import first
from potstill.methods import Method
from potstill.setting import Setting
from potstill.tasks.classify import Classify
from potstill.types import MAIN

if TYPE_CHECKING:
    from potstill.check import Trial

HEAVY = 0.25
"""Share of a step from which on the teacher is worth caching."""
FASTER = 1.1
"""How much faster another precision must be to be worth its rounding, as in `precision.fastest`."""
ROOMY = 0.25
"""Share of a GPU's memory below which a larger batch is worth a thought."""


def advice(
    found: Mapping[str, Any], setting: Setting, methods: Sequence[Method], trials: Sequence[Trial], asked: str
) -> list[str]:
    """Sentences, each with the option to set and what it would give. `found` is what `check` says so far."""
    return [
        *_memory(found, trials),
        *_cache(found, setting, methods),
        *_precision(found, asked),
        *_batch(found, setting),
        *_twins(methods),
    ]


def _memory(found: Mapping[str, Any], trials: Sequence[Trial]) -> list[str]:
    """The largest micro-batch that fits, where the whole batch does not."""
    if found["peak_mib"] <= found["available_mib"]:
        return []
    room = found["available_mib"] * 2**20
    worst = max(trials, key=lambda trial: trial.footprint().peak)
    says = f"{worst.label} needs {found['peak_mib']:,.0f} MiB and {found['available_mib']:,.0f} MiB are free"
    rows = min(worst.fit.micro_batch or worst.fit.batch_size, len(worst.setting.train)) // 2
    while rows > 1:
        smaller = worst.footprint(rows).peak
        if smaller <= room:
            what = "teacher-fit" if worst.spec is not worst.setting.recipe.student else "fit"
            return [
                f"{says}: --{what}.micro-batch {rows} needs {smaller / 2**20:,.0f} MiB, with the same gradient (batch "
                "normalisation then sees fewer images at once)"
            ]
        rows //= 2
    return [f"{says}, and no micro-batch fits: take smaller networks, fewer training images or another machine"]


def _cache(found: Mapping[str, Any], setting: Setting, methods: Sequence[Method]) -> list[str]:
    """The teacher's answers written once, where that pays."""
    rows = [row for row in found["methods"] if row["step_ms"] and row["teacher_ms"] > HEAVY * row["step_ms"]]
    live = {m.name for m in methods if any(term.kind.needs_modules for stage in m.stages for term in stage.terms)}
    rows = [row for row in rows if row["method"] not in live]
    if not rows or setting.cached is not None:
        return []
    recipe, worst = setting.recipe, max(rows, key=lambda row: row["teacher_ms"] / row["step_ms"])
    views = 1 if recipe.data.augment == "none" else recipe.data.views or recipe.fit.epochs
    taps = tuple(dict.fromkeys(tap for row in rows for tap in row["taps"]))
    size = views * len(setting.train) * _answer_bytes(setting, taps)
    spent = recipe.seeds * sum(row["steps"] * row["teacher_ms"] for row in rows) / 1000
    once = worst["teacher_ms"] * worst["steps"] * views / recipe.fit.epochs / 1000
    share = 100 * worst["teacher_ms"] / worst["step_ms"]
    what = f"{views:,} view(s) of {len(setting.train):,} images ({', '.join(('output', *taps))}), {_disk(size)} on disk"
    says = f"the teacher takes {share:.0f} % of a step of {worst['method']}: potstill cache would write {what}"
    if once < spent:
        says += f", once for all, and save {spanned(spent - once)} of {spanned(spent)}"
    else:
        says += "; with one student it pays only with fewer views than epochs (--data.views)"
    return [says if recipe.teacher.taught else f"{says}; the teacher must be trained first (potstill train)"]


def _answer_bytes(setting: Setting, taps: Sequence[str]) -> float:
    """Of one sample, as the teacher computes it in float32."""
    probe = first(setting.train, 4, setting.device)
    teacher = setting.teacher(setting.network(setting.recipe.teacher, "teacher", 0))
    said = teacher(Classify(), probe, MAIN, taps)
    return sum(t.numel() * t.element_size() for t in (said.dense(), *said.taps.values())) / len(probe)


def _precision(found: Mapping[str, Any], asked: str) -> list[str]:
    """A cheaper arithmetic than the one that was asked for."""
    times = found["milliseconds"] or {}
    if asked not in times:
        return []
    best = min(times, key=lambda name: times[name])
    if times[asked] <= FASTER * times[best]:
        return []
    return [
        f"--precision {best} takes {times[best]:.1f} ms a step, {asked} {times[asked]:.1f} ms: "
        f"{times[asked] / times[best]:.1f}x as fast (auto measures this by itself)"
    ]


def _batch(found: Mapping[str, Any], setting: Setting) -> list[str]:
    """A hint only: another batch size is another training."""
    if setting.device.type != "cuda" or found["peak_mib"] > ROOMY * found["available_mib"]:
        return []
    return [
        f"the peak is {100 * found['peak_mib'] / found['available_mib']:.0f} % of the GPU's free memory: a larger "
        "fit.batch-size would use it better, but needs another learning rate and is another training"
    ]


def _twins(methods: Sequence[Method]) -> list[str]:
    """Methods that train the same student."""
    said: dict[tuple[str, str | None], str] = {}
    found = []
    for method in methods:
        other = said.setdefault((method.expansion, method.control), method.name)
        if other != method.name:
            found.append(f"{method.name} is the same training as {other} ({method.expansion}): leave one of them out")
    return found


def _disk(size: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:,.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"
