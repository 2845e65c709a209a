"""The scores that the page leads with: which problem set, the first and the last evaluation of every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgpo.report.panels import metrics_of
from sgpo.report.plots import PAGE, Estimate, forest_figure, to_svg
from sgpo.report.reading import Evaluation, Interval, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The evaluation and the score that the page leads with."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalScores:
    """The first and the last evaluation of a run (the same one where there is one only)."""

    run: int
    first: Evaluation
    evaluation: Evaluation


def choose_headline(runs: Sequence[Run], name: str | None = None) -> Headline | None:
    """The evaluation to lead with, and its first score (avg@k): the one named, or that which most runs have, then the
    one with most points, then by name. None where there is none."""
    having = Counter(one for run in runs for one in {evaluation.name for evaluation in run.evaluations})
    points = Counter(evaluation.name for run in runs for evaluation in run.evaluations)
    candidates = [one for one in having if name in (None, one)]
    if not candidates:
        return None
    chosen = min(candidates, key=lambda one: (-having[one], -points[one], one))
    return Headline(name=chosen, metric=metrics_of(runs, chosen)[0])


def evaluation_names(runs: Sequence[Run], headline: Headline | None) -> list[str]:
    """Names of all evaluations, the headline's first."""
    names = sorted({evaluation.name for run in runs for evaluation in run.evaluations})
    return sorted(names, key=lambda name: headline is not None and name != headline.name)


def final_scores(runs: Sequence[Run], name: str) -> list[FinalScores]:
    """The first and the last evaluation of that name, of every run that has one."""
    finals = []
    for index, run in enumerate(runs):
        evaluations = [evaluation for evaluation in run.evaluations if evaluation.name == name]
        if evaluations:
            finals.append(FinalScores(run=index, first=evaluations[0], evaluation=evaluations[-1]))
    return finals


def part_tables(finals: Sequence[FinalScores]) -> list[tuple[str, list[tuple[str, list[Interval | None]]]]]:
    """The last mean scores by subject and by level: `("subject", [("algebra", [a score per run])])`.

    A kind of which no run has two parts says nothing beside the score itself, and is left out.
    """
    tables = []
    for kind in ("subjects", "levels"):
        names = sorted({name for final in finals for name in final.evaluation.parts[kind]})
        rows = [(name, [final.evaluation.parts[kind].get(name) for final in finals]) for name in names]
        if len(rows) > 1:
            tables.append((kind.removesuffix("s"), rows))
    return tables


def forest(estimates: Sequence[Estimate], *, name: str, label: str, x_label: str, zero: bool) -> Markup:
    """A small forest plot, narrow enough for a phone."""
    figure = forest_figure(estimates, palette=PAGE, width=340.0, x_label=x_label, zero=zero)
    return Markup(to_svg(figure, name=name, label=label))


def points(interval: Interval, *, signed: bool = False) -> str:
    """A score of 0 to 1 in percent with its interval: `41.0 [36.2, 45.8]`."""
    sign = "+" if signed else ""

    def percent(value: float) -> str:
        return f"{100 * value:{sign}.1f}".replace("-", "−")

    if interval.low != interval.low or interval.high != interval.high:
        return percent(interval.mean)
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"
