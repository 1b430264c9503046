"""The figures: data, colours, and files."""

import csv
import io
import math

import pytest

from potstill.report import figures
from potstill.report.page import read_curves, save_figure


@pytest.fixture(scope="module")
def drawn(finished):
    run, summary = finished
    return summary, read_curves(run, summary)


def layers(chart):
    spec = chart.to_dict()
    for layer in spec["layer"]:
        data = layer.get("data", spec.get("data"))
        rows = spec["datasets"][data["name"]] if "name" in data else data["values"]
        if isinstance(rows, str):
            rows = [{k: v if k == "line" else float(v) for k, v in row.items()} for row in reader(rows)]
        yield layer, rows


def reader(text):
    return csv.DictReader(io.StringIO(text))


def test_every_seed_is_a_point_and_the_teacher_a_rule(drawn):
    summary, _ = drawn
    found = list(layers(figures.final_accuracy(summary)))
    points = {(row["method"], row["seed"], row["value"]) for row in found[1][1]}
    given = {(r["method"], s, t) for r in summary["rows"] for s, t in zip(r["seeds"], r["top1"], strict=True)}
    assert points == given
    assert any(row.get("teacher") == 79.42 for _, rows in found for row in rows)


def test_curves_give_the_mean_over_seeds(drawn):
    summary, records = drawn
    last = [r["top1"] for r in records if r["method"] == "kd" and r["epoch"] == 30]
    means = next(rows for _, rows in layers(figures.accuracy_curves(summary, records)) if "n" in rows[0])
    found = next(row for row in means if (row["line"], row["epoch"]) == ("kd", 30))
    assert found["n"] == len(last) == 5
    assert found["value"] == pytest.approx(sum(last) / 5, abs=1e-3)
    assert (found["low"], found["high"]) == pytest.approx((min(last), max(last)), abs=1e-3)


def test_one_colour_per_method_everywhere(drawn):
    summary, records = drawn
    charts = [
        figures.accuracy_curves(summary, records),
        figures.agreement_curves(summary, records),
        figures.final_accuracy(summary),
        figures.final_agreement(summary),
    ]
    scales = [next(layers(chart))[0]["encoding"]["color"]["scale"] for chart in charts]
    found = {(name, colour) for s in scales for name, colour in zip(s["domain"], s["range"], strict=True)}
    assert dict(found) == figures.colours([row["method"] for row in summary["rows"]], "student")
    assert len(found) == 5


def test_many_methods_differ_in_colour_or_dashes():
    names = [f"m{i}" for i in range(20)]
    colours, dashes = figures.colours(names, "m3"), figures.dashes(names, "m3")
    assert len({(colours[name], tuple(dashes[name])) for name in names}) == 20


def test_terms_show_each_term_and_skip_what_diverged(drawn):
    summary, records = drawn
    broken = [{**records[0], "terms": {"ce": math.nan}}, {**records[1], "terms": None}, *records[2:]]
    names = {row["line"] for _, rows in layers(figures.term_curves(summary, broken, "icd+kd")) for row in rows}
    assert names == {"ce", "icd", "kd"}
    student = [row for _, rows in layers(figures.term_curves(summary, broken, "student")) for row in rows]
    assert all(math.isfinite(row["value"]) for row in student)


def test_nothing_to_draw_is_no_figure(drawn):
    summary, _ = drawn
    assert figures.accuracy_curves(summary, []) is None
    assert figures.term_curves(summary, [], "kd") is None
    rows = [{**row, "agreement": [None] * row["n"]} for row in summary["rows"]]
    assert figures.final_agreement({**summary, "rows": rows}) is None


def test_more_rows_than_altair_likes(drawn):
    summary, _ = drawn
    many = [{"method": "kd", "seed": s, "epoch": e, "top1": 50.0} for s in range(5) for e in range(1, 1300)]
    assert figures.accuracy_curves(summary, many).to_dict()


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg")])
def test_figures_as_files(drawn, tmp_path, name, start):
    path = save_figure(figures.final_accuracy(drawn[0]), tmp_path / name)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_other_file_names_are_refused(drawn, tmp_path):
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        save_figure(figures.final_accuracy(drawn[0]), tmp_path / "a.jpg")
