"""The result as a picture for a README or a slide: the learning curves of several runs with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sgpo.errors import InputError
from sgpo.report.compare import choose_headline
from sgpo.report.plots import LIGHT, curves_figure, style
from sgpo.report.read import read_runs
from sgpo.report.training import score_curves

PIXELS_PER_UNIT = 2.0  # sharp on dense screens


def save_picture(runs: Sequence[Path], path: Path, *, name: str | None = None) -> Path:
    """Draw the learning curves (avg@k) of run directories on the problem set `name`, by default the report's headline.

    The file's suffix says its format (`.png`, `.svg`, `.pdf`). Raises InputError where no run was evaluated on it.
    """
    loaded = read_runs(runs)
    headline = choose_headline(loaded, name)
    if headline is None:
        where = "on any problem set" if name is None else f"on {name!r}"
        raise InputError(f"none of the runs was evaluated {where}: there is no learning curve to draw")
    curves, x_label = score_curves(loaded, headline.name, headline.metric)
    figure = curves_figure(
        curves,
        palette=LIGHT,
        size=(720.0, 380.0),
        x_label=x_label,
        y_label=f"{headline.metric} on {headline.name}",
        percent=True,
        names=[run.name for run in loaded],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, dpi=72 * PIXELS_PER_UNIT, facecolor=LIGHT.paper)
    return path
