"""Plots drawn by matplotlib: SVG that takes its colours from the page, and figures for files.

A figure has the colours of a `Palette`. The page's palette holds placeholders, which `to_svg` turns into CSS variables,
so that one drawing serves light and dark. One unit of a figure's size is one CSS pixel.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sgpo.report.read import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 300  # of a training curve
FONT_SIZE = 12
_DASHES: dict[str, Any] = {"solid": "solid", "dashed": (0, (3.5, 2.2)), "dotted": (0, (1, 1.6))}
STROKES = tuple(_DASHES)
_RUN_COLOURS = (
    *("#4a6a8f", "#c2502e", "#2f8468", "#8a5aa3", "#a97b12"),
    *("#5d6b70", "#b04a77", "#3a8fa8", "#7d8a2b", "#8a5b43"),
)


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours: text, quiet text, lines, background, and one per run."""

    ink: str
    muted: str
    line: str
    paper: str
    runs: tuple[str, ...]

    def run(self, index: int) -> str:
        return self.runs[index % len(self.runs)]


# Colours that occur nowhere else, for `to_svg` to find.
PAGE = Palette("#010101", "#010102", "#010103", "#010104", tuple(f"#0102{index:02d}" for index in range(1, 11)))
_VARIABLES = {
    PAGE.ink: "var(--ink)",
    PAGE.muted: "var(--muted)",
    PAGE.line: "var(--line)",
    PAGE.paper: "var(--paper)",
    **{colour: f"var(--run-{index})" for index, colour in enumerate(PAGE.runs, start=1)},
}
LIGHT = Palette("#22211f", "#6d6a63", "#e2ded5", "#ffffff", _RUN_COLOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a plot: `points` are `(x, value)`, each with its 95 % interval where there is one.

    `label` is what the line is called beside the values that the page shows under the pointer.
    """

    run: int
    points: Sequence[tuple[float, Measurement]]
    stroke: str = "solid"
    markers: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One row of a forest plot."""

    label: str
    run: int
    value: Measurement


def curves_figure(
    curves: Sequence[Curve],
    *,
    palette: Palette,
    size: tuple[float, float],
    x_label: str,
    percent: bool,
    y_label: str = "",
    names: Sequence[str] = (),
) -> Figure:
    """Curves over steps or completions.

    Args:
        curves: the lines; several may belong to one run.
        palette: the colours.
        size: width and height.
        x_label: the label of the axis of steps or completions.
        percent: the values are fractions, shown in percent.
        y_label: the label of the axis of values.
        names: of the runs, for a legend; the page has its own.
    """
    figure, axes = _figure(palette, size)
    band = 0.16 if len(curves) <= 3 else 0.08  # many bands lie over each other
    for curve in curves:
        _draw_curve(axes, curve, palette, band)

    # What cannot be negative starts at zero; what can is left to matplotlib.
    values = [value for curve in curves for _, point in curve.points for value in point if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0.0:
        top = high * 1.08 if high > 0 else 1.0
        axes.set_ylim(-0.02 * top, top)  # a line at zero is seen whole
    if percent and high > 0.93:
        axes.set_ylim(top=1.02)
    axes.margins(x=0.02)

    # Labels and ticks: fewer ticks where the figure is narrow.
    axes.set_xlabel(x_label, color=palette.muted, fontsize=FONT_SIZE)
    axes.set_ylabel(y_label, color=palette.muted, fontsize=FONT_SIZE)
    axes.xaxis.set_major_locator(_ticks(6 if size[0] > 500 else 4, whole=True))
    axes.yaxis.set_major_locator(_ticks(4))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%" if percent else short_number(value))
    if names:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=palette.run(index), linewidth=2.2) for index in range(len(names))]
        axes.legend(handles, names, frameon=False, labelcolor=palette.ink, loc="best", fontsize=FONT_SIZE)
    return figure


