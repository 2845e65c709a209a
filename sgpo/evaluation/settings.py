"""Under which sampling settings runs were evaluated: scores from different ones are different measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = ("temperature", "top_p", "max_tokens")


def evaluation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, top_p and max_tokens of a run's evaluations, as far as its `config.json` says them.

    They are those of `sgpo eval`, or the options `eval_...` of a training run.
    """
    evaluation = config.get("evaluation")
    told = evaluation.get("settings") if isinstance(evaluation, dict) else config.get("args")
    prefix = "" if isinstance(evaluation, dict) else "eval_"
    return {name: told[prefix + name] for name in SETTINGS if prefix + name in told} if isinstance(told, dict) else {}


def unlike_settings(runs: Sequence[Path]) -> str | None:
    """A sentence for the reader of a comparison where the runs were evaluated under different settings.

    Beside what was asked for it sees what came of it: the limit of tokens that the completions of an evaluation really
    had, and the options that an endpoint refused. Raises OSError or ValueError for a run without a readable
    `config.json`, or with an evaluation that cannot be read.
    """
    configs = [_read(run / "config.json") for run in runs]
    unlike = _differences([evaluation_settings(config) | _prompt(config) for config in configs])
    if "max_tokens" not in unlike:
        asked = [evaluation_settings(config).get("max_tokens") for config in configs]
        unlike |= _differences([_limits(run, most) for run, most in zip(runs, asked, strict=True)])
    unlike |= _differences([_left_to_server(run) for run in runs])
    if not unlike:
        return None
    differences = "; ".join(f"{name} {' against '.join(dict.fromkeys(values))}" for name, values in unlike.items())
    return f"The runs were evaluated under different settings ({differences}): a difference may come from these alone."


def _differences(told: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The values of each setting that is not the same in all runs which say it."""
    names = dict.fromkeys(name for settings in told for name in settings)
    values = {name: [str(settings[name]) for settings in told if name in settings] for name in names}
    return {name: given for name, given in values.items() if len(set(given)) > 1}


def _prompt(config: Mapping[str, Any]) -> dict[str, str]:
    """The style and version of the prompt: of `sgpo eval`, or of a training run."""
    evaluation, prompts = config.get("evaluation"), config.get("prompts")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("settings"), dict):
        return {"prompt": evaluation["settings"]["prompt"]} if "prompt" in evaluation["settings"] else {}
    return {"prompt": f"{prompts.get('style')} {prompts.get('version')}"} if isinstance(prompts, dict) else {}


def _limits(run: Path, asked: Any) -> dict[str, Any]:
    """The limit of tokens in each evaluation; the one asked for, where the evaluation says nothing else."""
    return {f"max_tokens of {name}": row.get("max_tokens", asked) or "none" for name, row in _evaluations(run).items()}


def _left_to_server(run: Path) -> dict[str, str]:
    """The sampling options that were left to the server in each evaluation."""
    return {
        f"left to the server in {name}": " and ".join(row.get("left_to_server", ())) or "nothing"
        for name, row in _evaluations(run).items()
    }


def _evaluations(run: Path) -> dict[str, dict[str, Any]]:
    """What the last `eval/*.json` of each problem set says."""
    rows = [_read(file) for file in sorted((run / "eval").glob("*.json"))]
    return {row["name"]: row for row in rows if "name" in row}


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
