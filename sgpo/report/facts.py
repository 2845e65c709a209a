"""The facts of a run: what was run and from what, its options, where its time went, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sgpo.evaluation.compare import evaluation_settings
from sgpo.report.read import RunRecord, number_of, series, text_of, visible_text
from sgpo.report.training import gather_alarms

Fact = tuple[str, list[str]]  # a name, and its value in each run


def run_facts(runs: Sequence[RunRecord]) -> list[Fact]:
    """What was run, in the order of reading; facts that no run states are left out."""
    return _align([_facts(run) for run in runs])


def origin_facts(runs: Sequence[RunRecord]) -> list[Fact]:
    """Where and from what it was run; facts that no run states are left out."""
    return _align([_origin(run) for run in runs])


def split_options(runs: Sequence[RunRecord]) -> tuple[list[Fact], list[Fact]]:
    """The options in which the runs differ, and those that are the same, each with its value per run."""
    args = [_mapping(run.config, "args") for run in runs]
    names = sorted({name for one in args for name in one})
    table = [(name, [_say_option(one[name]) if name in one else "not set" for one in args]) for name in names]
    differing = [(name, values) for name, values in table if len(set(values)) > 1]
    return differing, [(name, values) for name, values in table if len(set(values)) == 1]


def measure_phases(run: RunRecord) -> list[tuple[str, float, float]]:
    """The phases of warm-up, training and evaluation, longest first: `(phase, seconds, fraction of all seconds)`."""
    keys = {key for row in run.metrics for key in row if key.startswith("time/")}
    seconds = {key.removeprefix("time/"): sum(value for _, value in series(run.metrics, key)) for key in keys}
    seconds["evaluate"] = sum(value for _, value in series(run.metrics, "eval/runtime"))
    seconds["warm-up"] = sum(value for _, value in series(run.warmup, "train_runtime"))
    total = sum(seconds.values())
    return [
        (phase, value, value / total)
        for phase, value in sorted(seconds.items(), key=lambda part: -part[1])
        if value > 0
    ]


def measure_seconds(run: RunRecord, completions: int) -> float | None:
    """The seconds of training until it had sampled that many completions, without warm-up and evaluations.

    Between two logged steps they grow in proportion. None where the run logged no times, or fewer completions.
    """
    keys = {key for row in run.metrics for key in row if key.startswith("time/")}
    by_step: dict[float, float] = {}
    for step, value in (point for key in keys for point in series(run.metrics, key)):
        by_step[step] = by_step.get(step, 0.0) + value
    at, seconds = [0.0], [0.0]
    for step, count in series(run.metrics, "completions"):
        if step in by_step:
            at.append(count)
            seconds.append(seconds[-1] + by_step[step])
    return float(np.interp(completions, at, seconds)) if 0 < completions <= at[-1] else None


def describe_progress(run: RunRecord) -> str:
    """The steps done: `120`, or `17 of 30` for a run that is in progress or died; empty where none was logged."""
    rows = run.metrics or run.warmup
    steps = max((int(step) for row in rows if (step := number_of(row, "step")) is not None), default=None)
    if steps is None:
        return ""
    planned = number_of(_mapping(run.config, "args"), "max_steps") or 0.0
    return f"{steps:,} of {planned:,g}" if run.broken_off and planned > 0 else f"{steps:,}"


def group_commands(runs: Sequence[RunRecord]) -> list[tuple[list[int], str]]:
    """How to do the runs again: `(indices of runs, shell lines)`; one command may make several runs."""
    by_lines: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        if lines := _write_command(run):
            by_lines.setdefault(lines, []).append(index)
    return [(indices, lines) for lines, indices in by_lines.items()]


def format_duration(seconds: float) -> str:
    """Format seconds: `42 s`, `3 min 05 s`, `17 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _write_command(run: RunRecord) -> str:
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


def _align(facts: Sequence[Mapping[str, str]]) -> list[Fact]:
    """The facts of each run side by side, without those that no run states."""
    table = [(name, [one[name] for one in facts]) for name in facts[0]]
    return [(name, values) for name, values in table if any(values)]


def _facts(run: RunRecord) -> dict[str, str]:
    config = run.config
    sampled = [count for row in run.metrics if (count := number_of(row, "completions")) is not None]
    sampled += [evaluation.completions for evaluation in run.evaluations if evaluation.completions is not None]
    return {
        "Algorithm": text_of(config, "algorithm"),
        "Model": text_of(config, "model"),
        "Problems": _summarize(config, "problems"),
        "Strategies": _summarize(config, "strategies"),
        "Evaluated with": ", ".join(
            visible_text(f"{name} {value}") for name, value in evaluation_settings(config).items()
        )
        if run.evaluations
        else "",
        "Steps": describe_progress(run) + (", not ended" if run.broken_off else ""),
        "Completions": f"{int(max(sampled)):,}" if sampled else "",
        "Time": format_duration(seconds) if (seconds := sum(seconds for _, seconds, _ in measure_phases(run))) else "",
        "Alarms": ", ".join(f"{alarm.kind} ×{alarm.count}" for alarm in gather_alarms(run)) or "none",
    }


def _origin(run: RunRecord) -> dict[str, str]:
    config = run.config
    return {
        "Prompts": _summarize(config, "prompts"),
        "Their texts": _texts(_mapping(config, "prompts")),
        "Started": text_of(config, "started").replace("T", " ").replace("+00:00", " UTC"),
        "Resumed with": _changes(config),
        "Machine": _summarize(config, "machine"),
        "Commit": _commit(config)[0][:12] + (" with uncommitted changes" if _commit(config)[1] else ""),
        "Versions": ", ".join(f"{name} {value}" for name, value in _mapping(config, "versions").items()),
        "Directory": visible_text(str(run.path)),
    }


def _texts(prompts: Mapping[str, Any]) -> str:
    """The texts of prompts of a user's own; empty where a style of ours has them."""
    return visible_text(" · ".join(f"{name}: {text}" for name, text in _mapping(prompts, "texts").items()))


def _changes(config: Mapping[str, Any]) -> str:
    """The options that a run was resumed with in place of others: `max_steps 200 after step 120`."""
    changes = config.get("changes")
    lines = []
    for change in changes if isinstance(changes, list) else []:
        options = _mapping(change, "options") if isinstance(change, dict) else {}
        values = ", ".join(f"{name} {_say_option(_mapping(options, name).get('now'))}" for name in options)
        if values:
            lines.append(f"{values} after step {change.get('step')}")
    return "; ".join(lines)


def _summarize(config: Mapping[str, Any], key: str) -> str:
    """An object of `config.json` in a line: `400 problems · 0 too long · bank.db`; a hash is cut short."""
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


def _say_option(value: Any) -> str:
    return "none" if value is None else str(value)
