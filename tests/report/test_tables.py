"""The table in the terminal and in Markdown, and the sentences."""

import io

import pytest
from rich.console import Console

from potstill.evaluation.summary import Cell, summarise
from potstill.report.tables import comparison_table, markdown_table, sentences


def drawn(summary, width):
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(comparison_table(summary, width=width))
    return captured.get()


def small(seeds=1, gain=3.0, **changes):
    cells = [
        Cell(m, s, 70.0 + s + (gain + 0.1 * s) * (m != "student"), 80.0, None, 1000, 5.0, m, f"{m}/{s}")
        for m in ("student", "a|b")
        for s in range(seeds)
    ]
    return summarise(**{"dataset": "digits", "teacher": None, "cells": cells, "run": "r", **changes})


def test_wide_table_has_everything(finished):
    text = drawn(finished[1], 200)
    assert "7,433,860" in text
    assert "Not shown" not in text
    row = finished[1]["rows"][1]
    found = row["difference"]
    for expected in (
        f"{row['top1_mean']:.2f} ± {row['top1_std']:.2f}",
        f"{found['mean']:+.2f} [{found['low']:.2f}, {found['high']:.2f}]",
        f"{found['detectable']:.2f}",
        f"{row['agreement_mean']:.1f}",
        "better",
        "best*",
        "peeks at the test set",
    ):
        assert expected in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_narrow_tables_fit_and_keep_what_matters(finished, width):
    text = drawn(finished[1], width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for row in finished[1]["rows"]:
        assert f"{row['top1_mean']:.2f} ± {row['top1_std']:.2f}" in text
    assert "undecided" in text


def test_the_teacher_comes_first(finished):
    lines = markdown_table(finished[1]).splitlines()
    assert lines[2].startswith("| teacher | 79.42 |")
    methods = [line.split("|")[1].strip() for line in lines[3:8]]
    assert methods == ["student", "kd", "icd", "icd+kd", "fitnet"]


def test_markdown_rows_are_rectangular_and_escaped():
    lines = markdown_table(small()).splitlines()
    assert r"a\|b" in lines[3]
    assert {line.replace(r"\|", "").count("|") for line in lines[:4]} == {lines[0].count("|")}
    assert "not powered" in lines[3]
    assert "agrees" not in lines[0]


def test_names_are_no_markup():
    cells = [Cell("[red]kd[/]", 0, 70.0, 71.0, 50.0, 10, 1.0, "kd", "kd/0")]
    assert "[red]kd[/]" in drawn(summarise(dataset="[b]x", teacher=None, cells=cells, run="r"), 120)


def test_sentences(finished):
    said = {line["method"]: line for line in sentences(finished[1])}
    assert said["kd"]["text"].startswith("+3.")
    assert said["kd"]["text"].endswith("), better")
    assert "points over the lone student (95 % interval" in said["kd"]["text"]
    assert said["icd"]["text"].startswith("no difference that 5 seeds can show (")
    assert "smallest detectable" in said["icd"]["text"]
    assert said["student"]["verdict"] == "baseline"
    assert said["fitnet"]["text"].endswith("worse")


def test_sentences_without_power():
    assert sentences(small(1))[1]["text"] == (
        "+3.0 points against the lone student (1 seed), not powered: a verdict needs 5 seeds"
    )
    assert "3 seeds), not powered" in sentences(small(3))[1]["text"]
    assert "nothing to compare with" in sentences(small(baseline="other"))[0]["text"]


def test_footnotes_follow_what_ran():
    assert "No differences" in markdown_table(small(baseline="other"))
    assert "at least 5 seeds" in markdown_table(small())
    assert "not powered" not in markdown_table(small(5))


def test_no_negative_zero():
    assert "-0.0" not in markdown_table(small(5, gain=-0.2004))
