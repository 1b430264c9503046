"""Ask the networks of a finished comparison about its validation data, and keep what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.console import Talk
from potstill.data import batches, first
from potstill.evaluation import maps
from potstill.evaluation.answers import LABELS, OUTPUTS, TEACHER, Answers, read, write_answers, write_labels
from potstill.evaluation.fidelity import fidelity, verdict_sentence
from potstill.evaluation.summary import Cell
from potstill.examples import source
from potstill.functional import at_least_float32
from potstill.models import load_weights
from potstill.precision import Precision
from potstill.setting import EVALUATION_BATCH, Setting
from potstill.sources import Network
from potstill.student import CARD, WEIGHTS, load
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Source

PROBED = 4
SHARE = 0.05
"""Part of the time that training took which maps may take right after it; later, `potstill report` draws them."""


def collect(
    out: Path,
    setting: Setting,
    teacher: Source | None,
    cells: Sequence[Cell],
    seed: int,
    precision: Precision,
    talk: Talk,
) -> None:
    """Write `labels.safetensors`, and `outputs.safetensors` of the teacher and of the first seed of each method.

    What is there is kept. Students are asked as they were saved, so that a cell of an earlier day has its outputs too;
    one whose weights are gone is left out. Then come the t-SNE maps, where training took long enough that they do not
    matter.
    """
    firsts: dict[str, Path] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        firsts.setdefault(cell.method, out / cell.folder)
    if not (out / LABELS).exists():
        write_labels(out, setting.valid.labels.cpu().numpy(), setting.train.classes)
    wanted = {TEACHER: out / TEACHER, **firsts}
    todo = {name: folder for name, folder in wanted.items() if not (folder / OUTPUTS).exists()}
    steps = -(-len(setting.valid) // EVALUATION_BATCH)
    with talk.counted("asking networks", len(todo) * steps) as advance:
        for name, folder in todo.items():
            speaker = _teacher(setting, teacher, folder, seed, precision) if name == TEACHER else None
            if name != TEACHER and all((folder / file).exists() for file in (CARD, WEIGHTS)):
                speaker = _student(setting, folder, precision)
            if speaker is not None:
                write_answers(folder, _answers(speaker, setting, advance))
    seen = read(out, {method: [folder] for method, folder in firsts.items()})
    if seen is not None and maps.cost(seen) < SHARE * sum(cell.seconds for cell in cells):
        maps.draw(seen, talk)


def fidelities(out: Path, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """How like its teacher the first seed of each method is, and how well calibrated, from what `collect` wrote.

    A network without outputs, or whose outputs are not finite, is left out.
    """
    folders = {cell.method: [out / cell.folder] for cell in sorted(cells, key=lambda cell: -cell.seed)}
    seen = read(out, folders)
    if seen is None or TEACHER not in seen.places or not (taught := seen.load(TEACHER)).finite:
        return {}
    labels, found = torch.from_numpy(seen.labels), {}
    for method in (cell.method for cell in cells if cell.classifies and cell.method in seen.places):
        answers = seen.load(method)
        if method not in found and answers.finite:
            sides = (_tensor(answers.embedding), _tensor(taught.embedding))
            logits = torch.from_numpy(answers.logits), torch.from_numpy(taught.logits)
            found[method] = asdict(fidelity(*logits, labels, *sides))
    return found


def _tensor(value: np.ndarray | None) -> torch.Tensor | None:
    return None if value is None else torch.from_numpy(value)


def remarks(summary: dict[str, Any]) -> list[str]:
    """Plain sentences about methods that were not shown to help: those whose interval reaches down to 0."""
    doubtful = (row for row in summary["rows"] if row["difference"] and not (row["difference"]["low"] or 0) > 0)
    sentences = (verdict_sentence(summary, row["method"]) for row in doubtful)
    return [sentence for sentence in sentences if sentence]


def _teacher(setting: Setting, teacher: Source | None, folder: Path, seed: int, precision: Precision) -> Network:
    """The live network: where a cache speaks for it, it is built again from its weights."""
    if isinstance(teacher, Network):
        return teacher
    module = setting.network(setting.recipe.teacher, TEACHER, seed)
    if not setting.recipe.teacher.taught:
        load_weights(module, folder / WEIGHTS)
    return setting.teacher(module, precision)


def _student(setting: Setting, folder: Path, precision: Precision) -> Network:
    found = load(folder)
    return source(
        found.model.to(setting.device),
        first(setting.train, PROBED, setting.device),
        trained=False,
        preprocess=found.preprocess,
        precision=precision,
    )


def _answers(speaker: Network, setting: Setting, advance) -> Answers:
    """One pass over the validation data."""
    taps = ("embedding",) if "embedding" in speaker.names else ()
    logits, embeddings = [], []
    with speaker.evaluating():
        for batch in batches(setting.valid, EVALUATION_BATCH, setting.device):
            outputs = speaker(Classify(), batch, MAIN, taps)
            logits.append(at_least_float32(outputs.dense()).cpu().numpy())
            embeddings += [at_least_float32(outputs.taps[tap].flatten(1)).cpu().numpy() for tap in taps]
            advance()
    return Answers(np.concatenate(logits), np.concatenate(embeddings) if embeddings else None)
