"""Solutions without a strong model: the policy's own correct completions, from a run's rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sgpo.errors import InputError
from sgpo.problems import Problem


def with_own_solutions(problems: Sequence[Problem], run: Path) -> list[Problem]:
    """The problems with a correct completion of the policy as `solution`, None where the run has none.

    The last autonomous one is taken, of those the policy found without help; where there is none, the last guided one.
    Raises InputError that names the file and row: no rollouts, a row that is none.
    """
    files = sorted((run / "rollouts").glob("*.jsonl"))
    if not files:
        raise InputError(f"{run}: no rollouts in it; --from-run wants the directory of a training run")
    wanted = {problem.id for problem in problems}
    found: dict[str, tuple[bool, str]] = {}
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    id_, autonomous = row["problem_id"], row["group"] == "autonomous"
                    correct, completion = row["verdict"] == "correct", row["completion"]
                except (ValueError, TypeError, KeyError) as error:
                    reason = f"no {error}" if isinstance(error, KeyError) else "not a JSON object"
                    raise InputError(f"{file}, row {number}: not a rollout ({reason})") from None
                if correct and id_ in wanted and (autonomous or not found.get(id_, (False, ""))[0]):
                    found[id_] = (autonomous, completion)
    return [replace(problem, solution=found[problem.id][1] if problem.id in found else None) for problem in problems]
