"""Read the finished runs of a study, and choose the learning rates."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from research.plan import SPLITS, Study, StudyRun, Table, check_settings, runs_of, settings_of
from sgpo.io import read_json

RunValue = Callable[[dict[str, Any]], float]


@dataclass(frozen=True, slots=True)
class TableResults:
    """The runs of a table: all that are planned, and the JSON of each that is finished."""

    planned: list[StudyRun]
    finished: dict[StudyRun, dict[str, Any]]

    def by_replicate(self, arm: str, value: RunValue, *, rate: float | None = None) -> dict[int, float]:
        """A number of every finished run of an arm, by replicate."""
        return {
            run.replicate: value(result)
            for run, result in self.finished.items()
            if run.arm == arm and (rate is None or run.learning_rate == rate)
        }

    def mean(self, arm: str, value: RunValue) -> float | None:
        """The mean of that number over the arm's runs; None if no run is finished."""
        values = self.by_replicate(arm, value).values()
        return statistics.fmean(values) if values else None


def read_results(study: Study, table: Table) -> TableResults:
    """Read the finished runs of a table. Raises InputError for a broken file."""
    planned = runs_of(study, table)
    found = {run: read_result(study, run) for run in planned}
    return TableResults(planned, {run: result for run, result in found.items() if result is not None})


def read_result(study: Study, run: StudyRun) -> dict[str, Any] | None:
    """The JSON of a finished run; None if it is not finished.

    The first results of the shipped study name no settings; they are taken as they are.

    Raises:
        InputError: The file is broken, or was made with other settings than the study has now.
    """
    file = study.results / f"{run.name}.json"
    if not file.exists():
        return None
    result: dict[str, Any] = read_json(file)
    check_settings(file, result.get("settings", {}), settings_of(study, run))
    return result


def average(split: str) -> RunValue:
    """avg@k on a split."""

    def value(result: dict[str, Any]) -> float:
        return next(score for key, score in result["scores"][split].items() if key.startswith("avg@"))

    return value


def over_splits(result: dict[str, Any]) -> float:
    """The mean of avg@k over all splits; learning rates are chosen by it."""
    return statistics.fmean(average(split)(result) for split in SPLITS)


def best_rates(study: Study, table: Table) -> dict[str, float]:
    """The learning rate of each arm with the best mean over all splits, among those whose replicates are all there."""
    results = read_results(study, table)
    chosen = {}
    for arm in table.arms:
        scores = {rate: results.by_replicate(arm, over_splits, rate=rate) for rate in table.rates}
        complete = {rate: statistics.fmean(s.values()) for rate, s in scores.items() if len(s) == table.replicates}
        if complete:
            chosen[arm] = max(complete, key=lambda rate: complete[rate])
    return chosen


def all_runs(study: Study, tables: Iterable[Table]) -> list[StudyRun]:
    """The runs of several tables, each once."""
    return list(dict.fromkeys(run for table in tables for run in runs_of(study, table)))
