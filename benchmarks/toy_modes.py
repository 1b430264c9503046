"""What each divergence makes of a teacher with more modes than its student can have: coverage, entropy and both KLs.

The teacher is a mixture of Gaussians on a grid (a vocabulary with an order), the student one of fewer Gaussians, whose
logits are the logarithm of its density there. Centres, widths and weights of the teacher are drawn anew for each seed.
Students are fitted by Adam on the exact loss, and of eight starts, from narrow to wide, the one with the lowest loss is
kept: what is told is the divergence, not the optimizer. A mode counts as covered when the student gives its
neighbourhood (two deviations) at least a fifth of what the teacher gives it; `between` is the student's mass further
than three deviations from every mode.

    OMP_NUM_THREADS=1 python benchmarks/toy_modes.py --json benchmarks/results/toy_modes.json \
        --picture docs/results/toy_modes.svg
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import torch
import tyro
from torch import Tensor

from potstill.functional import kl
from potstill.methods import parse
from potstill.objectives import OBJECTIVES
from potstill.report.figures import GREY, PALETTE
from potstill.runs import environment
from potstill.terms import Spec

Row = dict[str, Any]
USUAL = ("forward_kl", "reverse_kl", "symmetric_kl", "jsd(beta=0.1)", "jsd", "jsd(beta=0.9)", "skew_kl")
USUAL += ("skew_reverse_kl", "tvd", "akl")
DRAWN = ("forward_kl", "reverse_kl", "jsd", "tvd")
STARTS = 8
MEASURES = ("covered", "between", "entropy", "forward_kl", "reverse_kl")


@dataclass
class Arguments:
    """Fit mixtures with few modes to mixtures with many."""

    objectives: tuple[str, ...] = tuple(name for name in USUAL if name.partition("(")[0] in OBJECTIVES)
    """Divergences, as method strings write them."""
    seeds: int = 10
    modes: int = 5
    students: tuple[int, ...] = (1, 2)
    """Numbers of Gaussians that a student has."""
    points: int = 150
    """Of the grid."""
    steps: int = 600
    lr: float = 0.03
    json: Path | None = None
    picture: Path | None = None


@dataclass(frozen=True)
class Mixture:
    """Mixtures of Gaussians, one a row: logits of the weights, centres, and logarithms of the deviations, `[S, M]`."""

    weights: Tensor
    centres: Tensor
    deviations: Tensor

    def on(self, grid: Tensor) -> Tensor:
        """Log-probabilities `[S, V]`."""
        scaled = (grid[None, :, None] - self.centres[:, None]) / self.deviations.exp()[:, None]
        each = self.weights.log_softmax(1)[:, None] - self.deviations[:, None] - scaled.square() / 2
        return each.logsumexp(2).log_softmax(1)


def teachers(seeds: int, modes: int) -> Mixture:
    """Modes that are apart: one in each part of [0, 1], none of them rare."""
    generator = torch.Generator().manual_seed(0)
    place, weight, width = torch.rand(3, seeds, modes, generator=generator, dtype=torch.float64)
    centres = (torch.arange(modes) + 0.3 + 0.4 * place) / modes
    return Mixture((0.5 + weight).log(), centres, (0.012 + 0.008 * width).log())


def beginners(seeds: int, parts: int) -> Mixture:
    """Students before their first step: anywhere, and from narrow to wide."""
    generator = torch.Generator().manual_seed(parts)
    centres = torch.rand(seeds, parts, generator=generator, dtype=torch.float64)
    widths = torch.linspace(math.log(0.02), math.log(0.2), STARTS, dtype=torch.float64).repeat(seeds // STARTS)
    return Mixture(torch.zeros_like(centres), centres, widths[:, None].expand_as(centres))


def fitted(name: str, teacher: Tensor, parts: int, grid: Tensor, steps: int, lr: float) -> Tensor:
    """What the students of a divergence say in the end, each the best of its starts; the step size falls to nothing."""
    (term,) = (term for term in parse(f"ce:0+{name}:1").terms if term.label != "ce")
    assert isinstance(term.objective, Spec)
    objective, heard = term.objective.target(**dict(term.objective.kwargs)), teacher.repeat_interleave(STARTS, 0)
    first = beginners(len(heard), parts)
    free = [value.clone().requires_grad_() for value in (first.weights, first.centres, first.deviations)]
    student, optimizer = Mixture(*free), torch.optim.Adam(free, lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(student.on(grid), heard).sum().backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        said = student.on(grid)
        best = objective(said, heard).view(-1, STARTS).argmin(1)
    return said.view(-1, STARTS, len(grid))[torch.arange(len(teacher)), best]


def measured(student: Tensor, teacher: Tensor, about: Mixture, grid: Tensor) -> dict[str, Tensor]:
    """What is told of each student `[S]`, from log-probabilities `[S, V]`."""
    distance = (grid[None, :, None] - about.centres[:, None]).abs() / about.deviations.exp()[:, None]
    q, p = student.exp(), teacher.exp()
    mine, theirs = (torch.einsum("sv,svm->sm", one, (distance <= 2).to(one)) for one in (q, p))
    return {
        "covered": (mine >= 0.2 * theirs).double().sum(1),
        "between": 100 * (q * (distance > 3).all(2)).sum(1),
        "entropy": -(q * student).sum(1),
        "forward_kl": kl(teacher, student),
        "reverse_kl": kl(student, teacher),
    }


def main(arguments: Arguments) -> None:
    grid = torch.linspace(0, 1, arguments.points, dtype=torch.float64)
    about = teachers(arguments.seeds, arguments.modes)
    teacher = about.on(grid)
    rows, drawn = [], [density(teacher, grid, "teacher", parts) for parts in arguments.students]
    for parts in arguments.students:
        for name in arguments.objectives:
            student = fitted(name, teacher, parts, grid, arguments.steps, arguments.lr)
            found = measured(student, teacher, about, grid)
            each = {key: [round(value, 4) for value in values.tolist()] for key, values in found.items()}
            rows.append({"gaussians": parts, "objective": name, "each": each})
            drawn.append(density(student, grid, name, parts))
    entropy = -(teacher.exp() * teacher).sum(1)
    told = {key: value for key, value in vars(arguments).items() if key not in ("json", "picture")}
    told |= {"teacher_entropy": [round(value, 4) for value in entropy.tolist()]}
    print(f"teacher: {arguments.modes} modes, entropy {entropy.mean():.2f}; {arguments.seeds} seeds\n")
    print("\n".join(table(rows)))
    if arguments.json is not None:
        found = {"date": time.strftime("%Y-%m-%d"), **told, "environment": environment(), "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
    if arguments.picture is not None:
        picture(drawn, arguments.students).save(arguments.picture)


def table(rows: list[Row]) -> list[str]:
    """Markdown: a line a student and divergence, mean ± standard deviation over seeds."""
    lines = [
        "| student | objective | modes covered | mass between, % | entropy | KL(teacher ‖ student) "
        "| KL(student ‖ teacher) |"
    ]
    lines += ["| :-- | :-- | --: | --: | --: | --: | --: |"]
    for row in rows:
        cells = []
        for key in MEASURES:
            values = torch.tensor(row["each"][key], dtype=torch.float64)
            spread = values.std().item() if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.2f} ± {spread:.2f}")
        plural = "Gaussian" if row["gaussians"] == 1 else "Gaussians"
        lines += [f"| {row['gaussians']} {plural} | {row['objective']} | {' | '.join(cells)} |"]
    return lines


def density(logarithms: Tensor, grid: Tensor, name: str, parts: int) -> list[Row]:
    """The first seed's curve."""
    values = (logarithms[0].exp() * len(grid)).tolist()
    return [
        {"x": round(x, 4), "density": round(value, 3), "line": name, "gaussians": parts}
        for x, value in zip(grid.tolist(), values, strict=True)
    ]


