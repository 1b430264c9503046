"""Run a grid: every job in some worker, finished ones never again, a failed one reported and the others kept.

Layout: `grid.json`, `precision.json`, `pairs/<pair>/` (each the folder of an ordinary run, see `comparison.py`), and
the grid's `summary.json`, tables and `report.html`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint, runs
from potstill.compare import checked
from potstill.comparison import Options
from potstill.console import Talk
from potstill.evaluation.claims import claims, tallies
from potstill.fanout import Workers
from potstill.grid import Grid, Job
from potstill.job import Failed, Plan, finished, work
from potstill.methods import LONE_STUDENT, parse
from potstill.report.export import write_tables
from potstill.report.page import write_report
from potstill.report.tables import SHARED_ORDER
from potstill.together import MOST
from potstill.transfer import read_transfer, transfer
from potstill.transfer.run import Options as Probing

GRID = "grid.json"
BASELINES = (LONE_STUDENT, "kd")
"""What every method is compared with."""
ATTEMPTS = 3
"""How often a job is started whose worker dies."""


@dataclass
class Outcome:
    """What came of the jobs: values by job, and what is wrong with those that failed."""

    done: dict[Job, Any] = field(default_factory=dict)
    failed: dict[Job, str] = field(default_factory=dict)

    def over(self, job: Job) -> bool:
        return job in self.done or job in self.failed


def check(grid: Grid, plan: Plan, talk: Talk) -> None:
    """Look for mistakes in all recipes before anything is trained.

    Raises ValueError for those, and for an output folder that holds something else.
    """
    for pair, recipe in grid.pairs.items():
        try:
            folder = plan.out / grid.folder(pair)
            options = Options(folder, torch.device("cpu"), talk, plan.seed, plan.precision)
            recipe, _ = checked(recipe, options)
            runs.check(folder, runs.describe(recipe, plan.seed, plan.source), resume=True, grows=True)
        except ValueError as error:
            raise ValueError(f"{pair}: {error}") from error
    foreign = plan.out.exists() and {path.name for path in plan.out.iterdir()} - {"tuning", "tuning.json"}
    if foreign and not (plan.out / GRID).exists():
        raise ValueError(f"{plan.out} is not empty and is no grid; choose an empty or new folder for --out")


def run(grid: Grid, plan: Plan, workers: Workers, talk: Talk, *, only_teachers: bool = False) -> Outcome:
    """All jobs of the grid that are not done yet, then its tables and its report.

    Raises ValueError as `check` does, and when the precision cannot be measured.
    """
    check(grid, plan, talk)
    folders = {pair: str(grid.folder(pair)) for pair in grid.pairs}
    about = {"title": grid.title, "pairs": folders, "source": plan.source, "environment": runs.environment()}
    checkpoint.write_json(plan.out / GRID, about)
    jobs = [job for job in _all(grid, plan.seed) if not only_teachers or job.kind in ("precision", "teacher")]
    outcome = drive(jobs, grid, plan, workers, talk)
    if not only_teachers:
        written(grid, plan, outcome)
    return outcome


def written(grid: Grid, plan: Plan, outcome: Outcome) -> None:
    """The grid's summary, its tables and its report."""
    found = summary(grid, plan, outcome)
    checkpoint.write_json(plan.out / runs.SUMMARY, found)
    write_tables(plan.out, found)
    write_report(plan.out)


def probe(grid: Grid, plan: Plan, device: str, root: Path | None, talk: Talk) -> dict[Job, str]:
    """Linear probes of all networks of the grid; returns what is wrong with those that failed.

    `root` holds the data of the probes in folders of their names.
    """
    failed = {}
    for data, protocol in grid.transfer:
        where = data if root is None else replace(data, root=root / data.name)
        try:
            transfer(plan.out, where, protocol, Probing(device=torch.device(device), talk=talk, seed=plan.seed))
        except ValueError as error:
            failed[Job(next(iter(grid.pairs)), "transfer", seed=len(failed))] = f"{data.name}, {protocol.arm}: {error}"
            talk.warn(f"transfer to {data.name} ({protocol.arm}) failed: {error}")
    return failed


def _all(grid: Grid, seed: int) -> Iterator[Job]:
    pairs = list(grid.pairs)
    yield Job(pairs[0], "precision")
    yield from grid.jobs(seed)
    yield from (Job(pair, "summary") for pair in pairs)


