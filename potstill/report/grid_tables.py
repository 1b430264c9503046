"""The tables of a grid: methods by pairs, what holds over pairs, wins and losses, and what failed."""

from dataclasses import replace
from typing import Any

from potstill.evaluation.claims import MARGIN
from potstill.evaluation.statistics import MINIMUM_PAIRS
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
)
from potstill.report.tables import accuracy, trained_classifier

METHOD = Column("method", "method", words=True)


def methods(summary: dict[str, Any]) -> list[str]:
    """Every method of a grid, in order of first appearance over its pairs."""
    return list(dict.fromkeys(row["method"] for pair in summary["pairs"] for row in pair["summary"]["rows"]))


def accuracy_sheets(summary: dict[str, Any], across: int) -> list[Sheet]:
    """The main table in parts, at most `across` pairs side by side."""
    whole = accuracy_sheet(summary)
    pairs = list(dict.fromkeys(column.group for column in whole.columns if column.group))
    blocks = [pairs[start : start + across] for start in range(0, len(pairs), across)]
    if len(blocks) < 2:
        return [whole]
    parts = [whole.only(lambda column, block=block: not column.group or column.group in block) for block in blocks]
    return [replace(part, key=f"{part.key}{place}") for place, part in enumerate(parts, 1)]


def accuracy_sheet(summary: dict[str, Any]) -> Sheet:
    """The main table of a paper: a row per method, a column per pair, published numbers in a column of their own.

    Cells are mean ± standard deviation (number of seeds).
    """
    marks, columns = Marks(), [METHOD]
    found: dict[str, dict[str, Cell]] = {"teacher": {}} | {method: {} for method in methods(summary)}
    for place, pair in enumerate(summary["pairs"]):
        ours, theirs = f"ours{place}", f"published{place}"
        columns += [Column(ours, "ours", group=pair["pair"]), Column(theirs, "published", group=pair["pair"])]
        teacher, rows = pair["summary"].get("teacher") or {}, pair["summary"]["rows"]
        found["teacher"] |= {ours: number(teacher.get("top1"), 2), theirs: marks.cell(teacher.get("published"))}
        highest = max((round(row["top1_mean"], 2) for row in rows if trained_classifier(row)), default=None)
        for row in rows:
            best = len(rows) > 2 and trained_classifier(row) and round(row["top1_mean"], 2) == highest
            cell = accuracy(row, n=row["n"], strong=best)
            found[row["method"]] |= {ours: cell, theirs: marks.cell(row.get("published"))}
    rows = [
        Row({"method": Cell(method), **cells}, method, pinned=method == "teacher")
        for method, cells in found.items()
        if cells
    ]
    notes = [
        Note("ours: mean ± std (number of seeds) of top-1 at the last epoch, which is the result."),
        Note("Bold: the highest mean of a pair. Whether it is better than another is for the intervals to say."),
        Note(
            "One teacher per pair, shared by all its methods and seeds: what another would give is not in the spread."
        ),
        *marks.notes(),
    ]
    title = f"{summary['title']}: top-1 accuracy in percent, {summary['result']}".removeprefix(": ")
    return Sheet("accuracy", title, tuple(columns), tuple(rows), tuple(notes)).used()


def claims_sheet(summary: dict[str, Any]) -> Sheet | None:
    """What holds over all pairs: each method against each baseline. None where nothing was compared."""
    claims = summary.get("claims") or []
    if not claims:
        return None
    columns = (
        METHOD,
        Column("baseline", "against", words=True),
        Column("pairs", "pairs", goes=3),
        Column("n", "n", goes=4),
        Column("mean", "difference [95 %]"),
        Column("random", "random pairs [95 %]", goes=1),
        Column("holm", "p, Holm", goes=6),
        Column("equivalence", "p, equivalent", goes=2),
        Column("detectable", "detectable", goes=5),
        Column("verdict", "verdict", words=True),
    )
    text = f"{summary['title']}: over all pairs".removeprefix(": ")
    return Sheet("claims", text, columns, tuple(map(_claim, claims)), tuple(_claim_notes(summary))).used()


