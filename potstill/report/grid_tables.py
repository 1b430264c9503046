"""The tables of a grid: methods by pairs, what holds over pairs, wins and losses, and what failed."""

from collections.abc import Sequence
from typing import Any

from potstill.report.sheet import (
    EMPTY,
    Cell,
    Column,
    Marks,
    Note,
    Row,
    Sheet,
    interval,
    number,
    spread,
)

MARGIN = 0.3
"""Points within which a method counts as equivalent, where the summary does not say."""
METHOD = Column("method", "method", words=True)


def methods(summary: dict[str, Any]) -> list[str]:
    """Every method of a grid, in order of first appearance over its pairs."""
    return list(dict.fromkeys(row["method"] for pair in summary["pairs"] for row in pair["summary"]["rows"]))


def accuracy_sheet(summary: dict[str, Any], places: Sequence[int] | None = None) -> Sheet:
    """The main table of a paper: a row per method, a column per pair, published numbers in a column of their own.

    Cells are mean ± standard deviation (number of seeds). `places` picks pairs, for tables that must be narrow.
    """
    pairs = summary["pairs"] if places is None else [summary["pairs"][place] for place in places]
    marks, columns = Marks(), [METHOD]
    found: dict[str, dict[str, Cell]] = {"teacher": {}} | {method: {} for method in methods(summary)}
    for place, pair in enumerate(pairs):
        ours, theirs = f"ours{place}", f"published{place}"
        columns += [Column(ours, "ours", group=pair["pair"]), Column(theirs, "published", group=pair["pair"])]
        teacher, rows = pair["summary"].get("teacher") or {}, pair["summary"]["rows"]
        found["teacher"] |= {ours: number(teacher.get("top1"), 2), theirs: marks.cell(teacher.get("published"))}
        highest = max((round(row["top1_mean"], 2) for row in rows), default=None)
        for row in rows:
            strong = len(rows) > 2 and round(row["top1_mean"], 2) == highest
            cell = spread(row["top1_mean"], row["top1_std"], n=row["n"], strong=strong)
            found[row["method"]] |= {ours: cell, theirs: marks.cell(row.get("published"))}
    rows = [
        Row({"method": Cell(method), **cells}, method, pinned=method == "teacher")
        for method, cells in found.items()
        if cells
    ]
    notes = [
        Note("ours: mean ± std (number of seeds) of top-1 at the last epoch, which is the result."),
        Note("Bold: the highest mean of a pair. Whether it is better than another is for the intervals to say."),
        Note("One teacher per pair, shared by all its methods and seeds: what another would give is not in the spread."),
        *marks.notes(),
    ]
    title = f"{summary['title']}: top-1 accuracy in percent, {summary['result']}"
    return Sheet("accuracy", title, tuple(columns), tuple(rows), tuple(notes)).used()


def claims_sheet(summary: dict[str, Any]) -> Sheet | None:
    """What holds over all pairs: each method against each baseline. None where nothing was compared."""
    rows = [
        Row(
            {
                "method": Cell(claim["method"]),
                "baseline": Cell(claim["baseline"]),
                "pairs": number(claim["pairs"], 0),
                "n": number(claim["n"], 0),
                "mean": interval(claim["mean"], claim["low"], claim["high"], tone=claim["verdict"]),
                "p": probability(claim["p"]),
                "holm": probability(claim["p_holm"]),
                "equivalence": probability(claim["p_equivalence"]),
                "detectable": number(claim["detectable"], 2),
                "verdict": Cell(claim["verdict"], tone=claim["verdict"]),
            },
            claim["method"],
        )
        for claim in summary["claims"]
    ]
    if not rows:
        return None
    columns = (
        METHOD,
        Column("baseline", "against", words=True),
        Column("pairs", "pairs", goes=3),
        Column("n", "n", goes=4),
        Column("mean", "difference [95 %]"),
        Column("p", "p", goes=1),
        Column("holm", "p, Holm", goes=6),
        Column("equivalence", "p, equivalent", goes=2),
        Column("detectable", "detectable", goes=5),
        Column("verdict", "verdict", words=True),
    )
    margin = summary.get("margin", MARGIN)
    notes = (
        Note("difference: points over the baseline in one model over pairs and seeds, with its 95 % interval."),
        Note("n: seeds, over all pairs, that both have.", "n"),
        Note("p, Holm: the p-value corrected for the number of methods that are compared.", "holm"),
        Note(f"p, equivalent: of the test that the difference lies outside ±{margin:g} points.", "equivalence"),
        Note("detectable: smallest true difference that these seeds find four times in five.", "detectable"),
        Note(f"equivalent: within ±{margin:g} points. undecided: neither that nor a difference could be shown."),
        Note("not powered: too few seeds for a verdict."),
    )
    verdicts = {claim["verdict"] for claim in summary["claims"]}
    shown = [note for note in notes if note.column or note.text.split(":")[0] in verdicts | {"difference"}]
    return Sheet("claims", f"{summary['title']}: over all pairs", columns, tuple(rows), tuple(shown)).used()


