"""Linear probes of everything that a run trained: its teacher, and every seed of every method.

What a probe came to is written beside the network, in `<method>/seed<k>/transfer/<name>.json`, and the table of the run
in `transfer/<name>.json`. A finished probe is never run again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint, runs
from potstill.console import Talk
from potstill.data import Data, Images, Preprocess, Stream, load
from potstill.evaluation.summary import Cell, summarise
from potstill.precision import Precision
from potstill.sources import Network
from potstill.student import Predictor
from potstill.transfer.networks import Probe, networks, runs_of
from potstill.transfer.probe import linear_probe
from potstill.transfer.protocol import SLOWER, STATISTICS, Protocol

FOLDER = "transfer"
KIND = "transfer"


@dataclass(frozen=True)
class Options:
    """What is probed besides the protocol, and where."""

    methods: tuple[str, ...] = ()
    """Only these methods; all that the run has when left out."""
    seed: int = 0
    """Added to each student's own seed."""
    slower: bool = True
    """The protocol's smaller learning rate for MobileNet and ShuffleNet."""
    tag: str = ""
    """Ends the name of the results."""
    most: int | None = None
    """No more images of each split than so many, evenly spaced."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = field(default_factory=Precision)
    talk: Talk = field(default_factory=lambda: Talk(quiet=True))


def transfer(
    run: str | Path, data: Data, protocol: Protocol | None = None, options: Options | None = None
) -> list[dict[str, Any]]:
    """Probe every network of a run folder, of each run of a grid, or one student; returns a summary for each run.

    A summary has the form of `summary.json` (`potstill.evaluation.summary`), with `kind` "transfer", `data`, `arm`,
    `views`, `protocol` and, where it belongs to a grid, `pair`. `data.size` should be the protocol's 32; views and
    augmentation are those of `protocol`.

    Raises:
        ValueError: a folder without a student, data of other channels, results of other settings under the same name,
            and whatever is wrong with data and networks.
    """
    run, protocol, options = Path(run), protocol or Protocol(), options or Options()
    asked = [(folder, pair, networks(folder, options.methods, options.talk)) for folder, pair in runs_of(run)]
    splits = load(replace(data, stream="never"), quiet=options.talk.quiet)
    train, valid = (_few(images, options.most).to(options.device) for images in splits)
    options.talk.say(
        f"data: {train.name}, {len(train):,} training and {len(valid):,} validation images of "
        f"{train.size[0]}x{train.size[1]}, {len(train.classes)} classes; arm: {protocol.arm}, {protocol.shown}"
    )
    probes = sum(len(found) for *_, found in asked)
    with options.talk.bars(probes) as begin:
        task = _Task(data, train, valid, protocol, options, begin)
        return [task.run(folder, pair, found) for folder, pair, found in asked]


def read_transfer(run: str | Path) -> list[dict[str, Any]]:
    """The finished tables of a run folder or of a grid's runs, by run and name; [] where nothing was probed.

    Raises ValueError, naming the file, where one cannot be read.
    """
    found = []
    for folder, _ in runs_of(Path(run)):
        for path in sorted((folder / FOLDER).glob("*.json")):
            value = _read(path)
            if value.get("kind") == KIND:
                found.append(value)
    return found


@dataclass(frozen=True)
class _Task:
    """The same for all networks."""

    data: Data
    train: Images
    valid: Images
    protocol: Protocol
    options: Options
    begin: Any

    @property
    def name(self) -> str:
        """What the results are called."""
        stem = self.train.name.replace("/", "_").replace(":", "_")
        parts = (stem, self.protocol.arm, self.protocol.shown, self.options.tag)
        return "-".join(part for part in parts if part)

    def run(self, folder: Path, pair: str | None, found: Sequence[Probe]) -> dict[str, Any]:
        """Probe what is not probed yet, and write the table of all that is."""
        done = [(probe, self.one(probe)) for probe in found]
        teacher = next((value for probe, value in done if probe.teacher), None)
        cells = [_cell(probe, value) for probe, value in done if not probe.teacher]
        summary = summarise(
            dataset=f"{self.train.name}, linear probe ({self.protocol.arm}, {self.protocol.shown})",
            teacher=teacher and {key: teacher[key] for key in ("model", "parameters", "top1", "seconds")},
            cells=cells,
            run=str(folder),
            notes=[*dict.fromkeys(self.train.notes + self.valid.notes)],
            title=f"Transfer to {self.train.name}",
            kind=KIND,
            name=self.name,
            data=self.train.name,
            arm=self.protocol.arm,
            views=self.protocol.shown,
            protocol=self.protocol.describe(),
            drift={probe.label: value["drift"] for probe, value in done} if self.protocol.arm == "drifting" else None,
            environment=runs.environment(),
            **({} if pair is None else {"pair": pair}),
        )
        if not all(probe.alone for probe in found):
            checkpoint.write_json(folder / FOLDER / f"{self.name}.json", summary)
        return summary

    def one(self, probe: Probe) -> dict[str, Any]:
        """One network: its result, read or made."""
        predictor = probe.load()
        if predictor.channels not in (None, self.train.channels):
            raise ValueError(
                f"{probe.folder}: the network takes {predictor.channels} channel(s), the images of {self.train.name} "
                f"have {self.train.channels}"
            )
        protocol, preprocess = self.protocol, self._preprocess(predictor)
        if self.options.slower and probe.model in SLOWER:
            protocol = replace(protocol, lr=protocol.lr / 5)
        print_of = Network(predictor.model, trained=False, preprocess=preprocess, precision=self.options.precision)
        settings = {
            "network": print_of.fingerprint,
            "data": [self.train.digest, self.valid.digest],
            "seed": self.options.seed + probe.seed,
            **protocol.describe(),
        }
        place = probe.folder / FOLDER / f"{self.name}.json"
        if place.exists():
            return _same(_read(place), settings, place)
        folder = _fresh(place.with_suffix(""), settings) if protocol.arm == "drifting" else None
        found = linear_probe(
            predictor.model,
            self.train,
            self.valid,
            protocol,
            preprocess=preprocess,
            precision=self.options.precision,
            seed=self.options.seed + probe.seed,
            begin=self.begin,
            label=probe.label,
            folder=folder,
        )
        value: dict[str, Any] = {
            "kind": "linear probe",
            "method": probe.method,
            "of_seed": probe.seed,
            "model": probe.model,
        }
        value |= {"parameters": runs.parameters(predictor.model), **found.describe(), "settings": settings}
        checkpoint.write_json(place, value | {"environment": runs.environment()})
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self.options.talk.say(f"{probe.label}: {found.top1:.2f} % ({found.seconds:.1f} s)")
        return value

    def _preprocess(self, predictor: Predictor) -> Preprocess:
        """The new data's mean and standard deviation, the protocol's where it has some; the network's input size."""
        named = STATISTICS.get(self.data.name)
        usual = named if named is not None and self.train.channels == 3 else Preprocess.of(self.train)
        return replace(usual, size=predictor.preprocess.size if predictor.preprocess else None)


