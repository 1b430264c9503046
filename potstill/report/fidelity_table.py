"""How like its teacher each student is, and how far its confidence can be trusted, as a table."""

from typing import Any

from potstill.report.sheet import Cell, Column, Note, Row, Sheet, number

COLUMNS = (
    Column("method", "method", words=True),
    Column("agreement", "agrees %"),
    Column("kl", "KL(teacher ‖ student)"),
    Column("cka", "CKA"),
    Column("ece", "ECE %"),
    Column("nll", "NLL"),
)
NOTES = (
    Note("The first seed of each method, on the validation images."),
    Note("agrees: share of images where student and teacher give the same answer.", "agreement"),
    Note("KL: in nats, at temperature 1.", "kl"),
    Note("CKA: linear, between the two embeddings; 1 where they agree up to rotation and scale.", "cka"),
    Note("ECE: expected calibration error over 15 bins of equal width; NLL: mean cross-entropy, in nats.", "ece"),
)


def fidelity_sheet(summary: dict[str, Any]) -> Sheet | None:
    """From a run's `fidelity`; None where it has none."""
    found = summary.get("fidelity") or {}
    if not found:
        return None
    first = next(iter(found.values()))
    teacher = {
        "method": Cell("teacher"),
        "ece": number(first["teacher_ece"], 1),
        "nll": number(first["teacher_nll"], 2),
    }
    rows = [Row(teacher, "teacher", pinned=True)]
    for method, values in found.items():
        cells = {
            "agreement": number(values["agreement"], 1),
            "kl": number(values["kl"], 3),
            "cka": number(values["cka"], 3),
            "ece": number(values["ece"], 1),
            "nll": number(values["nll"], 2),
        }
        rows.append(Row({"method": Cell(method), **cells}, method))
    return Sheet("fidelity", "How like the teacher", COLUMNS, tuple(rows), NOTES).used()