def drive(jobs: Iterable[Job], grid: Grid, plan: Plan, workers: Workers, talk: Talk) -> Outcome:
    """Keep all workers busy with the first jobs whose turn has come, until none is left."""
    outcome, waiting = Outcome(), list(jobs)
    running: dict[Future, list[Job]] = {}
    attempts: dict[Job, int] = {}
    total = len(waiting)
    with talk.counted("jobs", total, shown=not plan.aloud) as advance:

        def over(job: Job, text: str) -> None:
            advance()
            count = len(outcome.done) + len(outcome.failed)
            talk.say(f"[{count}/{total}] {job}{text}")

        def fail(job: Job, text: str) -> None:
            outcome.failed[job] = text
            over(job, f" FAILED: {text}")

        while waiting or running:
            while len(running) < workers.size and (job := _next(waiting, running.values(), outcome, grid)):
                if cause := _hopeless(job, outcome):
                    waiting.remove(job)
                    fail(job, cause)
                    continue
                jobs = _group(job, waiting, attempts, grid, workers.size)
                for one in jobs:
                    waiting.remove(one)
                    attempts[one] = attempts.get(one, 0) + 1
                recipe, folder = grid.pairs[job.pair], plan.out / grid.folder(job.pair)
                running[workers.submit(work, jobs, recipe, folder, plan)] = jobs
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                jobs = running.pop(future)
                error = future.exception()
                if error is None:
                    values, warnings = future.result()
                    for job, value in zip(jobs, values, strict=True):
                        if isinstance(value, Failed):
                            fail(job, value.why)
                            continue
                        outcome.done[job] = value
                        over(job, _said(job, value))
                    for line in warnings:
                        talk.warn(line.removeprefix("warning:").strip())
                    continue
                for job in reversed(jobs):
                    if workers.lost(error) and attempts[job] < ATTEMPTS:
                        talk.warn(f"{job}: its worker died; started again")
                        waiting.insert(0, job)
                    else:
                        fail(job, str(error) or type(error).__name__)
    return outcome


def _next(waiting: list[Job], groups: Iterable[list[Job]], outcome: Outcome, grid: Grid) -> Job | None:
    """The first job that waits for no other one."""
    running = [job for group in groups for job in group]

    def teacher(job: Job) -> tuple:
        recipe = grid.pairs[job.pair]
        return recipe.teacher, recipe.teacher_fit or recipe.fit, recipe.data

    busy = [*waiting, *running]
    for job in waiting:
        if job.kind == "precision":
            return job
        if any(other.kind == "precision" for other in busy):
            return None
        own = [other for other in busy if other.pair == job.pair and other != job]
        if job.kind == "teacher":
            # one that two pairs share is trained once: the second waits, and finds it
            if not any(other.kind == "teacher" and teacher(other) == teacher(job) for other in running):
                return job
        elif job.kind == "cell":
            if not any(other.kind == "teacher" for other in own):
                return job
        elif not own:
            return job
    return None


def _group(job: Job, waiting: list[Job], attempts: dict[Job, int], grid: Grid, workers: int) -> list[Job]:
    """The job, and other cells of its pair beside it where all students see the same batches.

    As many as leave work for the other workers. What a worker has died of is tried again alone.
    """
    if job.kind != "cell" or grid.pairs[job.pair].data.order == "own" or job in attempts:
        return [job]
    cells = [other for other in waiting if other.kind == "cell" and other not in attempts]
    size = min(MOST, -(-len(cells) // workers))
    return [job, *(other for other in cells if other.pair == job.pair and other != job)][:size]


def _hopeless(job: Job, outcome: Outcome) -> str | None:
    """Why a job cannot succeed any more."""
    failed = outcome.failed
    if any(other.kind == "precision" for other in failed):
        return "no precision was settled"
    if job.kind == "cell" and Job(job.pair, "teacher") in failed:
        return "its teacher failed"
    cells = [other for other in outcome.done if other.pair == job.pair and other.kind == "cell"]
    return "none of its cells finished" if job.kind == "summary" and not cells else None


def _said(job: Job, value: Any) -> str:
    if job.kind == "precision":
        return f" {value['why']}"
    if job.kind == "summary":
        return " written"
    taught = f" ({value['seconds']:.0f} s)" if value["seconds"] else ""
    if not value.get("classifies", True):
        return f" learnt features, no classifier{taught}"
    return f" {value['top1']:.2f} %{taught}"


def summary(grid: Grid, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """The content of the grid's `summary.json`."""
    pairs, cells = [], {}
    for pair, recipe in grid.pairs.items():
        path = plan.out / grid.folder(pair) / runs.SUMMARY
        if path.exists():
            pairs.append({"pair": pair, "folder": str(grid.folder(pair)), "summary": json.loads(path.read_text())})
            cells[pair] = finished(path.parent, [parse(text) for text in recipe.methods])
            cells[pair] = [cell for cell in cells[pair] if cell.classifies]
    ran = {cell.method for group in cells.values() for cell in group}
    shared = any(recipe.data.order == "shared" for recipe in grid.pairs.values())
    return {
        "kind": "grid",
        "title": grid.title,
        "run": str(plan.out),
        "reference": grid.reference,
        "result": "last epoch",
        "pairs": pairs,
        "claims": [asdict(claim) for name in BASELINES if name in ran for claim in claims(cells, name)],
        "tallies": {"reference": grid.reference, "rows": tallies(cells, grid.reference)}
        if grid.reference in ran
        else None,
        "failed": [
            {"pair": job.pair, "method": job.name, "seed": job.seed, "error": text}
            for job, text in outcome.failed.items()
        ],
        "transfer": read_transfer(plan.out),
        "notes": [*grid.notes, *([SHARED_ORDER] if shared else [])],
    }