def _few(images: Images | Stream, most: int | None) -> Images:
    assert isinstance(images, Images), "what is never streamed is in memory"
    if most is None or len(images) <= most:
        return images
    rows = torch.linspace(0, len(images) - 1, most).long()
    return replace(images, images=images.images[rows], labels=images.labels[rows])


def _cell(probe: Probe, value: dict[str, Any]) -> Cell:
    return Cell(
        method=probe.method,
        seed=probe.seed,
        top1=value["top1"],
        best_top1=value["best_top1"],
        agreement=None,
        parameters=value["parameters"],
        seconds=value["seconds"],
        expansion=probe.expansion,
        folder=probe.relative,
        teacher_free=probe.teacher_free,
    )


def _fresh(folder: Path, settings: dict[str, Any]) -> Path:
    """The folder of a probe that is under way; what one of other settings left in it goes."""
    mark = folder / "settings.json"
    if folder.exists() and not (mark.exists() and _read(mark) == settings):
        shutil.rmtree(folder)
    checkpoint.write_json(mark, settings)
    return folder


def _same(value: dict[str, Any], settings: dict[str, Any], place: Path) -> dict[str, Any]:
    before = value.get("settings") or {}
    different = [f"{key} ({before.get(key)!r}, now {now!r})" for key, now in settings.items() if before.get(key) != now]
    if different:
        raise ValueError(
            f"{place} was made with other settings; they differ in {'; '.join(different)}; name these results with "
            "--tag, or delete the file to probe again"
        )
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it to probe again") from None
    return value
