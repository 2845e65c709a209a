"""The first lines of the page: why a run failed, where it is ahead, level and behind, and what it won and lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sgpo.evaluation.scores import PairedDifference
from sgpo.evaluation.summary import (
    AGAINST_ANOTHER,
    SINCE_THE_FIRST,
    Difference,
    change,
    say_failed_training,
    say_failure,
    say_standings,
    sign,
)
from sgpo.report.compare import MAX_ALL_PAIRS, ComparisonRow, ComparisonTable, FirstAndLast, find_first_and_last
from sgpo.report.facts import describe_progress
from sgpo.report.read import Measurement, RunRecord
from sgpo.report.training import list_scores


def write_title(runs: Sequence[RunRecord]) -> str:
    """The names of up to three runs; of more the first and how many others."""
    names = [run.name for run in runs]
    return " against ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def write_lede(runs: Sequence[RunRecord], names: Sequence[str], compared: Mapping[str, ComparisonTable]) -> list[str]:
    """The results in a few sentences: losses beside wins, a tie called a tie, and a failure before all else.

    Args:
        runs: the runs.
        names: the problem sets, that of the headline first.
        compared: the comparisons, by the names of their problem sets.
    """
    tables = [compared[name] for name in names if name in compared]
    unended = [f"{run.name} (step {describe_progress(run)})" for run in runs if run.broken_off]
    return [
        *(sentence for run in runs if (sentence := _say_failures(run))),
        *_say_comparisons(runs, tables),
        *dict.fromkeys(table.caution for table in tables if table.caution),
        *_say_own_results(runs, names, [name for name in names if name not in compared]),
        *([] if names else ["No evaluation was written yet, so there is no score to lead with."]),
        *([f"Not ended: {', '.join(unended)}."] if unended else []),
    ]


def _say_failures(run: RunRecord) -> str:
    """Why nothing came out of training, or of the last evaluations; empty where enough is right."""
    training = say_failed_training(run.metrics)
    parts = [f"{training} in training"] if training else []
    last = {evaluation.name: evaluation for evaluation in run.evaluations}
    for name, evaluation in last.items():
        if failure := say_failure(evaluation.verdicts, evaluation.truncated):
            parts.append(f"{failure} on {name} at step {evaluation.step}")
    return f"{run.name}: {'; '.join(parts)}." if parts else ""


def _say_comparisons(runs: Sequence[RunRecord], tables: Sequence[ComparisonTable]) -> list[str]:
    """A sentence for each run that is set against the first, over all problem sets that were measured alike."""
    by_pair: dict[tuple[int, int, str], dict[str, ComparisonRow]] = {}
    sentences = []
    for table in tables:
        first = table.rows[0].run
        rows = [row for row in table.rows if row.baseline == first]
        if len(rows) >= MAX_ALL_PAIRS:
            sentences.append(_count_standings(runs[first].name, rows, table))
            continue
        for row in rows:
            by_pair.setdefault((row.run, first, _say_measure(table, row)), {})[table.name] = row
    for (run, baseline, measure), by_name in by_pair.items():
        results = {name: (row.curve or row.final, _describe_row(row)) for name, row in by_name.items()}
        said = say_standings(results, AGAINST_ANOTHER)
        ratio = next((row.time_ratio for row in by_name.values() if row.time_ratio is not None), None)
        time = f"; for equal completions it took {ratio:.2f} times the seconds" if ratio is not None else ""
        sentences.append(f"{runs[run].name} against {runs[baseline].name}: {said}. Points of {measure}{time}.")
    return sentences


def _say_measure(table: ComparisonTable, row: ComparisonRow) -> str:
    if row.curve and table.budget:
        return f"{table.metric}, averaged over the learning curve up to {table.budget:,} completions"
    return f"{table.metric} in the last evaluation"


def _describe_row(row: ComparisonRow) -> str:
    """The difference over the curve, and the last one where it says something else."""
    if row.curve and sign(row.curve) != sign(row.final):
        return f"{_say_difference(row.curve)}; in the last evaluation {_say_difference(row.final)}"
    return _say_difference(row.curve or row.final)


def _say_difference(difference: Difference) -> str:
    said = format_score(Measurement(difference.mean, difference.low, difference.high), signed=True)
    return said if sign(difference) else f"{said}, the interval includes zero: a tie"


def _count_standings(baseline: str, rows: Sequence[ComparisonRow], table: ComparisonTable) -> str:
    differences = [row.curve or row.final for row in rows]
    counts = _count_signs(differences, ((1, "ahead"), (0, "level"), (-1, "behind")))
    return f"Of {len(rows)} runs set against {baseline} in {table.metric} on {table.name}: {counts}."


def _count_signs(differences: Iterable[Difference], words: Sequence[tuple[int, str]]) -> str:
    """`2 ahead, 1 behind`."""
    signs = Counter(map(sign, differences))
    return ", ".join(f"{signs[wanted]} {word}" for wanted, word in words if signs[wanted])


def _say_own_results(runs: Sequence[RunRecord], names: Sequence[str], alone: Sequence[str]) -> list[str]:
    """What each run won and lost since its first evaluation, or its score on a set of `alone` that it has only one on.

    Of many runs, on how many problem sets they won and lost.
    """
    sentences = []
    metrics = {name: list_scores(runs, name)[0] for name in names}
    finals = [(name, final) for name in names for final in find_first_and_last(runs, name)]
    for index, run in enumerate(runs):
        own = {name: final for name, final in finals if final.run == index and metrics[name] in final.last.scores}
        changes = {name: difference for name, final in own.items() if (difference := _measure_change(final))}
        if len(runs) > MAX_ALL_PAIRS and changes:
            counts = _count_signs(changes.values(), ((1, "better"), (-1, "worse"), (0, "without a clear change")))
            sentences.append(f"{run.name} since its first evaluation, by problem set: {counts}.")
        elif changes:
            results = {name: (one, _say_change(own[name], metrics[name], one)) for name, one in changes.items()}
            said = say_standings(results, SINCE_THE_FIRST)
            sentences.append(f"{run.name} since its first evaluation: {said}.")
        scores = [
            f"{format_score(final.last.scores[metrics[name]])} percent {metrics[name]} on {name}"
            for name, final in own.items()
            if name in alone and name not in changes
        ]
        if scores:
            sentences.append(f"{run.name} scores {', '.join(scores)}.")
    return sentences


def _measure_change(final: FirstAndLast) -> PairedDifference | None:
    """The last evaluation minus the first, where there are two."""
    return None if final.first is final.last else change(final.first.pass_rates, final.last.pass_rates)


def _say_change(final: FirstAndLast, metric: str, difference: Difference) -> str:
    """`28.0 to 75.1 percent avg@4, +47.1 [+41.0, +53.2]`."""
    said = format_score(Measurement(difference.mean, difference.low, difference.high), signed=True)
    if metric not in final.first.scores:
        return said
    before, after = (format_percent(one.scores[metric].mean) for one in (final.first, final.last))
    return f"{before} to {after} percent {metric}, {said}"


def format_score(score: Measurement, *, signed: bool = False) -> str:
    """Format a score from 0 to 1 in percent with its interval, where it is known: `41.0 [36.2, 45.8]`."""
    mean, low, high = (format_percent(value, signed=signed) for value in score)
    return mean if math.isnan(score.low) or math.isnan(score.high) else f"{mean} [{low}, {high}]"


def format_percent(value: float, *, signed: bool = False) -> str:
    """Format a fraction in percent with one decimal: `41.0`; signed `+41.0` or `−0.3`."""
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")
