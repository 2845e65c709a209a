"""The solutions that strategies are written from: the policy's own, without reasoning, and no longer than is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sgpo.errors import InputError
from sgpo.io import check_unicode, read_rows
from sgpo.problems import Problem, without_calculator_marks
from sgpo.reasoning import without_reasoning

MAX_SOLUTION_CHARS = 32_000  # about 10,000 tokens; see `cut_solution`
CUT_MARK = "\n\n[... {count:,} characters left out ...]\n\n"


def read_own_solutions(problems: Sequence[Problem], run: Path) -> list[Problem]:
    """The problems with a correct completion of the policy as `solution`, None where the run has none.

    The last autonomous completion is taken; where none was correct, the last guided one.

    Raises:
        InputError: No rollouts, or a row that is none; the message names the file and row.
    """
    files = sorted((run / "rollouts").glob("*.jsonl"))
    if not files:
        raise InputError(f"{run}: no rollouts in it; --from-run wants the directory of a training run")
    wanted = {problem.id for problem in problems}
    found: dict[str, tuple[bool, str]] = {}
    for file in files:
        for number, row in read_rows(file):
            try:
                id_, autonomous = row["problem_id"], row["group"] == "autonomous"
                correct, completion = row["verdict"] == "correct", row["completion"]
                check_unicode(completion)
            except KeyError as error:
                raise InputError(f"{file}, row {number}: not a rollout (no {error})") from None
            except InputError as error:
                raise InputError(f"{file}, row {number}: 'completion' holds {error}") from None
            if correct and id_ in wanted and (autonomous or not found.get(id_, (False, ""))[0]):
                found[id_] = (autonomous, completion)
    return [replace(problem, solution=found[problem.id][1] if problem.id in found else None) for problem in problems]


def clean_solution(solution: str) -> str:
    """A solution without the reasoning before it, where something follows, and without GSM8K's calculator marks."""
    return without_calculator_marks(without_reasoning(solution).strip() or solution.strip())


def cut_solution(solution: str, *, limit: int = MAX_SOLUTION_CHARS) -> str:
    """A solution as the strong model is shown it: whole up to `limit` characters, else its first quarter and its last
    three quarters of that, with a mark between them that says how much is left out. The end weighs more because that is
    where a long trace has found its way; both cuts are made between lines where there is one nearby."""
    if len(solution) <= limit:
        return solution
    end, start = limit // 4, len(solution) - (limit - limit // 4)
    end = solution.rfind("\n", end // 2, end) + 1 or end
    start = solution.find("\n", start - 1, start + limit // 4) + 1 or start
    return solution[:end] + CUT_MARK.format(count=start - end) + solution[start:]
