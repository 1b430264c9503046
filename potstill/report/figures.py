"""Figures of a comparison with Altair. Every method keeps one colour and one dash pattern in all of them.

The colours are those of Okabe and Ito, *Color Universal Design* (2008), without black and yellow, which
vanish on a light or a dark page; the baseline is grey. Beyond six methods colours repeat with other dashes.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from potstill.evaluation.statistics import mean_std

GREY = "#8a8a8a"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
Chart = alt.Chart | alt.LayerChart
Record = dict[str, Any]


def colours(methods: Sequence[str], baseline: str) -> dict[str, str]:
    """The colour of each method.

    >>> colours(["student", "kd"], "student")
    {'student': '#8a8a8a', 'kd': '#0072B2'}
    """
    others = [method for method in methods if method != baseline]
    found = {method: PALETTE[place % len(PALETTE)] for place, method in enumerate(others)}
    return {method: found.get(method, GREY) for method in methods}


def dashes(methods: Sequence[str], baseline: str) -> dict[str, list[int]]:
    """The dash pattern of each method: solid until the colours repeat."""
    others = [method for method in methods if method != baseline]
    found = {method: _DASHES[place // len(PALETTE) % len(_DASHES)] for place, method in enumerate(others)}
    return {method: found.get(method, _DASHES[0]) for method in methods}


def accuracy_curves(summary: dict[str, Any], records: Sequence[Record]) -> Chart | None:
    """Accuracy over epochs: the mean of each method, its seeds faint, the teacher dashed.

    `records` are the rows of the cells' metrics with `method` and `seed` added. A click on the legend picks
    methods. None where no row has an accuracy; likewise for the figures below.
    """
    return over_epochs(summary, records, "top1", "top-1 %", (summary.get("teacher") or {}).get("top1"))


def agreement_curves(summary: dict[str, Any], records: Sequence[Record]) -> Chart | None:
    """Agreement with the teacher over epochs, drawn as the accuracy is."""
    return over_epochs(summary, records, "agreement", "agreement %", None)


def term_curves(summary: dict[str, Any], records: Sequence[Record], method: str) -> Chart | None:
    """The loss terms of one method over epochs, as logged; a term named as a method has its colour."""
    methods = [row["method"] for row in summary["rows"]]
    found: list[Record] = [
        {"line": term, "seed": record["seed"], "epoch": record["epoch"], "value": _short(value)}
        for record in records
        if record["method"] == method
        for term, value in (record.get("terms") or {}).items()
        if _drawable(value)
    ]
    terms: list[str] = list(dict.fromkeys(record["line"] for record in found))
    if not terms:
        return None
    known = colours(methods, summary["baseline"])
    spare = [colour for colour in PALETTE if colour not in {known.get(term) for term in terms}]
    free = [term for term in terms if term not in known and term != "ce"]
    chosen = {term: spare[place % len(spare)] for place, term in enumerate(free)}
    shades = {term: chosen.get(term) or known.get(term, GREY) for term in terms}
    values = [record["value"] for record in found]
    log = min(values) > 0 and max(values) > 20 * min(values)
    solid = dict.fromkeys(terms, _DASHES[0])
    title = "loss (log scale)" if log else "loss"
    return _curves(found, title, shades, solid, log=log, height=190, digits=".3~g")


def final_accuracy(summary: dict[str, Any]) -> Chart | None:
    """Accuracy at the last epoch: a point per seed, mean ± standard deviation, the teacher as a rule."""
    return _dots(summary, "top1", "top-1 %, last epoch", (summary.get("teacher") or {}).get("top1"))


def final_agreement(summary: dict[str, Any]) -> Chart | None:
    """Agreement with the teacher at the last epoch, drawn as the accuracy is."""
    return _dots(summary, "agreement", "agreement %, last epoch", None)


def over_epochs(
    summary: dict[str, Any], records: Sequence[Record], key: str, title: str, teacher: float | None
) -> Chart | None:
    """What the records hold under `key`, over epochs, a line for each method."""
    untrained = {row["method"] for row in summary["rows"] if not row.get("classifies", True)}
    found = [
        {
            "line": record["method"],
            "seed": record["seed"],
            "epoch": record["epoch"],
            "value": _short(record[key]),
        }
        for record in records
        if _drawable(record.get(key)) and record["method"] not in untrained
    ]
    drawn = {record["line"] for record in found}
    methods = [row["method"] for row in summary["rows"]]
    shades = {m: c for m, c in colours(methods, summary["baseline"]).items() if m in drawn}
    patterns = dashes(methods, summary["baseline"])
    return _curves(found, title, shades, patterns, rule=teacher) if found else None


def _curves(
    found: list[Record],
    title: str,
    shades: dict[str, str],
    patterns: dict[str, list[int]],
    *,
    rule: float | None = None,
    log: bool = False,
    height: int = 320,
    digits: str = ".2f",
) -> Chart:
    means = _means(found)
    names = list(shades)
    epochs = len({record["epoch"] for record in found})
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    letters = min(max(len(name) for name in names), 24)
    legend = alt.Legend(
        **{"orient": "top", "columns": per(60 + 7 * letters), "title": None, "labelLimit": 175},
        **{"symbolType": "stroke", "symbolSize": 300, "symbolOpacity": 1, "symbolStrokeWidth": 2.5},
    )
    x = alt.X(
        "epoch:Q",
        title="epoch",
        axis=alt.Axis(tickMinStep=1, tickCount=per(70), format="d", grid=False),
        scale=alt.Scale(nice=False),
    )
    y = alt.Y("value:Q", title=title, scale=scale)
    domain = alt.Scale(domain=names, range=list(shades.values()))
    colour = alt.Color("line:N", scale=domain, legend=legend)
    dash = alt.StrokeDash(
        "line:N", scale=alt.Scale(domain=names, range=[patterns[name] for name in names]), legend=legend
    )
    pick = alt.selection_point(name="pick", fields=["line"], bind="legend", toggle="true")
    near = alt.selection_point(
        name="near", fields=["line", "epoch"], on="pointerover", clear="pointerout", nearest=True, empty=False
    )
    base: Any = alt.Chart(as_csv(means)).encode(x=x, y=y, color=colour)
    mean = base.mark_line(strokeWidth=2.5).encode(
        strokeDash=dash, opacity=alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.06))
    )
    many = any(record["n"] > 1 for record in means)
    tips = [
        # toString, because Vega-Lite 6 reads plain names from the wrong place where the nearest point is picked
        alt.Tooltip("line:N", title="name", formatType="toString", format="as is"),
        alt.Tooltip("epoch:Q"),
        tip("value", "mean" if many else title, digits),
    ]
    if many:
        tips += [tip("low", "lowest seed", digits), tip("high", "highest seed", digits)]
        tips.append(alt.Tooltip("n:Q", title="seeds"))
    rest = 0.9 if epochs <= 12 else 0.0
    points = base.mark_circle(size=45).encode(
        opacity=alt.when(near & pick).then(alt.value(1)).when(pick).then(alt.value(rest)).otherwise(alt.value(0)),
        tooltip=tips,
    )
    layers: list[Chart] = [mean.add_params(pick), points.add_params(near)]
    if many:
        seeds: Any = alt.Chart(as_csv(found)).mark_line(strokeWidth=1)
        faint = alt.when(pick).then(alt.value(0.22)).otherwise(alt.value(0.02))
        layers.insert(0, seeds.encode(x=x, y=y, color=colour, detail="seed:N", opacity=faint))
    if rule is not None:
        layers += _teacher_rule("y", rule)
    return finish(alt.layer(*layers), height)


def _dots(summary: dict[str, Any], key: str, title: str, teacher: float | None) -> Chart | None:
    points, spreads = [], []
    for row in summary["rows"]:
        pairs = zip(row["seeds"], row.get(key) or [], strict=False)
        known = [(seed, value) for seed, value in pairs if value is not None]
        if not known:
            continue
        mean, std = mean_std([value for _, value in known])
        points += [{"method": row["method"], "seed": seed, "value": value} for seed, value in known]
        spread = {"method": row["method"], "mean": mean, "std": std, "n": len(known)}
        spreads.append({**spread, "low": mean - (std or 0), "high": mean + (std or 0)})
    if not points:
        return None
    methods = [row["method"] for row in summary["rows"]]
    shades = colours(methods, summary["baseline"])
    drawn = [spread["method"] for spread in spreads]
    domain = alt.Scale(domain=drawn, range=[shades[method] for method in drawn])
    y = alt.Y("method:N", sort=drawn, title=None, axis=alt.Axis(labelLimit=130, ticks=False, domain=False))
    colour = alt.Color("method:N", scale=domain, legend=None)
    means: Any = alt.Chart(alt.InlineData(values=spreads))
    tips = [
        alt.Tooltip("method:N"),
        tip("mean", "mean"),
        tip("std", "std"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    axis = alt.Axis(tickCount=per(80))
    x = alt.X("low:Q", title=title, axis=axis, scale=alt.Scale(zero=False, padding=12))
    seeds: Any = alt.Chart(alt.InlineData(values=points)).mark_circle(size=60, opacity=0.45)
    layers: list[Chart] = [
        means.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", y=y, color=colour),
        seeds.encode(x="value:Q", y=y, color=colour, tooltip=["method:N", "seed:N", tip("value", title)]),
        means.mark_tick(thickness=3, size=18).encode(x="mean:Q", y=y, color=colour, tooltip=tips),
    ]
    if teacher is not None:
        layers += _teacher_rule("x", teacher)
    return finish(alt.layer(*layers), 34 * len(drawn) + 20)


def _teacher_rule(axis: str, value: float) -> list[Chart]:
    base: Any = alt.Chart(alt.InlineData(values=[{"teacher": value, "name": f"teacher {value:.1f}"}]))
    rule = base.mark_rule(strokeDash=[5, 4], color=GREY, strokeWidth=1.5)
    if axis == "x":
        text = base.mark_text(color=GREY, align="right", dx=-5, baseline="top", y=2)
        return [layer.encode(x="teacher:Q") for layer in (rule.encode(tooltip="name:N"), text.encode(text="name:N"))]
    text = base.mark_text(color=GREY, align="left", baseline="bottom", dy=-3, x=4)
    return [layer.encode(y="teacher:Q") for layer in (rule.encode(tooltip="name:N"), text.encode(text="name:N"))]


def tip(field: str, title: str, digits: str = ".2f") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=title, format=digits)


def _drawable(value: float | None) -> bool:
    """A diverged run logs NaN: it is left out of the curves, as an epoch without the value is."""
    return value is not None and math.isfinite(value)


def _short(value: float) -> float:
    """Six digits: more cannot be seen, and every digit of every epoch is in the page."""
    return float(f"{value:.6g}")


def per(pixels: int) -> alt.ExprRef:
    """As many as fit the width that the reader has, at so many pixels each."""
    # the container's width and not the chart's, which a legend of other height would change in turn
    return alt.ExprRef(expr=f"max(1, floor((containerSize()[0] || width) / {pixels}))")


def as_csv(records: list[Record]) -> alt.InlineData:
    """Records as text: Altair copies and validates lists row by row, which takes seconds for long runs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    parse = {key: "string" if key == "line" else "number" for key in records[0]}
    return alt.InlineData(values=text.getvalue(), format=alt.CsvDataFormat(type="csv", parse=parse))


def _means(found: list[Record]) -> list[Record]:
    groups: dict[tuple[str, int], list[float]] = {}
    for record in found:
        groups.setdefault((record["line"], record["epoch"]), []).append(record["value"])
    return [
        {
            "line": line,
            "epoch": epoch,
            "value": _short(mean_std(values)[0]),
            **{"low": min(values), "high": max(values), "n": len(values)},
        }
        for (line, epoch), values in groups.items()
    ]


def finish(chart: Any, height: int | str) -> alt.LayerChart:
    """The size, type and colours that every figure has; `height` may be "container" too."""
    font = "system-ui, sans-serif"
    return (
        chart.properties(width="container", height=height, background="transparent")
        .configure(font=font, customFormatTypes=True)
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridOpacity=0.5)
        .configure_legend(labelFontSize=12)
    )
