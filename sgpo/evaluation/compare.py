"""The comparison of runs on the problems they were both evaluated on: final scores, learning curves, differences.

Reads run directories only (docs/run-directory.md). Where the budgets of training differ, the *curve score* is the fair
one: avg@k averaged over the learning curve, against the completions that training had sampled, up to the budget that
every run reached. Scores under different settings are different measurements: `unlike_settings` names them, and every
comparison carries what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.errors import InputError, RunDirectoryError
from sgpo.evaluation.scores import PairedDifference, ScoreEstimate, interval, paired_difference, samples_per_problem
from sgpo.io import read_json

SETTINGS = ("temperature", "top_p", "max_tokens")

PerProblem = dict[str, float]


@dataclass(frozen=True, slots=True)
class RunScore:
    """A run on one problem set. `final` is avg@k of its last evaluation; `curve` the curve score (None: one evaluation
    only, or none within the common budget). `missing` of its problems have no answer: it was evaluated in part."""

    run: str
    algorithm: str
    step: int
    completions: int
    k: int
    missing: int
    final: ScoreEstimate
    curve: ScoreEstimate | None


@dataclass(frozen=True, slots=True)
class RunDifference:
    """Run `run` minus run `baseline`, paired over problems."""

    run: str
    baseline: str
    final: PairedDifference
    curve: PairedDifference | None


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """All runs on one problem set, on the `problems` that every one of them has answered.

    `total` is how many the set has; `budget` how many completions the curves reach to (None: no curves).
    """

    name: str
    problems: int
    total: int
    budget: int | None
    runs: tuple[RunScore, ...]
    differences: tuple[RunDifference, ...]


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Runs compared on every problem set that all of them were evaluated on; the first run is the first baseline.

    `left_out` names the problem sets that only some of the runs have; `caution` is what `unlike_settings` says of them.
    """

    evaluations: tuple[EvaluationComparison, ...]
    left_out: tuple[str, ...]
    caution: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """An evaluation at one moment of a run; `scores` is avg@k of each problem that is not missing."""

    step: int
    completions: int
    k: int
    missing: int
    scores: PerProblem


def compare_runs(runs: Sequence[str | Path]) -> RunComparison:
    """Compare two or more run directories; the first is the baseline.

    Raises:
        InputError: There are fewer than two runs, they share no problem set, or one name stands for different problems.
        RunDirectoryError: A directory is not a run, has no evaluations, or has one that cannot be read. The message
            names it and the fix.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a comparison needs two or more different run directories")
    names = _run_names(paths)
    algorithms = [_read_object(path / "config.json").get("algorithm", "") for path in map(_checked, paths)]
    curves = [read_curves(path) for path in paths]
    common = [name for name in curves[0] if all(name in others for others in curves)]
    if not common:
        has = "; ".join(f"{path} has {', '.join(curve)}" for path, curve in zip(paths, curves, strict=True))
        raise InputError(f"the runs share no evaluation: {has}")
    evaluations = tuple(
        _compare(name, list(zip(names, algorithms, [curve[name] for curve in curves], strict=True))) for name in common
    )
    left_out = {name for curve in curves for name in curve} - set(common)
    return RunComparison(evaluations=evaluations, left_out=tuple(sorted(left_out)), caution=unlike_settings(paths))


def read_curves(run: Path) -> dict[str, list[CurvePoint]]:
    """The evaluations of a run by problem set, in the order of completions.

    Raises:
        RunDirectoryError: The run has no evaluations, or one that cannot be read.
    """
    curves: dict[str, dict[int, CurvePoint]] = {}
    for file in sorted((_checked(run) / "eval").glob("*.json")):
        row = _read_object(file)
        try:
            name, samples = str(row["name"]), row["samples"]
            k = samples_per_problem(samples)
            scores = {id_: kinds.count("correct") / k for id_, kinds in samples.items()}
            point = CurvePoint(int(row["step"]), int(row["completions"]), k, int(row.get("missing", 0)), scores)
        except KeyError as error:
            raise RunDirectoryError(f"{file}: no {error} in it; see docs/run-directory.md") from None
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise RunDirectoryError(f"{file}: not an evaluation of a run ({error})") from None
        points = curves.setdefault(name, {})
        # A resumed run may have evaluated a moment twice; the later step is the one that counts.
        if point.completions not in points or points[point.completions].step <= point.step:
            points[point.completions] = point
        if scores.keys() != next(iter(points.values())).scores.keys():
            raise RunDirectoryError(f"{file}: other problems than in the run's earlier evaluations named {name!r}")
    if not curves:
        raise RunDirectoryError(
            f"{run}: no evaluations in its folder eval; train with evaluation, or run `sgpo eval --out`"
        )
    return {name: sorted(points.values(), key=lambda point: point.completions) for name, points in curves.items()}


def curve_score(points: Sequence[tuple[int, Mapping[str, float]]], *, start: int, budget: int) -> PerProblem:
    """The mean of each problem's score over the completions from `start` to `budget`.

    `points` are (completions, score per problem), rising in completions. Between two points the curve is a straight
    line (trapezoid rule), outside it is level.
    """
    at = [completions for completions, _ in points]
    grid = np.array(sorted({start, budget, *(x for x in at if start < x < budget)}), dtype=float)
    return {
        id_: float(np.trapezoid(np.interp(grid, at, [scores[id_] for _, scores in points]), grid) / (budget - start))
        for id_ in points[0][1]
    }


def evaluation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, top_p and max_tokens of a run's evaluations, as far as its `config.json` says them.

    They are the settings of `sgpo eval`, or the options `eval_...` of a training run.
    """
    evaluation = config.get("evaluation")
    told = evaluation.get("settings") if isinstance(evaluation, dict) else config.get("args")
    prefix = "" if isinstance(evaluation, dict) else "eval_"
    return {name: told[prefix + name] for name in SETTINGS if prefix + name in told} if isinstance(told, dict) else {}


