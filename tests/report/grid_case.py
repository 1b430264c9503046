"""A made-up grid that looks like a real one: three pairs, six methods, five seeds, and what goes wrong in practice."""

import json
from dataclasses import asdict

import numpy as np

from potstill.evaluation.claims import claims, tallies
from potstill.evaluation.summary import Cell, summarise

PAIRS = {
    "wrn_40_2 → wrn_16_2": (75.61, 73.3),
    "resnet56 → resnet20": (72.34, 69.1),
    "vgg13 → MobileNetV2": (74.64, 64.6),
}
METHODS = {
    "student": ("ce:1", 0.0, 1900, 100.0),
    "kd": ("ce:0.1+kd:0.9", 1.7, 2200, 160.0),
    "crd": ("ce:1+crd:0.8", 2.4, 2700, 240.0),
    "icd": ("ce:1+icd:1", 1.6, 2300, 170.0),
    "icd+kd": ("ce:1+icd:1+kd:1", 2.6, 2350, 172.0),
    "fitnet": ("ce:1+fitnet:100", -0.9, 2400, 190.0),
}
PUBLISHED = {
    "wrn_40_2 → wrn_16_2": {
        "student": 73.26,
        "kd": 74.92,
        "crd": 75.48,
        "icd": 74.99,
        "icd+kd": 76.06,
        "fitnet": 73.58,
    },
    "resnet56 → resnet20": {
        "student": 69.06,
        "kd": 70.66,
        "crd": 71.16,
        "icd": 71.18,
        "icd+kd": 71.81,
        "fitnet": 69.21,
    },
}
FAILED = [
    {
        "pair": "resnet56 → resnet20",
        "method": "crd",
        "seed": 4,
        "error": "the loss is nan at step 1,204 <of seed 4> & the run stopped",
    },
    {
        "pair": "vgg13 → MobileNetV2",
        "method": "fitnet",
        "seed": 0,
        "error": "no map of the student has the teacher's size",
    },
]
"""One seed of crd diverged, and fitnet has no result at all on the last pair."""
SEEDS = 5


def slug(pair):
    return pair.replace(" → ", "-").lower()


def source(method):
    return "README of giakoumoglou/distillers" if method.startswith("icd") else "README of HobbitLong/RepDistiller"


def reached(rng):
    """Accuracy of every cell that came to an end: pair -> method -> seed -> top-1."""
    found = {}
    for pair, (_, alone) in PAIRS.items():
        shared = rng.normal(alone, 0.25, SEEDS)
        found[pair] = {
            method: {
                seed: float(shared[seed] + gain * rng.uniform(0.8, 1.2) + rng.normal(0, 0.22)) for seed in range(SEEDS)
            }
            for method, (_, gain, _, _) in METHODS.items()
        }
    del found["resnet56 → resnet20"]["crd"][4]
    del found["vgg13 → MobileNetV2"]["fitnet"]
    return found


def cells_of(reached):
    return [
        Cell(
            method=method,
            seed=seed,
            top1=top1,
            best_top1=top1 + 0.25,
            agreement=80.0 + METHODS[method][1],
            parameters=703_284,
            seconds=METHODS[method][2],
            expansion=METHODS[method][0],
            folder=f"{method}/seed{seed}",
            teacher_free=method == "student",
            peak_mib=METHODS[method][3],
        )
        for method, seeds in reached.items()
        for seed, top1 in seeds.items()
    ]


def pair_summary(pair, cells):
    teacher = {"model": pair.split(" → ")[0], "top1": PAIRS[pair][0], "parameters": 2_255_156, "seconds": 5210.0}
    if pair in PUBLISHED:
        teacher["published"] = {"value": PAIRS[pair][0], "source": source("teacher")}
    summary = summarise(dataset="cifar100", teacher=teacher, cells=cells, run=f"pairs/{slug(pair)}")
    for row in summary["rows"]:
        value = PUBLISHED.get(pair, {}).get(row["method"])
        row["published"] = None if value is None else {"value": value, "source": source(row["method"])}
    return summary


def make_grid(out):
    """Write `summary.json` and `grid.json` of a grid, and the first pair's report; returns the summary."""
    found = {pair: cells_of(methods) for pair, methods in reached(np.random.default_rng(7)).items()}
    pairs = [
        {"pair": pair, "folder": f"pairs/{slug(pair)}", "summary": pair_summary(pair, cells)}
        for pair, cells in found.items()
    ]
    summary = {
        "kind": "grid",
        "title": "CIFAR-100, three pairs",
        "run": "runs/three-pairs",
        "reference": "icd",
        "result": "last epoch",
        "pairs": pairs,
        "claims": [asdict(claim) for baseline in ("student", "kd") for claim in claims(found, baseline)],
        "tallies": {"reference": "icd", "rows": tallies(found, "icd")},
        "failed": FAILED,
        "notes": ["Runs side by side share data_seed: order and augmentation are the same for all seeds."],
    }
    (out / "summary.json").write_text(json.dumps(summary))
    environment = {"torch": "2.13.0", "commit": "0123abc"}
    (out / "grid.json").write_text(json.dumps({"title": summary["title"], "environment": environment}))
    first = out / pairs[0]["folder"]
    first.mkdir(parents=True)
    (first / "report.html").write_text("<!DOCTYPE html><title>a pair</title>")
    return summary
