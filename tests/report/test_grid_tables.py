"""The tables of a grid: what stands in them, and every form they are written in."""

import copy
import csv
import io
import json
import re

import pyarrow.parquet
import pytest
from grid_case import METHODS, PAIRS
from rich.console import Console

from potstill.report import formats
from potstill.report.export import sheets, terminal, write_tables
from potstill.report.grid_tables import (
    accuracy_sheet,
    accuracy_sheets,
    claim_sentences,
    claims_sheet,
    failed_sheet,
    tallies_sheet,
)
from potstill.report.sheet import Cell, Column, Row, Sheet


def texts(sheet, key):
    return {row["method"].text: row[key].text for row in sheet.rows}


def row_of(summary, pair, method):
    rows = next(each["summary"]["rows"] for each in summary["pairs"] if each["pair"] == pair)
    return next(row for row in rows if row["method"] == method)


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    return {path.suffix: path for path in write_tables(out, grid[1])}


def test_methods_by_pairs(grid):
    sheet = accuracy_sheet(grid[1])
    assert [row["method"].text for row in sheet.rows] == ["teacher", *METHODS]
    assert [group for group, _ in sheet.groups if group] == list(PAIRS)
    row = row_of(grid[1], "resnet56 → resnet20", "crd")
    ours = next(c.key for c in sheet.columns if c.group == "resnet56 → resnet20" and c.heading == "ours")
    assert texts(sheet, ours)["crd"] == f"{row['top1_mean']:.2f} ± {row['top1_std']:.2f} (4)"
    assert texts(sheet, ours)["teacher"] == "72.34"


def test_published_numbers_have_columns_and_sources(grid):
    sheet = accuracy_sheet(grid[1])
    columns = [column for column in sheet.columns if column.heading == "published"]
    assert [column.group for column in columns] == list(PAIRS)[:2]  # nothing is known of the third
    cell = next(row for row in sheet.rows if row.method == "icd")[columns[0].key]
    assert cell.text == "74.99"
    assert f"{cell.mark}: published, not ours; README of giakoumoglou/distillers." in sheet.notes


def test_the_highest_mean_of_a_pair_is_bold(grid):
    sheet = accuracy_sheet(grid[1])
    for column in sheet.columns:
        if column.heading == "ours":
            strong = [row.method for row in sheet.rows if row[column.key].strong]
            assert strong == ["icd+kd"]


def test_parts_share_letters_and_keep_their_own_sources(grid):
    parts = accuracy_sheets(grid[1], 1)
    assert [part.key for part in parts] == ["accuracy1", "accuracy2", "accuracy3"]
    assert all(len([c for c in part.columns if c.heading == "ours"]) == 1 for part in parts)
    assert any("README" in note for note in parts[0].notes)
    assert not any("README" in note for note in parts[2].notes)


def test_claims_tallies_and_failures(grid):
    claims, tallies, failed = (make(grid[1]) for make in (claims_sheet, tallies_sheet, failed_sheet))
    assert len(claims.rows) == 10
    verdicts = {(row["method"].text, row["baseline"].text): row["verdict"].text for row in claims.rows}
    assert verdicts["icd+kd", "student"] == "better"
    assert verdicts["crd", "student"] == "not powered"  # one pair has four seeds
    assert "Without a result: fitnet on vgg13 → MobileNetV2." in claims.notes
    assert any(note.startswith("equivalent: shown to lie within ±0.3 points") for note in claims.notes)
    assert "icd" not in texts(tallies, "wins")
    assert texts(tallies, "wins")["icd+kd"] == "3"
    assert texts(failed, "seeds") == {"crd": "4", "fitnet": "0"}


def test_notes_are_those_of_what_is_there(grid):
    summary = copy.deepcopy(grid[1])
    summary["claims"] = [claim for claim in summary["claims"] if claim["verdict"] == "better"]
    notes = claims_sheet(summary).notes
    assert not any(note.startswith(("equivalent", "undecided", "not powered")) for note in notes)


@pytest.mark.parametrize(
    "without",
    [
        {"claims": [], "tallies": {"reference": "icd", "rows": {}}, "failed": []},
        {"claims": None, "tallies": None, "failed": []},
    ],
)
def test_nothing_to_say_is_no_table(grid, without):
    found = sheets({**grid[1], **without})
    assert [sheet.key for sheet in found] == ["accuracy", "pair1", "pair2", "pair3"]


