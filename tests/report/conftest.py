"""A made-up run that looks like a real one: five methods, five seeds, curves and example images."""

import base64
import io
import json
import math

import numpy as np
import pytest
from grid_case import make_grid
from PIL import Image

from potstill.evaluation.corruptions import CORRUPTIONS
from potstill.evaluation.summary import Cell, summarise
from potstill.suites.robustness import RobustnessSuite
from potstill.suites.table import table_of
from potstill.transfer.networks import Probe

METHODS = {
    "student": ("ce:1", 0.0, 76.0),
    "kd": ("ce:0.1+kd:0.9", 3.3, 84.0),
    "icd": ("ce:1+icd:1", 0.3, 79.0),
    "icd+kd": ("ce:1+icd:1+kd:0.5", 3.9, 85.5),
    "fitnet": ("ce:1+fitnet:100", -1.4, 74.0),
}
LABELS = ["cat", "dog", "ship & <boat>"]


def png(rng, size=8):
    image = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8)).save(image, format="PNG")
    return base64.b64encode(image.getvalue()).decode()


def write_cell(folder, rng, expansion, top1, agreement, epochs):
    folder.mkdir(parents=True)
    names = [term.split(":")[0] for term in expansion.split("+")]
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - math.exp(-4 * epoch / epochs)
        terms = {name: (3.0 if name == "ce" else 0.4) * (1.05 - rise) + 0.01 * rng.random() for name in names}
        row = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "loss": sum(terms.values()), "terms": terms}
        if epoch % 2 == 0 or epoch == epochs:
            row["top1"] = top1 * (0.3 + 0.7 * rise) / (0.3 + 0.7 * (1 - math.exp(-4))) + rng.normal(0, 0.15)
            row["agreement"] = agreement * (0.4 + 0.6 * rise)
        rows.append(row)
    rows[-1]["top1"] = top1
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [
        {
            "png": png(rng),
            "label": LABELS[i % 3],
            "teacher": LABELS[i % 3],
            "student": LABELS[(i + 1) % 3],
            "index": i,
        }
        for i in range(20)
    ]
    (folder / "examples.json").write_text(json.dumps({"items": items}))


def write_robustness(run, cells):
    """What `potstill evaluate --suite robustness` would have written, with made-up numbers."""
    rng, suite = np.random.default_rng(1), RobustnessSuite()

    def values(top1):
        found = {key: float(rng.uniform(0.1, 1)) for key in suite.columns()}
        for place, epsilon in enumerate(suite.epsilons):
            found |= {f"fgsm_{epsilon}": top1 - 9 * place - 9, f"pgd_{epsilon}": top1 - 12 * place - 12}
        levels = {name: [top1 - 4 * s + float(rng.normal(0, 2)) for s in range(5)] for name in CORRUPTIONS}
        return found | {"clean": top1, "corrupted": top1 - 8, "corruptions": levels}

    found = [(Probe("teacher", 0, run, None, "resnet32x4", teacher=True), values(79.4))]
    found += [
        (Probe(cell.method, cell.seed, run / cell.folder, None, "resnet8x4"), values(cell.top1)) for cell in cells
    ]
    (run / "robustness.json").write_text(json.dumps(table_of("robustness", suite, found, "digits", {})))


def make_run(run, seeds=5, epochs=30):
    rng = np.random.default_rng(0)
    shared = rng.normal(70.0, 0.4, seeds)
    cells = []
    for method, (expansion, gain, agreement) in METHODS.items():
        for seed in range(seeds):
            top1 = float(shared[seed] + gain + rng.normal(0, 0.35))
            agrees = float(agreement + rng.normal(0, 0.5))
            folder = f"{method}/seed{seed}"
            write_cell(run / folder, rng, expansion, top1, agrees, epochs)
            cells.append(Cell(method, seed, top1, top1 + 0.3, agrees, 278_324, 41.5, expansion, folder))
    summary = summarise(
        dataset="digits",
        teacher={"model": "resnet32x4", "top1": 79.42, "parameters": 7_433_860, "seconds": 310.0},
        cells=cells,
        run="demo-1",
        notes=["A note with <b>markup</b> & an ampersand."],
    )
    (run / "summary.json").write_text(json.dumps(summary))
    write_robustness(run, cells)
    environment = {"commit": "0123abc", "torch": "2.13.0", "python": "3.11"}
    recipe = {"name": "demo", "optimizer": {"lr": 0.05, "nesterov": True}, "terms": [{"weight": 1.0}]}
    (run / "recipe.json").write_text(json.dumps({**recipe, "environment": environment}))
    return summary


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run's folder and its summary. Read only: tests that change a run make their own."""
    run = tmp_path_factory.mktemp("run")
    return run, make_run(run)


@pytest.fixture(scope="session")
def grid(tmp_path_factory):
    """A grid's folder and its summary. Read only."""
    out = tmp_path_factory.mktemp("grid")
    return out, make_grid(out)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A run of two methods, student and kd, and two seeds. Read only."""
    run = tmp_path_factory.mktemp("bare") / "run"
    run.mkdir()
    summary = make_run(run, seeds=2, epochs=3)
    rows = [row for row in summary["rows"] if row["method"] in ("student", "kd")]
    (run / "summary.json").write_text(json.dumps({**summary, "rows": rows}))
    return run
