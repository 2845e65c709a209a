"""The results that the page leads with: each problem set's scores, and the comparison of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgpo.evaluation.compare import EvaluationComparison, compare_runs
from sgpo.report.facts import measure_seconds
from sgpo.report.plots import PAGE, ForestRow, forest_figure, to_svg
from sgpo.report.read import EvaluationRecord, Measurement, RunRecord, visible_text
from sgpo.report.training import list_scores

MAX_ALL_PAIRS = 3  # of more runs, only the differences to the first are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The evaluation and the score that the page leads with."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAndLast:
    """The first and the last evaluation of a run (the same one where there is one only); `run` is its index."""

    run: int
    first: EvaluationRecord
    last: EvaluationRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """A run, or its difference to `baseline`. `curve` is None where the runs share no part of a learning curve.

    `seconds` are those that a run trained until it had sampled the completions of the budget, `time_ratio` is the
    run's by the baseline's; None where a run logged no times, the ratio also where the two had different machines.
    """

    run: int
    baseline: int | None
    final: Measurement
    curve: Measurement | None
    p_value: float | None = None
    seconds: float | None = None
    time_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable:
    """The comparison on one problem set, on the `problems` of `total` that every run has answered.

    `budget` is how many completions the curves reach to, `timed_budget` how many the seconds are for: without curves as
    many as every run has sampled. `forest` draws the runs, `difference_forest` their
    differences. `caution` says in which settings the evaluations differ.
    """

    name: str
    metric: str
    problems: int
    total: int
    budget: int | None
    timed_budget: int
    rows: list[ComparisonRow]
    forest: Markup
    difference_forest: Markup
    caution: str | None


def choose_headline(runs: Sequence[RunRecord], name: str | None = None) -> Headline | None:
    """Choose the evaluation to lead with, and its first score (avg@k).

    Args:
        runs: the runs.
        name: the problem set; without it the one that most runs have, then the one with most evaluations, then by name.

    Returns:
        None where no run has such an evaluation.
    """
    having = Counter(one for run in runs for one in {evaluation.name for evaluation in run.evaluations})
    evaluations = Counter(evaluation.name for run in runs for evaluation in run.evaluations)
    candidates = [one for one in having if name in (None, one)]
    if not candidates:
        return None
    chosen = min(candidates, key=lambda one: (-having[one], -evaluations[one], one))
    return Headline(name=chosen, metric=list_scores(runs, chosen)[0])


def list_evaluations(runs: Sequence[RunRecord], headline: Headline | None) -> list[str]:
    """The names of all evaluations, the headline's first."""
    names = sorted({evaluation.name for run in runs for evaluation in run.evaluations})
    return sorted(names, key=lambda name: headline is not None and name != headline.name)


def find_first_and_last(runs: Sequence[RunRecord], name: str) -> list[FirstAndLast]:
    """The first and the last evaluation of that name, for every run that has one."""
    found = []
    for index, run in enumerate(runs):
        evaluations = [evaluation for evaluation in run.evaluations if evaluation.name == name]
        if evaluations:
            found.append(FirstAndLast(run=index, first=evaluations[0], last=evaluations[-1]))
    return found


def tabulate_parts(finals: Sequence[FirstAndLast]) -> list[tuple[str, list[tuple[str, list[Measurement | None]]]]]:
    """The last mean scores by subject and by level: `("subject", [("algebra", [a score per run])])`.

    A kind with a single part is left out: it says nothing beside the score itself.
    """
    tables = []
    for kind in ("subjects", "levels"):
        names = sorted({name for final in finals for name in final.last.parts[kind]})
        rows = [(name, [final.last.parts[kind].get(name) for final in finals]) for name in names]
        if len(rows) > 1:
            tables.append((kind.removesuffix("s"), rows))
    return tables