def unlike_settings(runs: Sequence[Path]) -> str | None:
    """A sentence for the reader of a comparison where the runs were evaluated under different settings, else None.

    It looks at what was asked for, and at what came of it: the limit of tokens that the completions of an evaluation
    really had, and the sampling options that an endpoint refused.

    Raises:
        RunDirectoryError: A `config.json` or an evaluation cannot be read.
    """
    configs = [_read_object(run / "config.json") for run in runs]
    unlike = _differences([evaluation_settings(config) | _prompt(config) | _chat(config) for config in configs])
    if "max_tokens" not in unlike:
        asked = [evaluation_settings(config).get("max_tokens") for config in configs]
        unlike |= _differences([_limits(run, most) for run, most in zip(runs, asked, strict=True)])
    unlike |= _differences([_left_to_server(run) for run in runs])
    if not unlike:
        return None
    differences = "; ".join(f"{name} {' against '.join(dict.fromkeys(values))}" for name, values in unlike.items())
    return f"The runs were evaluated under different settings ({differences}): a difference may come from these alone."


def _compare(name: str, runs: Sequence[tuple[str, str, list[CurvePoint]]]) -> EvaluationComparison:
    total, common = _shared_problems(name, [(run, points[-1]) for run, _, points in runs])
    runs = [(run, algorithm, [_restricted(point, common) for point in points]) for run, algorithm, points in runs]
    final = {run: points[-1].scores for run, _, points in runs}
    trained = [points for _, _, points in runs if len(points) > 1]
    start = max((points[0].completions for points in trained), default=0)
    budget = min((points[-1].completions for points in trained), default=0)
    curves = {
        run: curve_score([(p.completions, p.scores) for p in points], start=start, budget=budget)
        for run, _, points in runs
        if len(points) > 1 and start < budget
    }
    return EvaluationComparison(
        name=name,
        problems=len(common),
        total=total,
        budget=budget if curves else None,
        runs=tuple(
            RunScore(
                run=run,
                algorithm=algorithm,
                step=points[-1].step,
                completions=points[-1].completions,
                k=points[-1].k,
                missing=points[-1].missing,
                final=_estimate(final[run]),
                curve=_estimate(curves[run]) if run in curves else None,
            )
            for run, algorithm, points in runs
        ),
        differences=tuple(
            RunDifference(
                run=run,
                baseline=baseline,
                final=paired_difference(final[run], final[baseline]),
                curve=paired_difference(curves[run], curves[baseline]) if {run, baseline} <= curves.keys() else None,
            )
            for (baseline, _, _), (run, _, _) in combinations(runs, 2)
        ),
    )


