"""What `sgpo score` does: completions that exist already, judged and scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.evaluation.output import EvalOutput, score_rows
from sgpo.io import counted, read_rows
from sgpo.problems import load_problems
from sgpo.verifier import Verifier


def score_file(completions: Path, problems: Path, *, samples: int | None = None, seed: int = 0) -> EvalOutput:
    """Judge the completions of a file, rows `{"id": ..., "completion": ...}`; several rows of one id are its samples.

    `samples`: the first so many of each problem count, and a problem that has fewer is missing. Without it, every
    problem that occurs must have the same number. Rows that `sgpo eval` wrote (`problem_id`) are read too.

    Raises InputError that names the file and row: not JSON, no id or completion, an id that is no problem's; and the
    problem whose number of completions differs.
    """
    loaded = load_problems(problems)
    by_id = {problem.id: problem for problem in loaded}
    seen: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for number, row in read_rows(completions):
        where = f"{completions}, row {number}"
        id_ = row.get("id", row.get("problem_id"))
        completion = row.get("completion")
        if id_ is None or not isinstance(completion, str):
            raise InputError(f"{where}: expected {{'id': ..., 'completion': 'text'}}, found {sorted(row)}")
        if (id_ := str(id_)) not in by_id:
            raise InputError(f"{where}: no problem {id_!r} in {problems}; score against the file that it was made from")
        tokens, truncated = row.get("tokens"), row.get("truncated")
        rows.append(
            {
                "problem_id": id_,
                "sample": seen[id_],
                "completion": completion,
                "tokens": tokens if isinstance(tokens, int) else None,
                "truncated": truncated if isinstance(truncated, bool) else None,
            }
        )
        seen[id_] += 1
    if not rows:
        raise InputError(f"{completions}: no completions in it; expected one JSON object per line")
    k = samples or _same_count(completions, seen)
    with Verifier() as verifier:
        verdicts = verifier.verify_many([(row["completion"], by_id[row["problem_id"]]) for row in rows])
        for row, verdict in zip(rows, verdicts, strict=True):
            row |= {"verdict": verdict.kind, "extracted": verdict.extracted}
        return score_rows(loaded, rows, verifier, samples=k, seed=seed)


def _same_count(completions: Path, seen: Counter[str]) -> int:
    (most, k), (least, fewest) = seen.most_common()[0], seen.most_common()[-1]
    if k != fewest:
        raise InputError(
            f"{completions}: problem {most!r} has {counted(k, 'completion')}, problem {least!r} has {fewest}; "
            "--samples K scores the first K of each and counts problems with fewer as missing"
        )
    return k