def picture(drawn: list[list[Row]], students: tuple[int, ...]) -> alt.VConcatChart:
    """The first seed: the teacher grey, a student a panel."""
    panels = []
    for parts in students:
        curves = {rows[0]["line"]: rows for rows in drawn if rows[0]["gaussians"] == parts}
        teacher = alt.InlineData(values=curves["teacher"])
        row = []
        for place, name in enumerate(name for name in DRAWN if name in curves):
            first = place == 0
            title = f"{parts} Gaussian{'s' if parts > 1 else ''}, density" if first else None
            x = alt.X("x:Q", title=None, axis=alt.Axis(values=[], domainColor=GREY))
            highest = max(value["density"] for rows in curves.values() for value in rows if rows[0]["line"] in DRAWN)
            y = alt.Y(
                "density:Q", title=title, axis=alt.Axis(values=[0, 1, 5, 20], labels=first, ticks=first, domain=False)
            )
            y = y.scale(type="sqrt", domain=[0, highest])  # a narrow student is much higher than the teacher
            area = alt.Chart(teacher).mark_area(color=GREY, opacity=0.35).encode(x=x, y=y)
            line = alt.Chart(alt.InlineData(values=curves[name])).mark_line(color=PALETTE[place], strokeWidth=2)
            layers = alt.layer(area, line.encode(x=x, y=y))
            heading = alt.Title(name if parts == students[0] else "", fontSize=13, fontWeight="normal")
            row.append(layers.properties(width=170, height=110, title=heading))
        panels.append(alt.hconcat(*row, spacing=8))
    return (
        alt.vconcat(*panels, spacing=8, background="white")
        .configure(font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridOpacity=0.5)
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
