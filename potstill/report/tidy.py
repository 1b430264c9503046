"""The numbers behind the tables, one record per trained student: what a researcher loads into a data frame."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "pair", "dataset", "teacher", "method", "expansion")),
        ("teacher_free", pa.bool_()),
        ("seed", pa.int64()),
        *((name, pa.float64()) for name in ("top1", "best_top1", "tail_top1", "agreement")),
        *((name, pa.float64()) for name in ("teacher_top1", "difference_student", "difference_kd")),
        ("parameters", pa.int64()),
        *((name, pa.float64()) for name in ("seconds_mean", "peak_mib_mean", "published")),
        *((name, pa.string()) for name in ("published_source", "folder", "error")),
    ]
)
"""Accuracies in percent; `difference_*` is this seed's top-1 less that of the lone student (of kd) of the same seed;
`*_mean` is over the seeds of the method; `folder` is relative to the table's own; `error` says why a student failed."""


def records(summary: dict[str, Any]) -> pa.Table:
    """One record per pair, method and seed of a run or a grid, in order; failed ones are those with an `error`."""
    if summary.get("kind") == "grid":
        found = [
            {**record, "run": summary["run"], "pair": pair["pair"], "folder": f"{pair['folder']}/{record['folder']}"}
            for pair in summary["pairs"]
            for record in _of_run(pair["summary"])
        ]
        found += [{"run": summary["run"], **failed} for failed in summary["failed"]]
    else:
        found = list(_of_run(summary))
    return pa.Table.from_pylist(found, SCHEMA)


def _of_run(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    teacher = summary.get("teacher") or {}
    reached = {row["method"]: dict(zip(row["seeds"], row["top1"], strict=True)) for row in summary["rows"]}
    for row in summary["rows"]:
        published = row.get("published") or {}
        tails = row.get("tail_top1") or [None] * row["n"]
        cells = zip(row["seeds"], row["top1"], row["best_top1"], tails, row["agreement"], row["folders"], strict=True)
        for seed, top1, best, tail, agreement, folder in cells:
            yield {
                "run": summary.get("run"),
                "dataset": summary["dataset"],
                "teacher": teacher.get("model"),
                "teacher_top1": teacher.get("top1"),
                "method": row["method"],
                "expansion": row.get("expansion"),
                "teacher_free": row.get("teacher_free"),
                "seed": seed,
                "top1": top1,
                "best_top1": best,
                "tail_top1": tail,
                "agreement": agreement,
                "difference_student": _over(top1, reached.get("student", {}).get(seed)),
                "difference_kd": _over(top1, reached.get("kd", {}).get(seed)),
                "parameters": row["parameters"],
                "seconds_mean": row["seconds"],
                "peak_mib_mean": row.get("peak_mib"),
                "published": published.get("value"),
                "published_source": published.get("source"),
                "folder": folder,
            }


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
