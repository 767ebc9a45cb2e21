"""
Charts as data: what a matplotlib figure shows, in the form that E2B's SDKs have types for (line, scatter, bar, pie, box and whisker, several in one).

Told from what the axes hold, since matplotlib does not remember what was called. What is not recognized is `unknown`, with its title and labels.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from kernel_tables import plain

# Points of one element that travel as numbers beside the picture
POINTS_MAX = 5_000

SCALES = {"linear", "log", "symlog", "logit", "function", "functionlog", "asinh"}
UNIT = re.compile(r"\s\((.+?)\)\s*$|\[(.+?)\]\s*$")


def chart_of(figure: Any) -> dict[str, Any] | None:
    """What a figure shows; None for what is no figure, or shows nothing."""
    module = sys.modules.get("matplotlib.figure")
    if module is None or not isinstance(figure, module.Figure):
        return None
    charts = [_axes(axes) for axes in figure.get_axes()]
    if len(charts) <= 1:
        return charts[0] if charts else None
    title = figure._suptitle.get_text() if figure._suptitle is not None else None
    return {"type": "superchart", "title": title or None, "elements": charts}


def _axes(axes: Any) -> dict[str, Any]:
    from matplotlib.collections import PathCollection
    from matplotlib.patches import PathPatch, Rectangle, Wedge

    bars = [one for one in axes.containers if hasattr(one, "patches") and all(isinstance(patch, Rectangle) for patch in one.patches)]
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    boxes = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    points = [collection for collection in axes.collections if isinstance(collection, PathCollection)]
    if wedges:
        return {"type": "pie", "title": axes.get_title() or None, "elements": [_wedge(wedge) for wedge in wedges]}
    if boxes and axes.lines:
        return {"type": "box_and_whisker", **_labels(axes), "elements": _boxes(axes, boxes)}
    if bars:
        return {"type": "bar", **_labels(axes), "elements": [element for group in bars for element in _bars(axes, group)]}
    if points:
        return {"type": "scatter", **_labels(axes), **_scales(axes), "elements": [_points(one, *one.get_offsets().T) for one in points]}
    if axes.lines:
        return {"type": "line", **_labels(axes), **_scales(axes), "elements": [_points(one, *one.get_data()) for one in axes.lines]}
    return {"type": "unknown", **_labels(axes), "elements": []}


def _labels(axes: Any) -> dict[str, Any]:
    labels: dict[str, Any] = {"title": axes.get_title() or None}
    for name, text in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
        unit = UNIT.search(text)
        labels[f"{name}_label"] = text or None
        labels[f"{name}_unit"] = (unit.group(1) or unit.group(2)) if unit else None
    return labels


def _scales(axes: Any) -> dict[str, Any]:
    scales: dict[str, Any] = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        scale = axis.get_scale()
        if type(axis.get_converter() if hasattr(axis, "get_converter") else axis.converter).__name__ in ("DateConverter", "_SwitchableDateConverter"):
            scale = "datetime"
        elif type(axis.get_major_formatter()).__name__ == "StrCategoryFormatter":
            scale = "categorical"
        elif scale not in SCALES:
            scale = "linear"
        scales[f"{name}_scale"] = scale
        scales[f"{name}_ticks"] = [plain(tick) for tick in axis.get_ticklocs()]
        scales[f"{name}_tick_labels"] = [label.get_text() for label in axis.get_ticklabels()]
    return scales


def _points(artist: Any, xs: Any, ys: Any) -> dict[str, Any]:
    pairs = list(zip(xs, ys))[:POINTS_MAX]
    return {"label": str(artist.get_label()), "points": [[plain(x), plain(y)] for x, y in pairs]}


def _bars(axes: Any, group: Any) -> list[dict[str, Any]]:
    is_horizontal = getattr(group, "orientation", "vertical") == "horizontal"
    axis = axes.yaxis if is_horizontal else axes.xaxis
    names = dict(zip((round(float(place), 6) for place in axis.get_ticklocs()), (label.get_text() for label in axis.get_ticklabels())))
    elements = []
    for bar in group.patches[:POINTS_MAX]:
        middle = bar.get_y() + bar.get_height() / 2 if is_horizontal else bar.get_x() + bar.get_width() / 2
        name = names.get(round(float(middle), 6)) or str(plain(round(float(middle), 6)))
        value = bar.get_width() if is_horizontal else bar.get_height()
        elements.append({"label": name, "group": str(group.get_label()), "value": plain(value)})
    return elements


def _wedge(wedge: Any) -> dict[str, Any]:
    return {"label": str(wedge.get_label()), "angle": abs(round(float(wedge.theta2 - wedge.theta1), 4)), "radius": plain(wedge.r)}


def _boxes(axes: Any, boxes: list[Any]) -> list[dict[str, Any]]:
    """Of boxes that are drawn as patches (`patch_artist=True`; seaborn's are). The lines over a box are its median, which is as wide as it, whiskers, caps and outliers."""
    names = [label.get_text() for label in axes.get_xticklabels()]
    elements = []
    for position, box in enumerate(boxes):
        corners = box.get_path().vertices
        left, right = float(corners[:, 0].min()), float(corners[:, 0].max())
        low, high = float(corners[:, 1].min()), float(corners[:, 1].max())
        median, ends, outliers = None, [low, high], []
        for line in axes.lines:
            xs, ys = [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]
            if not xs or not left <= xs[0] <= right:
                continue  # another box's
            if line.get_linestyle() == "None":
                outliers += ys
            elif ys[0] == ys[-1] and max(xs) - min(xs) > 0.9 * (right - left):
                median = ys[0]
            else:
                ends += ys
        elements.append(
            {
                "label": names[position] if position < len(names) else str(position + 1),
                "min": min(ends),
                "first_quartile": low,
                "median": median,
                "third_quartile": high,
                "max": max(ends),
                "outliers": outliers[:POINTS_MAX],
            }
        )
    return elements
