"""A made-up grid that looks like a real one: three pairs, six methods, five seeds, and what goes wrong in practice."""

import json

import numpy as np

from potstill.evaluation.statistics import mean_std, paired_difference
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
    "wrn_40_2 → wrn_16_2": {"student": 73.26, "kd": 74.92, "crd": 75.48, "icd": 74.99, "icd+kd": 76.06, "fitnet": 73.58},
    "resnet56 → resnet20": {"student": 69.06, "kd": 70.66, "crd": 71.16, "icd": 71.18, "icd+kd": 71.81, "fitnet": 69.21},
}
FAILED = [
    {
        "pair": "resnet56 → resnet20",
        "method": "crd",
        "seed": 4,
        "error": "the loss is nan at step 1,204 <of seed 4> & the run stopped",
    },
    {"pair": "vgg13 → MobileNetV2", "method": "fitnet", "seed": 0, "error": "no map of the student has the teacher's size"},
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


def over(ours, theirs):
    common = sorted(ours.keys() & theirs.keys())
    return paired_difference([ours[seed] for seed in common], [theirs[seed] for seed in common])


def pair_summary(pair, cells_of):
    cells = [
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
        )
        for method, seeds in cells_of.items()
        for seed, top1 in seeds.items()
    ]
    teacher = {"model": pair.split(" → ")[0], "top1": PAIRS[pair][0], "parameters": 2_255_156, "seconds": 5210.0}
    if pair in PUBLISHED:
        teacher["published"] = {"value": PAIRS[pair][0], "source": source("teacher")}
    summary = summarise(dataset="cifar100", teacher=teacher, cells=cells, run=f"pairs/{slug(pair)}")
    for row in summary["rows"]:
        method = row["method"]
        row["peak_mib"] = METHODS[method][3]
        value = PUBLISHED.get(pair, {}).get(method)
        row["published"] = None if value is None else {"value": value, "source": source(method)}
        row["difference_kd"] = None
        if method != "kd":
            found = over(cells_of[method], cells_of["kd"])
            row["difference_kd"] = {**vars(found), "verdict": found.verdict, "paired": True}
    return summary


def claim(found, method, baseline):
    """What the statistics of a grid say, near enough: pairs weigh the same, and the p-values are those of one pool."""
    sides = [(cells[method], cells[baseline]) for cells in found.values() if method in cells]
    differences = [over(*side) for side in sides]
    mean = mean_std([difference.mean for difference in differences])[0]
    error = (sum(d.std**2 / d.n for d in differences)) ** 0.5 / len(differences)
    low, high, p = mean - 2.2 * error, mean + 2.2 * error, float(2.0 ** -abs(mean / error))
    powered = all(difference.n >= 5 for difference in differences)
    known = "better" if low > 0 else "worse" if high < 0 else "equivalent" if abs(mean) < 0.2 else "undecided"
    return {
        **{"method": method, "baseline": baseline, "pairs": len(sides), "n": sum(d.n for d in differences)},
        **{"mean": mean, "low": low, "high": high, "p": p, "p_holm": min(1.0, 5 * p), "p_equivalence": 1 - p},
        **{"detectable": 3.2 * error, "verdict": known if powered else "not powered"},
    }


def tally(found, method, reference):
    verdicts = [over(cells[method], cells[reference]).verdict for cells in found.values() if method in cells]
    names = {"wins": "better", "ties": "undecided", "losses": "worse", "unpowered": "not powered"}
    return {name: verdicts.count(verdict) for name, verdict in names.items()} | {"pairs": len(verdicts)}


def make_grid(out):
    """Write `summary.json` and `grid.json` of a grid, and the first pair's report; returns the summary."""
    found = reached(np.random.default_rng(7))
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
        "claims": [
            claim(found, method, baseline) for baseline in ("student", "kd") for method in METHODS if method != baseline
        ],
        "tallies": {"reference": "icd", "rows": {m: tally(found, m, "icd") for m in METHODS if m != "icd"}},
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