def tallies_sheet(summary: dict[str, Any]) -> Sheet | None:
    """Pairs that each method wins, ties and loses against the reference; None where the reference did not run."""
    tallies = summary["tallies"]
    names = ("wins", "ties", "losses", "pairs")
    rows = [
        Row({"method": Cell(method)} | {name: number(counts[name], 0) for name in names}, method)
        for method, counts in tallies["rows"].items()
    ]
    if not rows:
        return None
    columns = (METHOD, *(Column(name, name) for name in names))
    note = Note(f"Pair by pair against {tallies['reference']}, over the seeds that both have. A tie: no difference shown.")
    title = f"{summary['title']}: wins, ties and losses against {tallies['reference']}"
    return Sheet("tallies", title, columns, tuple(rows), (note,))


def failed_sheet(summary: dict[str, Any]) -> Sheet | None:
    """Cells that did not come to an end, and why; None where all did."""
    rows = [
        Row(
            {
                "method": Cell(cell["method"]),
                "pair": Cell(cell["pair"]),
                "seed": Cell(str(cell["seed"]), cell["seed"]),
                "error": Cell(cell["error"], tone="error"),
            },
            cell["method"],
        )
        for cell in summary["failed"]
    ]
    if not rows:
        return None
    words = (Column("pair", "pair", words=True), Column("seed", "seed"), Column("error", "error", words=True))
    note = Note("These cells are in no mean above; n says how many are.")
    return Sheet("failed", f"{summary['title']}: failed", (METHOD, *words), tuple(rows), (note,))


def probability(p: float | None) -> Cell:
    """Three digits, and no p-value of zero.

    >>> probability(0.0421).text, probability(1e-9).text
    ('0.042', '<0.001')
    """
    return EMPTY if p is None else Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)


def claim_sentences(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What holds over pairs, one plain sentence per claim: `{"method", "baseline", "verdict", "text"}`."""
    return [
        {"method": claim["method"], "baseline": claim["baseline"], "verdict": claim["verdict"], "text": _says(claim)}
        for claim in summary["claims"]
    ]


def _says(claim: dict[str, Any]) -> str:
    over = "the lone student" if claim["baseline"] == "student" else claim["baseline"]
    pairs = "1 pair" if claim["pairs"] == 1 else f"{claim['pairs']} pairs"
    mean, verdict = f"{claim['mean']:+z.2f}", claim["verdict"]
    between = "" if claim["low"] is None else f", 95 % interval {claim['low']:z.2f} to {claim['high']:z.2f}"
    if verdict == "undecided":
        least = "" if claim["detectable"] is None else f"; smallest detectable {claim['detectable']:.2f}"
        return f"no difference from {over} that {pairs} can show ({mean}{between}{least})"
    side = "over" if verdict == "better" else "against"
    return f"{mean} points {side} {over} on {pairs} ({claim['n']} seeds{between}), {verdict}"
