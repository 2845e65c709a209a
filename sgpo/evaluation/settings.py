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

    Raises OSError or ValueError for a run without a readable `config.json`.
    """
    told = [evaluation_settings(json.loads((run / "config.json").read_text(encoding="utf-8"))) for run in runs]
    unlike = {
        name: values
        for name in SETTINGS
        if len(set(values := [str(settings[name]) for settings in told if name in settings])) > 1
    }
    if not unlike:
        return None
    differences = "; ".join(f"{name} {' against '.join(dict.fromkeys(values))}" for name, values in unlike.items())
    return f"The runs were evaluated under different settings ({differences}): a difference may come from these alone."