def test_a_grid_in_which_everything_failed(grid, tmp_path):
    empty = {**grid[1], "pairs": [], "claims": [], "tallies": {"reference": "icd", "rows": {}}}
    assert "the loss is nan" in write_tables(tmp_path, empty)[0].read_text()
    assert len(pyarrow.parquet.read_table(tmp_path / "table.parquet")) == 2


def test_sentences_of_claims(grid):
    said = {(line["method"], line["baseline"]): line["text"] for line in claim_sentences(grid[1])}
    assert re.fullmatch(
        r"\+2\.\d\d points over the lone student on 3 pairs \(15 runs, 95 % interval .* to .*\), better",
        said["icd+kd", "student"],
    )
    assert "on 2 pairs" in said["fitnet", "kd"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_of_any_width(grid, width):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal(grid[1], width))
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for pair in grid[1]["pairs"]:
        for row in pair["summary"]["rows"]:
            assert f"{row['top1_mean']:.2f} ± {row['top1_std']:.2f} ({row['n']})" in text


def test_markdown_is_rectangular_and_escaped(written):
    text = written[".md"].read_text()
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 7
    for block in blocks:
        assert len({line.replace(r"\|", "").count("|") for line in block}) == 1
    assert "&lt;of seed 4>" in text
    assert "data_seed" in text.partition("### Notes")[2]


def test_latex_balances(written):
    text = written[".tex"].read_text()
    for name in ("table", "adjustbox", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 7
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == 7
    assert text.isascii()
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.replace(r"\&", "").count("&") for line in lines} == {len(table[0]) - 1}


def test_latex_escapes():
    sheet = Sheet("k", "50 % of a_b", (Column("a", "x#1"),), (Row({"a": Cell(r"C:\d & {e} ~^ -0.5 icd~x")}),))
    text = formats.latex(sheet)
    assert r"\caption{50 \% of a\_b}" in text
    assert r"x\#1 \\" in text
    assert r"C:\textbackslash{}d \& \{e\} \textasciitilde{}\textasciicircum{} $-$0.5 icd\textasciitilde{}x" in text


def test_one_record_per_student(grid, written):
    records = pyarrow.parquet.read_table(written[".parquet"]).to_pylist()
    done = [record for record in records if record["error"] is None]
    assert len(done) == sum(row["n"] for pair in grid[1]["pairs"] for row in pair["summary"]["rows"]) == 84
    assert len({(record["pair"], record["method"], record["seed"]) for record in records}) == 86
    one = next(r for r in done if (r["pair"], r["method"], r["seed"]) == ("resnet56 → resnet20", "icd", 3))
    icd, kd = (row_of(grid[1], "resnet56 → resnet20", method) for method in ("icd", "kd"))
    assert one["top1"] == icd["top1"][3]
    assert one["difference_kd"] == pytest.approx(icd["top1"][3] - kd["top1"][3])
    assert one["folder"] == "pairs/resnet56-resnet20/icd/seed3"
    assert (one["published"], one["peak_mib_mean"]) == (71.18, 170.0)
    lost = next(record for record in records if record["method"] == "crd" and record["error"])
    assert (lost["seed"], lost["top1"]) == (4, None)


def test_csv_says_the_same(written):
    rows = list(csv.DictReader(written[".csv"].read_text(encoding="utf-8").splitlines()))
    records = pyarrow.parquet.read_table(written[".parquet"]).to_pylist()
    assert [row["method"] for row in rows] == [record["method"] for record in records]
    assert [float(row["top1"]) for row in rows if row["top1"]] == [r["top1"] for r in records if r["top1"] is not None]


def test_html_needs_nothing(written):
    text = written[".html"].read_text()
    assert "default-src 'none'" in text
    assert text.count("<table") == 7
    assert "&lt;of seed 4&gt;" in text
    assert "vegaEmbed(" not in text
    assert len(text) < 100_000


def test_tables_of_a_single_run(finished, tmp_path):
    paths = write_tables(tmp_path, finished[1])
    assert sorted(path.name for path in paths) == [f"table.{kind}" for kind in ("csv", "html", "md", "parquet", "tex")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    records = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert len(records) == 25
    assert {record["folder"] for record in records if record["method"] == "kd"} == {f"kd/seed{s}" for s in range(5)}


def test_names_may_be_hostile(grid, tmp_path):
    summary = json.loads(json.dumps(grid[1]).replace("fitnet", "<script>x</script>|&_"))
    paths = {path.suffix: path.read_text() for path in write_tables(tmp_path, summary) if path.suffix != ".parquet"}
    assert "<script>x" not in paths[".html"]
    assert r"\|" in paths[".md"]
    assert r"x$<$/script$>$\textbar{}\&\_" in paths[".tex"]
