"""A suite over everything that a run trained: teacher, assistants, and every seed of every method.

The table is written to the run's folder as `<suite>.json`; a grid has one in the folder of each pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint, runs
from potstill.console import Talk
from potstill.data import Data, Preprocess, Split, first, load
from potstill.examples import source
from potstill.precision import Precision
from potstill.report.evaluation import write_markdown
from potstill.sources import Network
from potstill.student import CARD
from potstill.suites.suite import Seen, Suite
from potstill.suites.table import before, table_of
from potstill.transfer.networks import LONE, Probe, assistants, networks, runs_of
from potstill.types import Progress

PROBED = 4
"""Images that a network is looked at with."""


@dataclass(frozen=True)
class Options:
    """Which networks are measured, and how they compute."""

    methods: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = field(default_factory=Precision)
    smoke: bool = False
    """Each suite at its smallest size."""
    talk: Talk = field(default_factory=lambda: Talk(quiet=True))


def data_of(run: Path, moved: bool = False) -> Data:
    """The data that a run was trained on, from its `recipe.json` (a grid's: of its first pair).

    Raises ValueError for a folder that says nothing of it, and for images that are not where it says, unless they
    `moved`: then the caller knows where to.
    """
    for folder, _ in runs_of(run):
        if (said := _recipe(folder).get("data")) is not None:
            known = {item.name for item in fields(Data)}
            values: dict[str, Any] = {name: value for name, value in said.items() if name in known}
            values["root"] = Path(values["root"]) if values.get("root") else None
            if values["root"] is not None and not moved and not values["root"].exists():
                raise ValueError(
                    f"{run} was trained on the images in {values['root']}, which is not there; "
                    "say where they are: --data.root FOLDER"
                )
            return Data(**values)
    if not run.is_dir():
        raise ValueError(f"{run}: there is no such folder")
    if moved:
        return Data()
    raise ValueError(
        f"{run} has no {runs.RECIPE} that says what it was trained on; give the folder of a run (not of one student), "
        "or the data: --data NAME or --data.root FOLDER"
    )


def evaluate(
    run: str | Path, name: str, suite: Suite, data: Data | None = None, options: Options | None = None
) -> list[dict[str, Any]]:
    """Measure every network of a run folder, or of each run of a grid; returns a table for each run.

    A table has `teacher` (or None), `assistants`, and `rows`: a method's `mean`, `std` and `values` for each column,
    with `seeds`, and the `difference` to the lone student. It is written to `<run>/<name>.json`, unless the folder is
    that of one student; a network that stands there, measured with the same settings, is not measured again. `data` are
    the run's own when left out.

    Raises:
        ValueError: a folder without a student, unknown methods, and whatever is wrong with data and networks.
    """
    run, options = Path(run), options or Options()
    suite = suite.smoke() if options.smoke else suite
    for folder, _ in runs_of(run):
        networks(folder, options.methods, Talk(quiet=True))  # before anything is loaded: are they there?
    splits = load(data or data_of(run), quiet=options.talk.quiet)
    if not splits[1].labelled:
        raise ValueError(
            f"{splits[1].name} has no labels, and a suite judges by labels; name labelled data with --data"
        )
    train, valid = (split.to(options.device) for split in splits)
    digests = [train.digest, valid.digest]
    seen = Seen(train, valid, options.device, options.talk)
    return [
        _Run(name, suite, replace(seen, memory={}), options, folder, pair).measured(digests)
        for folder, pair in runs_of(run)
    ]


@dataclass(frozen=True)
class _Run:
    """A suite over one run folder."""

    name: str
    suite: Suite
    seen: Seen
    options: Options
    folder: Path
    pair: str | None

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def measured(self, digests: list[str]) -> dict[str, Any]:
        """The table, written again after every network: a killed evaluation goes on where it was."""
        probes = networks(self.folder, (), self.options.talk)
        taught = next((probe for probe in probes if probe.teacher), None)
        every = [*filter(None, [taught]), *assistants(self.folder), *(probe for probe in probes if not probe.teacher)]
        alone = all(probe.alone for probe in every)
        found: list[tuple[Probe, dict[str, Any]]] = []
        with ExitStack() as stack:
            teacher = stack.enter_context(self._live(taught)) if taught else None
            settings = {
                "options": asdict(self.suite),
                "data": digests,
                "precision": self.options.precision.name,
                "teacher": teacher and teacher.fingerprint,
            }
            known = {} if alone else before(self.file, settings)
            # What other calls measured stays in the table.
            every = [probe for probe in every if self._asked(probe) or probe.label in known]
            begin = stack.enter_context(self.options.talk.bars(len(every)))
            for place, probe in enumerate(every):
                ticks = self.suite.ticks(self.seen)
                tick = _ticking(begin(probe.label, ticks), ticks)
                seen = replace(self.seen, teacher=teacher, tick=tick)
                with nullcontext(teacher) if probe.teacher else self._live(probe) as network:
                    assert network is not None, "a teacher that is probed is loaded"
                    values = known.get(probe.label)
                    if values is None or values.get("fingerprint") != network.fingerprint:
                        values = {"fingerprint": network.fingerprint, **self._values(probe, network, seen)}
                found.append((probe, values))
                later = [(other, known[other.label]) for other in every[place + 1 :] if other.label in known]
                table = self._table([*found, *later], settings)
                if not alone:
                    checkpoint.write_json(self.file, table)
        if not alone:
            write_markdown(table, self.file.with_suffix(".md"))
        return table

    def _asked(self, probe: Probe) -> bool:
        return probe.role != LONE or not self.options.methods or probe.method in self.options.methods

    def _values(self, probe: Probe, network: Network, seen: Seen) -> dict[str, Any]:
        if self.suite.classifies and not probe.classifies:
            return dict.fromkeys(self.suite.columns())
        return dict(self.suite.measure(network, seen))

    def _table(self, found: Sequence[tuple[Probe, dict[str, Any]]], settings: dict[str, Any]) -> dict[str, Any]:
        table = table_of(self.name, self.suite, found, self.seen.train.name, settings)
        table |= {"run": str(self.folder), "environment": runs.environment()}
        return table if self.pair is None else {**table, "pair": self.pair}

    @contextmanager
    def _live(self, probe: Probe) -> Iterator[Network]:
        train = self.seen.train
        predictor = probe.load()
        if predictor.channels not in (None, train.channels):
            raise ValueError(
                f"{probe.folder}: the network takes {predictor.channels} channel(s), the images of {train.name} have "
                f"{train.channels}"
            )
        preprocess = predictor.preprocess or Preprocess.of(train)
        if probe.teacher and not (probe.folder / CARD).is_file():  # loaded from elsewhere, as its recipe says
            preprocess = _said(_recipe(self.folder).get("teacher") or {}, train)
        live = source(
            predictor.model,
            first(train, PROBED, self.options.device),
            trained=False,
            preprocess=preprocess,
            precision=self.options.precision,
        )
        try:
            yield live
        finally:
            live.close()


def _ticking(show: Callable[[Progress], None], total: int) -> Callable[[], None]:
    done = count(1)
    return lambda: show(Progress(next(done), 0, total))


def _said(spec: dict[str, Any], train: Split) -> Preprocess:
    """The preprocessing of a network of the recipe."""
    label_map = tuple(spec["label_map"]) if spec.get("label_map") is not None else None
    usual = Preprocess.of(train)
    if spec.get("mean") is not None:
        usual = replace(usual, mean=tuple(spec["mean"]), std=tuple(spec["std"]))
    return replace(usual, size=spec.get("size"), label_map=label_map)


def _recipe(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / runs.RECIPE).read_text()).get("recipe", {})
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{run / runs.RECIPE} is damaged: {error}") from None
