"""Figures of what teacher and students answer: heat maps over classes, t-SNE maps, calibration.

Every function draws arrays that `potstill.evaluation.behaviour` computes; the style is that of `figures`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from potstill.evaluation.maps import FIRST, Map
from potstill.report.figures import GREY, Chart, as_csv, finish, per, tip

DRAWN = 200
"""Classes of a heat map; of more, the first ones."""
SMALL = 20
"""Classes up to which a heat map can be small."""
MEAN_LIMIT = 3.0
"""Where the colours of the class-mean difference end."""
_LABELS = 25  # of classes along an axis
_OVERLAP = 0.12  # of a cell, so that no light shows between two
_TEN = "tableau10"


def correlation_heat_map(difference: np.ndarray, classes: Sequence[str], limit: float) -> Chart:
    """The difference of two correlations `[K, K]`: purple below 0, orange above, to `limit` on both sides."""
    scale = alt.Scale(scheme="purpleorange", domain=[-limit, limit])
    return _heat_map(difference, classes, scale, "teacher − student", ("class", "and"), limit)


def class_mean_heat_map(difference: np.ndarray, classes: Sequence[str]) -> Chart:
    """|teacher − student| of class-mean logits `[K, K]`, light to dark blue from 0 to 3; what is beyond is as dark."""
    scale = alt.Scale(scheme="blues", domain=[0, MEAN_LIMIT], clamp=True)
    most = float(np.nanmax(difference, initial=0.0))
    return _heat_map(difference, classes, scale, "|teacher − student|", ("images of", "logit of"), most)


def _heat_map(
    values: np.ndarray,
    classes: Sequence[str],
    scale: alt.Scale,
    title: str,
    sides: tuple[str, str],
    most: float,
) -> Chart:
    names, count = list(classes)[:DRAWN], min(len(classes), DRAWN)
    shown = values[:count, :count]
    quantum = _quantum(most)
    cells = ["" if math.isnan(v) else f"{round(v / quantum):d}" for v in shown.ravel().tolist()]
    data = alt.InlineData(
        # a dot is no number: an empty line would be no row
        values="v\n" + "\n".join(cell or "." for cell in cells),
        format=alt.CsvDataFormat(type="csv", parse={"v": "number"}),
    )
    known = alt.param(name="classes", value=names)
    step = max(1, math.ceil(count / _LABELS))
    axis: dict[str, Any] = {
        "values": [place + 0.5 for place in range(0, count, step)],
        "labelExpr": "classes[floor(datum.value)]",
        **{"labelFontSize": 11 if count <= SMALL else 9, "labelLimit": 80, "labelPadding": 2, "labelOverlap": False},
        **{"grid": False, "domain": False, "tickSize": 3},
    }
    across = alt.Scale(domain=[0, count], nice=False, zero=True)
    down = alt.Scale(domain=[0, count], nice=False, zero=True, reverse=True)
    legend = alt.Legend(
        title=title,
        orient="bottom",
        direction="horizontal",
        gradientThickness=10,
        gradientLength=alt.ExprRef(expr="max(120, min(260, width - 20))"),
        **{"titleFontWeight": "normal", "titleFontSize": 12, "tickCount": 5, "format": "~g"},
    )
    base: Any = alt.Chart(data)
    chart = (
        base.transform_window(n="row_number()")
        .transform_filter("isValid(datum.v)")
        .transform_calculate(
            row=f"floor((datum.n - 1) / {count})",
            column=f"(datum.n - 1) % {count}",
            value=f"datum.v * {quantum:g}",
        )
        .transform_calculate(
            bottom=f"min({count}, datum.row + 1 + {_OVERLAP})",
            right=f"min({count}, datum.column + 1 + {_OVERLAP})",
            first="classes[datum.row]",
            second="classes[datum.column]",
        )
        .mark_rect(aria=False)  # a description of each of 10,000 cells triples the file
        .encode(
            x=alt.X("column:Q", title=None, scale=across, axis=alt.Axis(labelAngle=-90, **axis)),
            x2="right:Q",
            y=alt.Y("row:Q", title=None, scale=down, axis=alt.Axis(**axis)),
            y2="bottom:Q",
            color=alt.Color("value:Q", scale=scale, legend=legend),
            tooltip=[
                alt.Tooltip("first:N", title=sides[0]),
                alt.Tooltip("second:N", title=sides[1]),
                tip("value", title, ".3~g"),
            ],
        )
        .add_params(known)
    )
    return finish(chart, "container")


def _quantum(most: float) -> float:
    """Values are written as multiples of it: three digits for the largest. Every digit of 10,000 cells is in the page.

    >>> _quantum(0.52), _quantum(31.0)
    (0.001, 0.1)
    """
    return 10.0 ** (math.floor(math.log10(most)) - 2) if most > 0 else 1.0


def t_sne(drawn: Map, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> Chart:
    """A point per sample in the colour of its class; hover for the names of its class and of the answer."""
    rows = zip(drawn.xy.tolist(), labels[drawn.index].tolist(), predictions[drawn.index].tolist(), strict=True)
    span = float(np.ptp(drawn.xy, axis=0).max(initial=0.0)) or 1.0
    points = [{"x": f"{x / span:.3f}", "y": f"{y / span:.3f}", "k": k, "p": p} for (x, y), k, p in rows]
    present = np.unique(labels[drawn.index]).tolist()
    if max(present) < FIRST:
        names = [classes[k] for k in present]
        letters = min(max(len(name) for name in names), 12)
        legend = alt.Legend(
            **{
                "orient": "bottom",
                "title": None,
                "columns": per(26 + 7 * letters),
                "labelLimit": 90,
                "labelFontSize": 11,
            },
            **{"symbolOpacity": 1, "symbolType": "circle", "symbolSize": 60, "rowPadding": 1},
        )
        colour = alt.Color("label:N", scale=alt.Scale(scheme=_TEN, domain=names), legend=legend, sort=names)
    elif len(classes) <= 20:
        colour = alt.Color("label:N", scale=alt.Scale(scheme="tableau20", domain=list(classes)), legend=None)
    else:
        colour = alt.Color("k:Q", scale=alt.Scale(scheme="turbo", domain=[0, len(classes) - 1]), legend=None)
    bare: dict[str, Any] = {"axis": None, "scale": alt.Scale(zero=False, nice=False, padding=8)}
    base: Any = alt.Chart(as_csv(points))
    chart = (
        base.transform_calculate(label="classes[datum.k]", answer="classes[datum.p]")
        .mark_circle(size=22, opacity=0.6)
        .encode(
            x=alt.X("x:Q", **bare),
            y=alt.Y("y:Q", **bare),
            color=colour,
            tooltip=[alt.Tooltip("label:N", title="class"), alt.Tooltip("answer:N", title="answer")],
        )
        .add_params(alt.param(name="classes", value=list(classes)))
    )
    return finish(chart, "container")


def reliability_diagram(
    found: Mapping[str, Mapping[str, np.ndarray]], shades: Mapping[str, str], patterns: Mapping[str, list[int]]
) -> Chart:
    """Accuracy over confidence: a line per network, points as large as their bins are full, the diagonal dotted.

    `found` holds the bins of `potstill.evaluation.behaviour.reliability` by name. A click on the legend picks names.
    """
    rows = [
        {"line": name, **{key: _short(value) for key, value in zip(bins, values, strict=True)}}
        for name, bins in found.items()
        for values in zip(*(bins[key].tolist() for key in bins), strict=True)
    ]
    names = list(found)
    letters = min(max(len(name) for name in names), 24)
    legend = alt.Legend(
        **{"orient": "top", "columns": per(60 + 7 * letters), "title": None, "labelLimit": 175},
        **{"symbolType": "stroke", "symbolSize": 300, "symbolOpacity": 1, "symbolStrokeWidth": 2.5},
    )
    domain = alt.Scale(domain=names, range=[shades.get(name, GREY) for name in names])
    dashed = alt.Scale(domain=names, range=[patterns.get(name, [1, 0]) for name in names])
    unit = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(format=".2~f", tickCount=per(70))
    pick = alt.selection_point(name="pick", fields=["line"], bind="legend", toggle="true")
    base: Any = alt.Chart(as_csv(rows)).encode(
        x=alt.X("confidence:Q", title="confidence", scale=unit, axis=axis),
        y=alt.Y("accuracy:Q", title="accuracy", scale=unit),
        color=alt.Color("line:N", scale=domain, legend=legend),
        opacity=alt.when(pick).then(alt.value(0.85)).otherwise(alt.value(0.05)),
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=alt.StrokeDash("line:N", scale=dashed, legend=legend))
    points = base.mark_circle().encode(
        size=alt.Size("count:Q", scale=alt.Scale(range=[12, 260]), legend=None),
        tooltip=[
            alt.Tooltip("line:N", title="name", formatType="toString", format="as is"),
            tip("low", "above"),
            tip("high", "up to"),
            tip("confidence", "mean confidence", ".3f"),
            tip("accuracy", "accuracy", ".3f"),
            alt.Tooltip("count:Q", title="images"),
        ],
    )
    ideal: Any = alt.Chart(alt.InlineData(values=[{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]))
    diagonal = ideal.mark_line(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(
        x=alt.X("confidence:Q", scale=unit), y=alt.Y("accuracy:Q", scale=unit)
    )
    return finish(alt.layer(diagonal, lines.add_params(pick), points), 340)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
