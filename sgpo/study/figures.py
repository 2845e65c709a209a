"""Learning curves of a table's arms: by completions, and by tokens that went through the loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from sgpo.report.plots import LIGHT, Curve, curves_figure, style
from sgpo.report.reading import Interval
from sgpo.study.results import Results

AXES = {"completions": "completions sampled", "trained_tokens": "tokens through the loss"}
STYLE_MARK = "_leap"


def draw_curves(arms: Sequence[str], results: Results, directory: Path, *, label: str) -> list[Path]:
    """One SVG per axis: the mean over an arm's runs at each evaluation. An arm on solutions in the expert's `leap`
    style has the colour of the same arm on the policy's own style, dashed."""
    arms = [arm for arm in arms if _mean_curve(results, arm, "completions")]
    names = list(dict.fromkeys(arm.removesuffix(STYLE_MARK).removesuffix("_own") for arm in arms))
    files: list[Path] = []
    if len(names) > len(LIGHT.runs):  # more curves than colours: nobody could tell them apart
        return files
    for axis, x_label in AXES.items():
        curves = []
        for arm in arms:
            points = _mean_curve(results, arm, axis)
            if points:
                colour = names.index(arm.removesuffix(STYLE_MARK).removesuffix("_own"))
                stroke = "dashed" if arm.endswith(STYLE_MARK) else "solid"
                curves.append(Curve(run=colour, points=points, stroke=stroke))
        if not curves:
            continue
        figure = curves_figure(
            curves, palette=LIGHT, size=(860.0, 460.0), x_label=x_label, y_label=label, percent=True, names=names
        )
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{axis}.svg"
        with style(file.stem):
            figure.savefig(file, facecolor=LIGHT.paper, metadata={"Date": None, "Creator": None})
        files.append(file)
    return files


def _mean_curve(results: Results, arm: str, axis: str) -> list[tuple[float, Interval]]:
    curves = [result["curve"] for run, result in results.finished.items() if run.arm == arm and result["curve"]]
    if not curves:
        return []
    points = []
    for at in range(min(map(len, curves))):
        x = statistics.fmean(curve[at][axis] for curve in curves)
        points.append((x, Interval(statistics.fmean(curve[at]["score"] for curve in curves), math.nan, math.nan)))
    return points