def forest_figure(rows: Sequence[ForestRow], *, palette: Palette, width: float, x_label: str, zero: bool) -> Figure:
    """One dot and interval per row, top to bottom.

    Args:
        rows: what to draw; a row whose interval is not known has a dot alone.
        palette: the colours.
        width: of the figure; its height follows from the rows.
        x_label: the label of the axis.
        zero: the values are differences: draw the line of no difference, and signs on the axis.
    """
    figure, axes = _figure(palette, (width, 62 + 38 * len(rows)))
    for number, row in enumerate(rows):
        colour, value = palette.run(row.run), row.value
        if math.isfinite(value.low) and math.isfinite(value.high):
            axes.plot([value.low, value.high], [number, number], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot([value.mean], [number], "o", color=colour, markersize=8, markeredgecolor=palette.paper)
        # The label stands above its interval, at the left edge whatever the axis shows.
        axes.text(
            0.01,
            number - 0.26,
            row.label,
            transform=axes.get_yaxis_transform(),
            color=palette.ink,
            va="bottom",
            fontsize=FONT_SIZE + 1,
            bbox={"facecolor": palette.paper, "edgecolor": "none", "pad": 1.5},
        )
    axes.set_ylim(len(rows) - 0.4, -0.95)  # the first row on top, with room for its label
    axes.set_yticks([])
    axes.grid(axis="x", color=palette.line, linewidth=1)

    # Zero is always in sight; scores are drawn from zero to at most one.
    sides = [side for row in rows for side in row.value if math.isfinite(side)]
    low, high = min(0.0, *sides), max(0.0, *sides)
    margin = 0.12 * ((high - low) or 0.1)
    if zero:
        for number in range(len(rows)):  # beside each interval, not through the labels
            axes.plot([0.0, 0.0], [number - 0.2, number + 0.35], color=palette.muted, linewidth=1.2, zorder=1)
        axes.set_xlim(low - margin, high + margin)
    else:
        axes.set_xlim(0.0, min(1.0, high + margin))
    axes.set_xlabel(x_label, color=palette.muted, fontsize=FONT_SIZE)
    axes.xaxis.set_major_locator(_ticks(4))
    axes.xaxis.set_major_formatter(lambda value, _: _format_points(value, signed=zero))
    return figure


def to_svg(figure: Figure, *, name: str, label: str, curves: Sequence[Curve] = (), percent: bool = False) -> str:
    """The figure as an inline SVG element.

    Args:
        figure: one that was drawn with the palette `PAGE`.
        name: tells the figures of a page apart, so that their ids never meet.
        label: what a screen reader says.
        curves: those of the figure whose values the page shows under the pointer.
        percent: their values are fractions, shown in percent.
    """
    buffer = io.StringIO()
    with style(name):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # What is left out: metadata, a style rule that would reach the whole page, and ids that nothing refers to.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = svg.replace("xlink:href=", "href=")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The element scales with the page: its size goes into the view box.
    width, height = (72 * side for side in figure.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{_attribute(label)}"'
    if curves:
        head += f' data-values="{_attribute(_values_json(figure, curves, percent))}"'
    return re.sub(r"<svg\b[^>]*>", lambda _: f"{head}>", svg, count=1)


def _values_json(figure: Figure, curves: Sequence[Curve], percent: bool) -> str:
    """The values of the curves, and where they lie in the drawn figure, as JSON for the page's script.

    `x` and `y` are `[offset, scale]`: value v lies at `offset + scale * v` from the left, or from the top. A point is
    `[x, value]` or, with its interval, `[x, value, low, high]`.
    """
    axes = figure.axes[0]
    (left, bottom), (right, top) = axes.transData.transform([(0.0, 0.0), (1.0, 1.0)])
    height = 72 * figure.get_size_inches()[1]
    lines = [
        {
            "run": curve.run % len(PAGE.runs) + 1,
            "label": curve.label,
            "points": [
                [int(x) if x.is_integer() else x, *(float(f"{side:.5g}") for side in value if math.isfinite(side))]
                for x, value in curve.points
                if math.isfinite(value.mean)
            ],
        }
        for curve in curves
    ]
    content = {
        "x": [float(left), float(right - left)],
        "y": [float(height - bottom), float(bottom - top)],
        "axis": axes.get_xlabel(),
        "percent": percent,
        "curves": lines,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A centred rolling mean over a twentieth of the points, over fewer at both ends."""
    half = len(points) // 40
    if half == 0:
        return list(points)
    smoothed = []
    for index, (x, _) in enumerate(points):
        window = [value for _, value in points[max(index - half, 0) : index + half + 1]]
        smoothed.append((x, sum(window) / len(window)))
    return smoothed


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of neighbours, at the last x of each."""
    if len(points) <= limit:
        return list(points)
    thinned = []
    for index in range(limit):
        chunk = points[index * len(points) // limit : (index + 1) * len(points) // limit]
        thinned.append((chunk[-1][0], sum(value for _, value in chunk) / len(chunk)))
    return thinned


def short_number(value: float) -> str:
    """A number for an axis: `0`, `0.25`, `150`, `9.6k`, `1.2M`."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}".replace("e-0", "e−").replace("-", "−")


def style(salt: str = "") -> AbstractContextManager[None]:
    """matplotlib's settings while a figure is made or saved; `salt` goes into the ids of an SVG."""
    import matplotlib as mpl

    # The names of runs and problem sets are not ours: no `$` in them may start a formula.
    return mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": "DejaVu Sans"}
    )


def _figure(palette: Palette, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty figure: no frame, no tick marks, grid lines behind the curves."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
    axes.tick_params(colors=palette.muted, length=0, pad=5, labelsize=FONT_SIZE)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=palette.line, linewidth=1)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    return figure, axes


def _format_points(value: float, *, signed: bool) -> str:
    """Format a score from 0 to 1 for an axis in percent, or a difference in points: `40`, `+2.5`, `−10`."""
    rounded = round(100 * value, 6) + 0.0  # no -0
    return f"{rounded:{'+' if signed and rounded else ''}.3g}".replace("-", "−")


def _draw_curve(axes: Axes, curve: Curve, palette: Palette, band: float) -> None:
    """One line with its band of intervals (of opacity `band`); a line without markers is smoothed."""
    colour = palette.run(curve.run)
    x = [at for at, _ in curve.points]
    banded = [(at, value) for at, value in curve.points if math.isfinite(value.low) and math.isfinite(value.high)]
    if banded:
        at, values = zip(*banded, strict=True)
        axes.fill_between(at, [v.low for v in values], [v.high for v in values], color=colour, alpha=band, linewidth=0)
    raw = [(at, value.mean) for at, value in curve.points]
    smoothed = raw if curve.markers else smooth(raw)
    if smoothed != raw:  # the values stay in sight, faint behind the smoothed line
        axes.plot(x, [value for _, value in raw], color=colour, alpha=0.2, linewidth=0.8)
    axes.plot(
        x,
        [value for _, value in smoothed],
        color=colour,
        linewidth=2.2 if curve.markers else 1.8,
        linestyle=_DASHES[curve.stroke],
        marker="o" if curve.markers or len(raw) == 1 else None,
        markersize=5,
        markeredgecolor=palette.paper,
        solid_capstyle="round",
    )


def _ticks(count: int, *, whole: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
