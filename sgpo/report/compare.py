"""What the page says first: the comparison of its runs, and that of the headline evaluation in a sentence.

The scores that the page leads with: which problem set, the first and the last evaluation of every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgpo.evaluation.compare import EvaluationComparison, compare_runs, unlike_settings
from sgpo.report.facts import steps_done
from sgpo.report.plots import PAGE, Estimate, forest_figure, to_svg
from sgpo.report.read import Evaluation, Interval, Run, visible_text
from sgpo.report.training import metrics_of


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


MAX_ALL_PAIRS = 3  # of more runs, only the differences to the first are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run, or its difference to `baseline`. `curve` is None where the runs share no part of a learning curve."""

    run: int
    baseline: int | None
    final: Interval
    curve: Interval | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The comparison on one problem set; `forest` holds the runs, `difference_forest` their differences; `caution` says
    where the runs were not measured alike."""

    name: str
    metric: str
    problems: int
    total: int
    budget: int | None
    rows: list[Row]
    forest: Markup
    difference_forest: Markup
    caution: str | None


def compare(runs: Sequence[Run]) -> dict[str, Compared]:
    """Compare on every problem set, by its name, the runs that were evaluated on it; the first of them is the baseline.

    A set that two or more runs share, but on which they cannot be compared, is left out, with a note in its first run.
    """
    names_by_runs: dict[tuple[int, ...], set[str]] = {}
    for name in {evaluation.name for run in runs for evaluation in run.evaluations}:
        having = (index for index, run in enumerate(runs) if any(one.name == name for one in run.evaluations))
        names_by_runs.setdefault(tuple(having), set()).add(name)
    compared = {}
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
                compared[visible_text(one.name)] = _compared(runs, indices, one)
    return compared


def title(runs: Sequence[Run]) -> str:
    """The names of up to three runs; of more the first and how many others."""
    names = [run.name for run in runs]
    return " against ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def lede(runs: Sequence[Run], headline: Headline | None, comparison: Compared | None) -> list[str]:
    """The result in a sentence or two, a tie called a tie."""
    unended = [f"{run.name} (step {steps_done(run)})" for run in runs if run.broken_off]
    return [*_result(runs, headline, comparison), *([f"Not ended: {', '.join(unended)}."] if unended else [])]


def _result(runs: Sequence[Run], headline: Headline | None, comparison: Compared | None) -> list[str]:
    if headline is None:
        return ["No evaluation was written yet, so there is no score to lead with."]
    if comparison is None:
        return _single_ledes(runs, headline)
    first = comparison.rows[0].run
    caution = [comparison.caution] if comparison.caution else []
    rows = [row for row in comparison.rows if row.baseline == first]
    where = f"{comparison.metric} on {comparison.name}"
    if len(rows) > 2:
        standings = [_standing(row.curve or row.final) for row in rows]
        counts = [f"{standings.count(kind)} {kind}" for kind in ("ahead", "level", "behind") if kind in standings]
        return [f"Of {len(rows)} runs set against {runs[first].name} in {where}: {', '.join(counts)}.", *caution]
    return [*(_difference(runs, row, comparison, where) for row in rows), *caution]


def _difference(runs: Sequence[Run], row: Row, comparison: Compared, where: str) -> str:
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
    difference = points(value, signed=True)
    return f"{runs[row.run].name} minus {baseline}: {difference} points of {where}, {moment}; {verdict}."


def _standing(difference: Interval) -> str:
    if difference.low <= 0 <= difference.high:
        return "level"
    return "ahead" if difference.mean > 0 else "behind"


def _single_ledes(runs: Sequence[Run], headline: Headline) -> list[str]:
    sentences = []
    for final in final_scores(runs, headline.name):
        run = runs[final.run]
        if headline.metric not in final.evaluation.scores:
            continue
        score = points(final.evaluation.scores[headline.metric])
        sentence = f"{run.name} scores {score} percent {headline.metric} on {headline.name}"
        if final.first is not final.evaluation and headline.metric in final.first.scores:
            sentence += f", from {points(final.first.scores[headline.metric])} at step {final.first.step}"
        sentences.append(sentence + ".")
    return sentences


def _compared(runs: Sequence[Run], indices: Sequence[int], found: EvaluationComparison) -> Compared:
    """`indices` say which of the runs those of the comparison are."""
    caution = unlike_settings([runs[index].path for index in indices])
    name, metric = visible_text(found.name), f"avg@{found.runs[0].k}"
    index = {score.run: number for number, score in zip(indices, found.runs, strict=True)}
    rows = [
        Row(
            run=index[score.run],
            baseline=None,
            final=_interval(score.final),
            curve=_interval(score.curve) if score.curve else None,
            p_value=None,
        )
        for score in found.runs
    ]
    differences = [
        Row(
            run=index[difference.run],
            baseline=index[difference.baseline],
            final=_interval(difference.final),
            curve=_interval(difference.curve) if difference.curve else None,
            p_value=difference.final.p_value,
        )
        for difference in found.differences
        if len(indices) <= MAX_ALL_PAIRS or index[difference.baseline] == indices[0]
    ]
    # One measure in one plot: where a run has no curve, the final scores of all.
    curves = all(row.curve for row in [*rows, *differences])
    over = "over the curve" if curves else "final"
    what = f"{metric} on {name}, {over}, with 95 % intervals"
    return Compared(
        name=name,
        metric=metric,
        problems=found.problems,
        total=found.total,
        budget=found.budget,
        rows=rows + differences,
        forest=forest(
            [Estimate(label=runs[row.run].name, run=row.run, value=_measure(row, curves)) for row in rows],
            name=f"forest-runs-{name}",
            label=what,
            x_label=f"{metric} {over}, percent",
            zero=False,
        ),
        difference_forest=forest(
            [
                Estimate(
                    label=f"{runs[row.run].name} − {runs[row.baseline or 0].name}",
                    run=row.run,
                    value=_measure(row, curves),
                )
                for row in differences
            ],
            name=f"forest-differences-{name}",
            label=f"Paired differences of {what}",
            x_label="difference, points",
            zero=True,
        ),
        caution=visible_text(caution) if caution else None,
    )


def _interval(value: object) -> Interval:
    return Interval(value.mean, value.low, value.high)  # type: ignore[attr-defined]


def _measure(row: Row, curves: bool) -> Interval:
    return row.curve if curves and row.curve else row.final
