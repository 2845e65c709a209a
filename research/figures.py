"""Draw the learning curves of a table's arms, by completions and by tokens that went through the loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from research.results import TableResults
from sgpo.report.plots import LIGHT, Curve, curves_figure, style
from sgpo.report.read import Measurement

AXES = {"completions": "completions sampled", "trained_tokens": "tokens through the loss"}
STROKES = {"_own": "solid", "_leap": "dashed", "_foreign": "dotted"}


def draw_curves(
    arms: Sequence[str], results: TableResults, directory: Path, *, label: str, compared: Sequence[str]
) -> list[Path]:
    """Draw the mean over each arm's runs at each evaluation, into an SVG per axis in `directory`.

    If there are more methods than colours, the figures are several, with the `compared` arms in each. An arm on
    solutions in the expert's style has the colour of the same arm on the policy's own style, but dashed (leap) or
    dotted (foreign).

    Returns:
        The files.
    """
    arms = [arm for arm in arms if _mean_curve(results, arm, "completions")]
    always = [method for method in dict.fromkeys(map(_method, arms)) if method in compared]
    others = [method for method in dict.fromkeys(map(_method, arms)) if method not in compared]
    room = len(LIGHT.runs) - len(always)
    files: list[Path] = []
    for number, start in enumerate(range(0, max(len(others), 1) if arms else 0, room), start=1):
        methods = always + others[start : start + room]
        shown = [arm for arm in arms if _method(arm) in methods]
        for axis, x_label in AXES.items():
            curves = [
                Curve(run=methods.index(_method(arm)), points=_mean_curve(results, arm, axis), stroke=_stroke(arm))
                for arm in shown
            ]
            figure = curves_figure(
                curves, palette=LIGHT, size=(860.0, 460.0), x_label=x_label, y_label=label, percent=True, names=methods
            )
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / (f"{axis}.svg" if number == 1 else f"{axis}-{number}.svg")
            with style(file.stem):
                figure.savefig(file, facecolor=LIGHT.paper, metadata={"Date": None, "Creator": None})
            files.append(file)
    return files


def _method(arm: str) -> str:
    """An arm's name without the style of the solutions that it learns from."""
    return next((arm.removesuffix(mark) for mark in STROKES if arm.endswith(mark)), arm)


def _stroke(arm: str) -> str:
    return next((stroke for mark, stroke in STROKES.items() if arm.endswith(mark)), "solid")


def _mean_curve(results: TableResults, arm: str, axis: str) -> list[tuple[float, Measurement]]:
    curves = [result["curve"] for run, result in results.finished.items() if run.arm == arm and result["curve"]]
    if not curves:
        return []
    points = []
    for at in range(min(map(len, curves))):
        x = statistics.fmean(curve[at][axis] for curve in curves)
        points.append((x, Measurement(statistics.fmean(curve[at]["score"] for curve in curves), math.nan, math.nan)))
    return points
