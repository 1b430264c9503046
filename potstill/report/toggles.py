"""Charts that let go of methods together with the page's tables."""

from typing import Any

from potstill.report.figures import Chart

SIGNAL = "hiddenMethods"
FIELDS = ("method", "line")
"""The fields that figures name methods by."""


def toggled(chart: Chart) -> dict[str, Any]:
    """A chart's specification with a parameter that lists methods: the page sets it, and their marks vanish."""
    spec = chart.to_dict()
    spec["params"] = [*spec.get("params", []), {"name": SIGNAL, "value": []}]
    for layer in spec.get("layer", [spec]):
        if field := next((name for name in FIELDS if _reads(layer, name)), None):
            layer["transform"] = [
                {"filter": f"indexof({SIGNAL}, datum.{field}) < 0"},
                *layer.get("transform", []),
            ]
    return spec


def _reads(layer: dict[str, Any], field: str) -> bool:
    return any(isinstance(channel, dict) and channel.get("field") == field for channel in layer["encoding"].values())
