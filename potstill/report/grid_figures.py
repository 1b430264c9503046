"""Figures of a grid, beside those of its pairs."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from potstill.report import figures
from potstill.report.figures import GREY, Chart

VERDICTS = {
    "better": ("#009E73", "triangle-up"),
    "equivalent": ("#3a8fd0", "square"),
    "undecided": (GREY, "circle"),
    "worse": ("#D55E00", "triangle-down"),
    "not powered": (GREY, "diamond"),
}
"""Colour and shape of each verdict: the one for a glance, the other for readers who see no difference of colour."""


def forest(claims: Sequence[dict[str, Any]], margin: float) -> Chart | None:
    """The claims against one baseline as a forest plot: difference and 95 % interval per method, largest first.

    The band is ± `margin`, within which a method counts as equivalent. None where nothing was compared.
    """
    found = sorted(claims, key=lambda claim: -claim["mean"])
    if not found:
        return None
    keys = ("method", "mean", "low", "high", "verdict", "pairs", "n", "p_holm")
    rows = [{key: claim[key] for key in keys} for claim in found]
    data, order = alt.InlineData(values=rows), [row["method"] for row in rows]
    drawn = [verdict for verdict in VERDICTS if any(row["verdict"] == verdict for row in rows)]
    colours, shapes = ([VERDICTS[verdict][place] for verdict in drawn] for place in (0, 1))
    legend = alt.Legend(orient="top", title=None, symbolSize=110, columns=3)
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=drawn, range=colours), legend=legend)
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=drawn, range=shapes), legend=legend)
    ticks = alt.Axis(tickCount=figures.per(70), labelFlush=False, labelOverlap=True)
    x = alt.X("low:Q", title="points of top-1", axis=ticks, scale=alt.Scale(zero=True, padding=12))
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False)
    y = alt.Y("method:N", sort=order, title=None, axis=axis)
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("mean:Q", title="difference", format="+.2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"),
        alt.Tooltip("p_holm:Q", title="p, Holm", format=".2g"),
        alt.Tooltip("verdict:N"),
        alt.Tooltip("pairs:Q"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    base: Any = alt.Chart(data).encode(y=y, color=colour, tooltip=tips)
    band: Any = alt.Chart(alt.InlineData(values=[{"low": -margin, "high": margin}]))
    zero: Any = alt.Chart(alt.InlineData(values=[{"zero": 0}]))
    layers: list[Chart] = [
        band.mark_rect(color=GREY, opacity=0.16).encode(x=x, x2="high:Q"),
        zero.mark_rule(color=GREY, strokeWidth=1).encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(size=110, filled=True, opacity=1).encode(x="mean:Q", shape=shape),
    ]
    return figures.finish(alt.layer(*layers), 30 * len(rows) + 20)


def seeds_of_pair(summary: dict[str, Any], methods: Sequence[str]) -> Chart | None:
    """Accuracy of every seed of a pair, with the colours that all pairs of the grid have for `methods`."""
    known = {row["method"]: row for row in summary["rows"]}
    rows = [known.get(method, {"method": method, "seeds": [], "top1": []}) for method in methods]
    return figures.final_accuracy({**summary, "rows": rows})