def _shared_problems(name: str, last: Sequence[tuple[str, CurvePoint]]) -> tuple[int, set[str]]:
    """How many problems the set has, and those that no run misses.

    Raises InputError where a run lacks more problems than it says are missing, and where all problems are missed.
    """
    (first_name, first), *others = last
    total = len(first.scores) + first.missing
    for other_name, other in others:
        other_total = len(other.scores) + other.missing
        if other_total != total or len(first.scores.keys() | other.scores.keys()) > total:
            unlike = first.scores.keys() ^ other.scores.keys()
            how = f"{len(unlike)} are in one only, such as {min(unlike)!r}" if unlike else f"{total} and {other_total}"
            raise InputError(
                f"{first_name} and {other_name} were evaluated on different problems under the name {name!r} ({how}); "
                "evaluate both on the same file"
            )
    common = set(first.scores).intersection(*(other.scores for _, other in others))
    if not common:
        raise InputError(f"no problem of {name!r} was answered in every run; finish the incomplete evaluations")
    return total, common


def _restricted(point: CurvePoint, problems: set[str]) -> CurvePoint:
    return replace(point, scores={id_: score for id_, score in point.scores.items() if id_ in problems})


def _differences(told: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The values of each setting that is not the same in all runs which say it."""
    names = dict.fromkeys(name for settings in told for name in settings)
    values = {name: [str(settings[name]) for settings in told if name in settings] for name in names}
    return {name: given for name, given in values.items() if len(set(given)) > 1}


def _prompt(config: Mapping[str, Any]) -> dict[str, str]:
    """The style and version of the prompt, as `sgpo eval` or a training run says it."""
    evaluation, prompts = config.get("evaluation"), config.get("prompts")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("settings"), dict):
        return {"prompt": evaluation["settings"]["prompt"]} if "prompt" in evaluation["settings"] else {}
    return {"prompt": f"{prompts.get('style')} {prompts.get('version')}"} if isinstance(prompts, dict) else {}


def _chat(config: Mapping[str, Any]) -> dict[str, str]:
    """How training shaped the chat, and how strictly completions are judged: `sgpo eval` is always lenient."""
    evaluation, told = config.get("evaluation"), config.get("args")
    if isinstance(evaluation, dict):
        settings = evaluation.get("settings")
        chat = settings.get("chat") if isinstance(settings, dict) else None
        told = {**(chat if isinstance(chat, dict) else {}), "verifier_policy": "lenient"}
    names = ("system_prompt", "chat_template_kwargs", "verifier_policy")
    return {name: json.dumps(told[name]) for name in names if name in told} if isinstance(told, dict) else {}


def _limits(run: Path, asked: Any) -> dict[str, Any]:
    """The limit of tokens in each evaluation; the one asked for, where the evaluation says nothing else."""
    return {f"max_tokens of {name}": row.get("max_tokens", asked) or "none" for name, row in _evaluations(run).items()}


def _left_to_server(run: Path) -> dict[str, str]:
    """The sampling options that were left to the server in each evaluation."""
    left = {name: row.get("left_to_server") for name, row in _evaluations(run).items()}
    return {
        f"left to the server in {name}": " and ".join(map(str, options)) if options else "nothing"
        for name, options in left.items()
        if options is None or isinstance(options, list)
    }


def _evaluations(run: Path) -> dict[str, dict[str, Any]]:
    """What the last `eval/*.json` of each problem set says."""
    rows = [_read_object(file) for file in sorted((run / "eval").glob("*.json"))]
    return {str(row["name"]): row for row in rows if "name" in row}


def _estimate(scores: PerProblem) -> ScoreEstimate:
    return interval(np.array(list(scores.values())))


def _run_names(paths: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _checked(run: Path) -> Path:
    if not run.is_dir():
        raise RunDirectoryError(f"{run}: no such run directory")
    if not (run / "config.json").is_file():
        raise RunDirectoryError(
            f"{run}: not a run directory (no config.json in it); give a directory that `--out` made"
        )
    return run


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = read_json(file)
    except (OSError, InputError) as error:
        raise RunDirectoryError(f"cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{file}: a JSON {type(value).__name__}, expected an object")
    return value