def compare_on_each_set(runs: Sequence[RunRecord]) -> dict[str, ComparisonTable]:
    """Compare on every problem set the runs that were evaluated on it; the first of them is the baseline.

    Where two or more runs share a set but cannot be compared on it, the first of them gets a note.

    Returns:
        The comparisons by the names of their problem sets.
    """
    # Sets that the same runs were evaluated on are compared in one go.
    names_by_runs: dict[tuple[int, ...], set[str]] = {}
    for name in {evaluation.name for run in runs for evaluation in run.evaluations}:
        having = (index for index, run in enumerate(runs) if any(one.name == name for one in run.evaluations))
        names_by_runs.setdefault(tuple(having), set()).add(name)
    tables = {}
    for indices, names in names_by_runs.items():
        if len(indices) < 2:
            continue
        try:
            comparison = compare_runs([runs[index].path for index in indices])
        except ValueError as error:
            runs[indices[0]].notes.append(f"the runs are not compared: {visible_text(str(error))}")
            continue
        for one in comparison.evaluations:
            if visible_text(one.name) in names:
                tables[visible_text(one.name)] = _tabulate_comparison(runs, indices, one, comparison.caution)
    return tables


def _tabulate_comparison(
    runs: Sequence[RunRecord], indices: Sequence[int], found: EvaluationComparison, caution: str | None
) -> ComparisonTable:
    """`indices` say which of the runs those of the comparison are."""
    name, metric = visible_text(found.name), f"avg@{found.runs[0].k}"
    index = {score.run: number for number, score in zip(indices, found.runs, strict=True)}
    timed_budget = found.budget or min(score.completions for score in found.runs)
    seconds = {number: measure_seconds(runs[number], timed_budget) for number in indices}
    scores = [
        ComparisonRow(
            run=index[score.run],
            baseline=None,
            final=_measurement(score.final),
            curve=_measurement(score.curve) if score.curve else None,
            seconds=seconds[index[score.run]],
        )
        for score in found.runs
    ]
    differences = [
        ComparisonRow(
            run=index[difference.run],
            baseline=index[difference.baseline],
            final=_measurement(difference.final),
            curve=_measurement(difference.curve) if difference.curve else None,
            p_value=difference.final.p_value,
            time_ratio=_time_ratio(runs, seconds, index[difference.run], index[difference.baseline]),
        )
        for difference in found.differences
        if len(indices) <= MAX_ALL_PAIRS or index[difference.baseline] == indices[0]
    ]
    # One measure in one plot: where a run has no curve, the final scores of all.
    curves = all(row.curve for row in [*scores, *differences])
    over = "over the curve" if curves else "final"
    what = f"{metric} on {name}, {over}, with 95 % intervals"

    def forest_row(label: str, row: ComparisonRow) -> ForestRow:
        return ForestRow(label=label, run=row.run, value=row.curve if curves and row.curve else row.final)

    return ComparisonTable(
        name=name,
        metric=metric,
        problems=found.problems,
        total=found.total,
        budget=found.budget,
        timed_budget=timed_budget,
        rows=scores + differences,
        forest=draw_forest(
            [forest_row(runs[row.run].name, row) for row in scores],
            name=f"forest-runs-{name}",
            label=what,
            x_label=f"{metric} {over}, percent",
            zero=False,
        ),
        difference_forest=draw_forest(
            [forest_row(f"{runs[row.run].name} − {runs[row.baseline or 0].name}", row) for row in differences],
            name=f"forest-differences-{name}",
            label=f"Paired differences of {what}",
            x_label="difference, points",
            zero=True,
        ),
        caution=visible_text(caution) if caution else None,
    )


def _time_ratio(
    runs: Sequence[RunRecord], seconds: Mapping[int, float | None], run: int, baseline: int
) -> float | None:
    """The seconds of one run by those of another; seconds of different machines say nothing about the runs."""
    one, other = seconds[run], seconds[baseline]
    alike = runs[run].config.get("machine") == runs[baseline].config.get("machine")
    return one / other if alike and one and other else None


def _measurement(value: object) -> Measurement:
    return Measurement(value.mean, value.low, value.high)  # type: ignore[attr-defined]


def draw_forest(rows: Sequence[ForestRow], *, name: str, label: str, x_label: str, zero: bool) -> Markup:
    """A small forest plot, narrow enough for a phone; `name` and `label` as for `to_svg`, the rest for the figure."""
    figure = forest_figure(rows, palette=PAGE, width=340.0, x_label=x_label, zero=zero)
    return Markup(to_svg(figure, name=name, label=label))