def _claim(claim: dict[str, Any]) -> Row:
    equivalence = claim["p_equivalence_holm"]
    cells = {
        "method": Cell(claim["method"]),
        "baseline": Cell(claim["baseline"]),
        "pairs": number(claim["pairs"], 0),
        "n": number(claim["n"], 0),
        "mean": interval(claim["mean"], claim["low"], claim["high"], tone=claim["verdict"]),
        "random": _between(claim["low_random"], claim["high_random"]),
        "holm": probability(claim["p_holm"]),
        "equivalence": probability(equivalence),
        "detectable": number(claim["detectable"], 2),
        "verdict": Cell(claim["verdict"], tone=claim["verdict"]),
    }
    return Row(cells, claim["method"])


def _claim_notes(summary: dict[str, Any]) -> list[Note]:
    claims, margin = summary["claims"], f"±{margin_of(summary):g} points"
    verdicts = {claim["verdict"] for claim in claims}
    missing = [f"{claim['method']} on {', '.join(claim['missing'])}" for claim in claims if claim["missing"]]
    words = {
        "equivalent": f"shown to lie within {margin}, which were fixed beforehand as the least that matters.",
        "undecided": f"shown neither to differ nor to lie within {margin}.",
        "not powered": f"a verdict needs {MINIMUM_PAIRS} seeds in every pair.",
    }
    notes = [
        Note("difference: points over the baseline, mean over these pairs, each counted once, and its 95 % interval."),
        Note("n: differences between two students of one seed, over all pairs.", "n"),
        Note("random pairs: the interval for pairs that are a random sample of all; from three on.", "random"),
        Note("p, Holm: of no difference, corrected for the number of methods.", "holm"),
        Note(f"p, equivalent: of a difference of at least {margin}, corrected likewise.", "equivalence"),
        Note("detectable: smallest true difference that a grid of this size finds four times in five.", "detectable"),
        *(Note(f"{verdict}: {text}") for verdict, text in words.items() if verdict in verdicts),
    ]
    if missing:
        notes.append(Note(f"Without a result: {'; '.join(dict.fromkeys(missing))}."))
    return notes


def _between(low: float | None, high: float | None) -> Cell:
    return EMPTY if low is None or high is None else Cell(f"[{low:z.2f}, {high:z.2f}]", low)


def margin_of(summary: dict[str, Any]) -> float:
    """Points within which a method counts as equivalent."""
    return next((claim["margin"] for claim in summary.get("claims") or []), MARGIN)


def tallies_sheet(summary: dict[str, Any]) -> Sheet | None:
    """Pairs that each method wins, ties and loses against the reference; None where nothing was compared with it."""
    tallies = summary.get("tallies") or {}
    rows = [
        Row({"method": Cell(method)} | {name: number(count, 0) for name, count in counts.items()}, method)
        for method, counts in (tallies.get("rows") or {}).items()
    ]
    if not rows:
        return None
    columns = (METHOD, *(Column(name, name) for name in ("wins", "ties", "losses", "unpowered", "pairs")))
    notes = (
        Note(
            f"wins, losses: pairs where the paired 95 % interval against {tallies['reference']} lies above 0, below 0."
        ),
        Note("ties: pairs where it does not, which does not show that the two are equal."),
        Note(f"unpowered: pairs with fewer than {MINIMUM_PAIRS} seeds in common.", "unpowered"),
        Note("A tally describes and is not corrected: of pairs without a difference one in 20 is a win or a loss."),
    )
    title = f"{summary['title']}: wins, ties and losses against {tallies['reference']}".removeprefix(": ")
    return Sheet("tallies", title, columns, tuple(rows), notes).used()


def failed_sheet(summary: dict[str, Any]) -> Sheet | None:
    """Cells that did not come to an end, and why; None where all did."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for cell in summary["failed"]:
        alike.setdefault((cell["method"], cell["pair"], cell["error"]), []).append(cell["seed"])
    rows = [
        Row(
            {
                "method": Cell(method),
                "pair": Cell(pair),
                "seeds": Cell(", ".join(map(str, sorted(seeds))), min(seeds)),
                "error": Cell(error, tone="error"),
            },
            method,
        )
        for (method, pair, error), seeds in alike.items()
    ]
    if not rows:
        return None
    words = (Column("pair", "pair", words=True), Column("seeds", "seeds"), Column("error", "error", words=True))
    note = Note("These cells are in no mean above; n says how many are.")
    return Sheet("failed", f"{summary['title']}: failed".removeprefix(": "), (METHOD, *words), tuple(rows), (note,))


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
        for claim in summary.get("claims") or []
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
    return f"{mean} points {side} {over} on {pairs} ({claim['n']} runs{between}), {verdict}"
