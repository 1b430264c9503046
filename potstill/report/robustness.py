"""Figures of `robustness.json`: accuracy under attack, on corrupted images, and corruption by corruption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

import altair as alt

from potstill.evaluation.statistics import mean_std
from potstill.report import figures
from potstill.report.figures import GREY, Chart, as_csv, finish, per, tip
from potstill.report.sections import Figure, Section

TEACHER = "teacher"
_BY_CELL = 44
"""Pixels a cell needs for its number."""


def sections(table: dict[str, Any]) -> list[Section]:
    """What can be drawn of a table of the suite; a figure without values is left out."""
    made = [*_attacks(table), *_severities(table), *_heat_map(table)]
    return [section for section in made if section.figures]


def _attacks(table: dict[str, Any]) -> Iterator[Section]:
    options = table["options"]
    for key, name in (("fgsm", "FGSM"), ("pgd", f"PGD-{options['steps']}")):
        places = {0.0: "clean"} | {_number(text): f"{key}_{text}" for text in options["epsilons"]}
        lines = {
            method: {255 * place: [one[column] for one in values] for place, column in sorted(places.items())}
            for method, values in _networks(table)
            if all(one.get(column) is not None for one in values for column in places.values())
        }
        hint = (
            "An attack may move every pixel by ε. Lines are means over seeds, bands ± a standard deviation. Click "
            "names to pick methods, click again to let go."
        )
        chart = [Figure(f"attack-{key}", "", "", _lines(table, lines, "ε, in 255ths", "top-1 %"))] if lines else []
        yield Section(f"attack-{key}", f"Under attack: {name}", hint, "wide", chart)


def _severities(table: dict[str, Any]) -> Iterator[Section]:
    lines = {}
    for method, values in _networks(table):
        known = [one["corruptions"] for one in values if one.get("corruptions")]
        if known:
            clean = {0.0: [one["clean"] for one in values if one.get("corruptions")]}
            lines[method] = clean | {
                float(place + 1): [fmean(levels[place] for levels in one.values()) for one in known]
                for place in range(len(next(iter(known[0].values()))))
            }
    hint = "Mean over 15 natural corruptions; severity 0 is the image as it is. Bands are ± a standard deviation."
    chart = [Figure("severity", "", "", _lines(table, lines, "severity", "top-1 %"))] if lines else []
    yield Section("severity", "On corrupted images", hint, "wide", chart)


def _heat_map(table: dict[str, Any]) -> Iterator[Section]:
    rows = []
    for method, values in _networks(table):
        known = [one["corruptions"] for one in values if one.get("corruptions")]
        for name in known[0] if known else ():
            reached = [fmean(one[name]) for one in known]
            rows.append({"method": method, "corruption": name.replace("_", " "), "value": round(fmean(reached), 2)})
    hint = "Top-1 accuracy in percent, mean over five severities and all seeds."
    chart = [Figure("corruptions", "", "", _cells(rows))] if rows else []
    yield Section("corruptions", "Corruption by corruption", hint, "wide", chart)


def _networks(table: dict[str, Any]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """The teacher, then each method with what was measured of its seeds."""
    if table["teacher"]:
        yield TEACHER, [table["teacher"]]
    for row in table["rows"]:
        yield row["method"], row["values"]


def _lines(table: dict[str, Any], lines: Mapping[str, Mapping[float, list[float]]], x: str, y: str) -> Chart:
    rows = []
    for method, points in lines.items():
        for place, values in points.items():
            mean, std = mean_std(values)
            row = {"line": method, "x": place, "value": mean, "low": mean - (std or 0), "high": mean + (std or 0)}
            rows.append({key: v if isinstance(v, str) else round(v, 3) for key, v in row.items()} | {"n": len(values)})
    names = list(lines)
    methods = [name for name in names if name != TEACHER]
    shades = figures.colours(methods, table["baseline"]) | {TEACHER: GREY}
    patterns = figures.dashes(methods, table["baseline"]) | {TEACHER: [5, 4]}
    legend = alt.Legend(
        **{"orient": "top", "columns": per(60 + 7 * min(max(map(len, names)), 24)), "title": None, "labelLimit": 175},
        **{"symbolType": "stroke", "symbolSize": 300, "symbolOpacity": 1, "symbolStrokeWidth": 2.5},
    )
    domain = alt.Scale(domain=names, range=[shades[name] for name in names])
    dashed = alt.Scale(domain=names, range=[patterns[name] for name in names])
    pick = alt.selection_point(name="pick", fields=["line"], bind="legend", toggle="true")
    ticks = sorted({place for points in lines.values() for place in points})
    base: Any = alt.Chart(as_csv(rows)).encode(
        x=alt.X("x:Q", title=x, axis=alt.Axis(values=ticks, grid=False, format="~g"), scale=alt.Scale(nice=False)),
        color=alt.Color("line:N", scale=domain, legend=legend),
    )
    value = alt.Y("value:Q", title=y, scale=alt.Scale(zero=False))

    def shown(much: float, little: float) -> Any:
        return alt.when(pick).then(alt.value(much)).otherwise(alt.value(little))

    band = base.mark_area().encode(y=alt.Y("low:Q", title=y), y2="high:Q", opacity=shown(0.13, 0.0))
    line = base.mark_line(strokeWidth=2.5).encode(
        y=value, strokeDash=alt.StrokeDash("line:N", scale=dashed, legend=legend), opacity=shown(1, 0.06)
    )
    point = base.mark_circle(size=50).encode(
        y=value,
        opacity=shown(1, 0.0),
        tooltip=[
            alt.Tooltip("line:N", title="name", formatType="toString", format="as is"),
            tip("x", x, "~g"),
            tip("value", "mean"),
            tip("low", "mean − std"),
            tip("high", "mean + std"),
            alt.Tooltip("n:Q", title="networks"),
        ],
    )
    return finish(alt.layer(band, line.add_params(pick), point), 300)


def _cells(rows: list[dict[str, Any]]) -> Chart:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    names = list(dict.fromkeys(row["corruption"] for row in rows))
    values = [row["value"] for row in rows]
    middle = (min(values) + max(values)) / 2
    label: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 130}
    base: Any = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("corruption:N", sort=names, title=None, axis=alt.Axis(labelAngle=-40, **label)),
        y=alt.Y("method:N", sort=methods, title=None, axis=alt.Axis(**label)),
        tooltip=["method:N", "corruption:N", tip("value", "top-1 %")],
    )
    scale = alt.Scale(scheme="blues", domain=[min(values), max(values)])
    cell = base.mark_rect(aria=False).encode(color=alt.Color("value:Q", scale=scale, legend=None))
    narrow = f"width < {_BY_CELL * len(names)} ? 0 : 1"
    text = base.mark_text(fontSize=12, opacity=alt.ExprRef(expr=narrow), aria=False).encode(
        text=alt.Text("value:Q", format=".1f"),
        color=alt.condition(alt.datum.value > middle, alt.value("white"), alt.value("#1d2126")),
    )
    return finish(alt.layer(cell, text), 30 * len(methods))


def _number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)
