"""The top of the page: what was run, the headline score of every run, where the time went, how to do it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sgpo.report.panels import metrics_of
from sgpo.report.plots import PAGE, Estimate, forest_figure, to_svg
from sgpo.report.reading import Evaluation, Interval, Run, number_of, series, text_of
from sgpo.report.text import visible_text


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


def forest(estimates: Sequence[Estimate], *, name: str, label: str, x_label: str, zero: bool) -> Markup:
    """A small forest plot, narrow enough for a phone."""
    figure = forest_figure(estimates, palette=PAGE, width=340.0, x_label=x_label, zero=zero)
    return Markup(to_svg(figure, name=name, label=label))


def run_facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What was run, as `(name, value per run)` in the order of reading; what no run says is left out."""
    facts = [_facts(run) for run in runs]
    table = [(name, [one[name] for one in facts]) for name in facts[0]]
    return [(name, values) for name, values in table if any(values)]


def options_table(runs: Sequence[Run]) -> tuple[list[tuple[str, list[str]]], int]:
    """The options in which the runs differ, as `(option, value per run)`, and the number of those they share."""
    args = [_mapping(run.config, "args") for run in runs]
    names = sorted({name for one in args for name in one})
    table = [(name, [_option(one[name]) if name in one else "not set" for one in args]) for name in names]
    differing = [(name, values) for name, values in table if len(set(values)) > 1]
    return differing, len(table) - len(differing)


def phases(run: Run) -> list[tuple[str, float, float]]:
    """`(phase, seconds, share)` of the time of training, longest first."""
    keys = {key for row in run.metrics for key in row if key.startswith("time/")}
    seconds = {key.removeprefix("time/"): sum(value for _, value in series(run, key)) for key in keys}
    seconds["evaluate"] = sum(value for _, value in series(run, "eval/runtime"))
    total = sum(seconds.values())
    return [
        (phase, value, value / total)
        for phase, value in sorted(seconds.items(), key=lambda part: -part[1])
        if value > 0
    ]


def wall_seconds(run: Run) -> float:
    """Seconds over all phases."""
    return sum(seconds for _, seconds, _ in phases(run))


def reproduce(run: Run) -> str:
    """Shell lines that do the run again, as far as the run says how."""
    lines = []
    commit, changed = _commit(run.config)
    if commit:
        lines.append(f"git checkout {shlex.quote(commit)}" + ("  # and its uncommitted changes" if changed else ""))
    versions = _mapping(run.config, "versions")
    # A local label (2.13.0+cpu) says which index the wheel came from; no index offers it under that name.
    pins = [
        shlex.quote(f"{name}=={str(version).partition('+')[0]}")
        for name, version in versions.items()
        if name not in ("sgpo", "python")
    ]
    if pins:
        lines.append(f"pip install {' '.join(pins)} --editable .")
    if command := text_of(run.config, "command"):
        lines.append(command)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `17 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def points(interval: Interval, *, signed: bool = False) -> str:
    """A score of 0 to 1 in percent with its interval: `41.0 [36.2, 45.8]`."""
    sign = "+" if signed else ""

    def percent(value: float) -> str:
        return f"{100 * value:{sign}.1f}".replace("-", "−")

    if interval.low != interval.low or interval.high != interval.high:
        return percent(interval.mean)
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"


def _facts(run: Run) -> dict[str, str]:
    config = run.config
    steps = max((int(step) for row in run.metrics if (step := number_of(row, "step")) is not None), default=None)
    sampled = [count for row in run.metrics if (count := number_of(row, "completions")) is not None]
    sampled += [evaluation.completions for evaluation in run.evaluations if evaluation.completions is not None]
    return {
        "Algorithm": text_of(config, "algorithm"),
        "Model": text_of(config, "model"),
        "Problems": _summary(config, "problems"),
        "Strategies": _summary(config, "strategies"),
        "Prompts": _summary(config, "prompts"),
        "Steps": f"{steps:,}" if steps is not None else "",
        "Completions": f"{int(max(sampled)):,}" if sampled else "",
        "Time": duration(seconds) if (seconds := wall_seconds(run)) else "",
        "Started": text_of(config, "started").replace("T", " ").replace("+00:00", " UTC"),
        "Machine": _summary(config, "machine"),
        "Commit": _commit(config)[0][:12] + (" with uncommitted changes" if _commit(config)[1] else ""),
        "Versions": ", ".join(f"{name} {value}" for name, value in _mapping(config, "versions").items()),
        "Command": text_of(config, "command"),
        "Directory": visible_text(str(run.path)),
    }


def _summary(config: Mapping[str, Any], key: str) -> str:
    """An object of config.json in a line: `400 problems · 0 too long · bank.db`; a hash is cut short."""
    parts = []
    for name, value in _mapping(config, key).items():
        if isinstance(value, str):
            parts.append(f"{name} {value[:12]}" if name == "sha256" else value)
        elif (number := number_of({name: value}, name)) is not None:
            parts.append(f"{number:,g} {name.replace('_', ' ')}".removesuffix(" count"))
    return " · ".join(parts)


def _commit(config: Mapping[str, Any]) -> tuple[str, bool]:
    """The commit, and whether the tree had changes that are not in it."""
    commit = text_of(config, "git_commit")
    return commit.removesuffix("+"), commit.endswith("+")


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _option(value: Any) -> str:
    return "none" if value is None else str(value)
