"""The results that the page leads with: each problem set's scores, the comparison of the runs, and it in a sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgpo.evaluation.compare import EvaluationComparison, compare_runs
from sgpo.report.facts import describe_progress
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
    """A run, or its difference to `baseline`. `curve` is None where the runs share no part of a learning curve."""

    run: int
    baseline: int | None
    final: Measurement
    curve: Measurement | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable:
    """The comparison on one problem set, on the `problems` of `total` that every run has answered.

    `budget` is how many completions the curves reach to. `forest` draws the runs, `difference_forest` their
    differences. `caution` says in which settings the evaluations differ.
    """

    name: str
    metric: str
    problems: int
    total: int
    budget: int | None
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
    scores = [
        ComparisonRow(
            run=index[score.run],
            baseline=None,
            final=_measurement(score.final),
            curve=_measurement(score.curve) if score.curve else None,
            p_value=None,
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


def _measurement(value: object) -> Measurement:
    return Measurement(value.mean, value.low, value.high)  # type: ignore[attr-defined]


def draw_forest(rows: Sequence[ForestRow], *, name: str, label: str, x_label: str, zero: bool) -> Markup:
    """A small forest plot, narrow enough for a phone; `name` and `label` as for `to_svg`, the rest for the figure."""
    figure = forest_figure(rows, palette=PAGE, width=340.0, x_label=x_label, zero=zero)
    return Markup(to_svg(figure, name=name, label=label))


def write_title(runs: Sequence[RunRecord]) -> str:
    """The names of up to three runs; of more the first and how many others."""
    names = [run.name for run in runs]
    return " against ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def write_lede(runs: Sequence[RunRecord], headline: Headline | None, comparison: ComparisonTable | None) -> list[str]:
    """The result in a sentence or two, a tie called a tie."""
    unended = [f"{run.name} (step {describe_progress(run)})" for run in runs if run.broken_off]
    result = _say_result(runs, headline, comparison)
    return [*result, *([f"Not ended: {', '.join(unended)}."] if unended else [])]


def _say_result(runs: Sequence[RunRecord], headline: Headline | None, comparison: ComparisonTable | None) -> list[str]:
    if headline is None:
        return ["No evaluation was written yet, so there is no score to lead with."]
    if comparison is None:
        return _say_scores(runs, headline)
    first = comparison.rows[0].run
    caution = [comparison.caution] if comparison.caution else []
    rows = [row for row in comparison.rows if row.baseline == first]
    where = f"{comparison.metric} on {comparison.name}"
    if len(rows) > 2:
        standings = [_standing(row.curve or row.final) for row in rows]
        counts = [f"{standings.count(kind)} {kind}" for kind in ("ahead", "level", "behind") if kind in standings]
        return [f"Of {len(rows)} runs set against {runs[first].name} in {where}: {', '.join(counts)}.", *caution]
    return [*(_say_difference(runs, row, comparison, where) for row in rows), *caution]


def _say_difference(runs: Sequence[RunRecord], row: ComparisonRow, comparison: ComparisonTable, where: str) -> str:
    value = row.curve or row.final
    baseline = runs[row.baseline or 0].name
    moment = "in the last evaluation"
    if row.curve and comparison.budget:
        moment = f"averaged over the learning curve up to {comparison.budget:,} completions"
    verdict = {
        "ahead": f"{runs[row.run].name} is ahead",
        "behind": f"{baseline} is ahead",
        "level": "the interval includes zero: a tie",
    }[_standing(value)]
    difference = format_score(value, signed=True)
    return f"{runs[row.run].name} minus {baseline}: {difference} points of {where}, {moment}; {verdict}."


def _standing(difference: Measurement) -> str:
    if difference.low <= 0 <= difference.high:
        return "level"
    return "ahead" if difference.mean > 0 else "behind"


def _say_scores(runs: Sequence[RunRecord], headline: Headline) -> list[str]:
    """A sentence for each run that has the headline's score, where the runs are not compared."""
    sentences = []
    for final in find_first_and_last(runs, headline.name):
        run = runs[final.run]
        if headline.metric not in final.last.scores:
            continue
        score = format_score(final.last.scores[headline.metric])
        sentence = f"{run.name} scores {score} percent {headline.metric} on {headline.name}"
        if final.first is not final.last and headline.metric in final.first.scores:
            sentence += f", from {format_score(final.first.scores[headline.metric])} at step {final.first.step}"
        sentences.append(sentence + ".")
    return sentences


def format_score(score: Measurement, *, signed: bool = False) -> str:
    """Format a score from 0 to 1 in percent with its interval, where it is known: `41.0 [36.2, 45.8]`."""
    sign = "+" if signed else ""

    def percent(value: float) -> str:
        return f"{100 * value:{sign}.1f}".replace("-", "−")

    if math.isnan(score.low) or math.isnan(score.high):
        return percent(score.mean)
    return f"{percent(score.mean)} [{percent(score.low)}, {percent(score.high)}]"
