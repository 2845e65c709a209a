"""From judged completions to what an evaluation says: scores, subjects and levels, lengths, what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from sgpo.errors import InputError
from sgpo.evaluation.scores import interval, score_samples
from sgpo.io import counted
from sgpo.problems import Problem
from sgpo.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]  # a row of `eval/*.jsonl`, see docs/run-directory.md


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOutput:
    """`scores` is the object of the contract, over the problems that have all their samples; `missing` are the others.

    `samples` holds the verdict kinds per problem; `details` subjects, levels, lengths and the truncated share.
    """

    scores: dict[str, Any]
    details: dict[str, Any]
    samples: dict[str, list[str]]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `sgpo eval --json` and `sgpo score --json` print."""
        return {**self.scores, "missing": len(self.missing), **self.details}


def completion_row(
    problem: Problem,
    sample: int,
    verdict: Verdict,
    *,
    prompt: str,
    completion: str,
    tokens: int | None,
    truncated: bool,
) -> dict[str, Any]:
    """A judged completion, the `sample`-th of its problem, as a row of `eval/*.jsonl`."""
    return {
        "problem_id": problem.id,
        "subject": problem.subject,
        "sample": sample,
        "prompt": prompt,
        "completion": completion,
        "tokens": tokens,
        "truncated": truncated,
        "verdict": verdict.kind,
        "extracted": verdict.extracted,
    }


def score_rows(
    problems: Sequence[Problem], rows: Iterable[Row], verifier: Verifier, *, samples: int, seed: int
) -> EvalOutput:
    """Score the first `samples` judged completions of each problem; a problem that has fewer is missing.

    Raises InputError where every problem is missing.
    """
    by_problem: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem_id"]][row["sample"]] = row
    wanted = range(samples)
    whole = [problem for problem in problems if all(number in by_problem[problem.id] for number in wanted)]
    if not whole:
        among = counted(len(problems), "problem")
        raise InputError(f"none of {among} has all of its samples ({samples} each): nothing to score")
    kept = {problem.id: [by_problem[problem.id][number] for number in wanted] for problem in whole}
    kinds = {id_: [row["verdict"] for row in rows] for id_, rows in kept.items()}
    answers = {id_: [row["extracted"] for row in rows] for id_, rows in kept.items()}
    answers = merge_equal_answers(kinds, answers, whole, verifier)
    return EvalOutput(
        scores=score_samples(kinds, answers, seed=seed),
        details=describe(whole, [row for rows in kept.values() for row in rows], kinds, seed=seed),
        samples=kinds,
        missing=tuple(problem.id for problem in problems if problem.id not in kept),
    )


def describe(
    problems: Sequence[Problem], rows: Sequence[Row], kinds: Mapping[str, Sequence[str]], *, seed: int
) -> dict[str, Any]:
    """What stands beside the scores: lengths, the truncated share, and the mean score per subject and level; and where
    there are any, the sampling options that were left to a server."""
    left = sorted({name for row in rows for name in row.get("left_to_server", ())})
    return {
        **_lengths(rows),
        **({"left_to_server": left} if left else {}),
        "subjects": _parts({problem.id: problem.subject for problem in problems}, kinds, seed=seed),
        "levels": _parts({problem.id: problem.level for problem in problems}, kinds, seed=seed),
    }


def merge_equal_answers(
    kinds: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str | None]],
    problems: Sequence[Problem],
    verifier: Verifier,
) -> dict[str, list[str | None]]:
    """The answers, with every wrong one replaced by the first of its problem that is mathematically equal to it, so
    that two ways of writing it are one vote.

    Asks the verifier only where it decides a majority: the correct answer has votes, and not more than all the wrong
    ones together. Problems that are not judged as mathematics keep their answers.
    """
    merged = {id_: [None if a is None else " ".join(a.split()) for a in given] for id_, given in answers.items()}
    pairs: list[tuple[str, str, str]] = []
    for problem in problems:
        votes = [
            answer
            for kind, answer in zip(kinds[problem.id], merged[problem.id], strict=True)
            if kind not in ("correct", "unparsed") and answer is not None
        ]
        correct = list(kinds[problem.id]).count("correct")
        if problem.kind == "math" and 0 < correct <= len(votes):
            pairs += [(problem.id, first, other) for first, other in combinations(dict.fromkeys(votes), 2)]
    verdicts = verifier.verify_many([(f"\\boxed{{{other}}}", first) for _, first, other in pairs])
    firsts: dict[tuple[str, str], str] = {}
    for (id_, first, other), verdict in zip(pairs, verdicts, strict=True):
        if verdict.correct:
            firsts.setdefault((id_, other), firsts.get((id_, first), first))
    return {
        id_: [None if answer is None else firsts.get((id_, answer), answer) for answer in given]
        for id_, given in merged.items()
    }


def show_output(output: EvalOutput, *, title: str, console: Console) -> None:
    """Tables for the terminal. A score that lacks problems says so in its title and in every line of its name."""
    from rich.markup import escape
    from rich.table import Table

    scores, missing = output.scores, len(output.missing)
    total = scores["problems"] + missing
    whole = "" if not missing else f"\nINCOMPLETE: {missing} of {counted(total, 'problem')} missing"
    table = Table("score", "mean", "95 % interval", title=escape(title) + whole)
    of = f" of {scores['problems']}/{total}" if missing else ""
    for name, value in scores.items():
        if isinstance(value, dict) and "mean" in value:
            table.add_row(name + of, f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    console.print(table)
    for part in ("subjects", "levels"):
        if len(output.details[part]) > 1:
            _show_parts(output.details[part], part, console)
    verdicts = ", ".join(f"{count} {kind}" for kind, count in scores["verdicts"].items())
    console.print(f"{counted(scores['problems'], 'problem')}, {counted(scores['k'], 'sample')} each: {verdicts}")
    length, truncated = output.details["length"], output.details["truncated"]
    cut = "" if truncated is None else f"; {truncated:.1%} cut off"
    console.print(
        f"{length['unit']}: mean {length['mean']:,.0f}, median {length['median']:,.0f}, max {length['max']:,}{cut}"
    )
    if left := output.details.get("left_to_server"):
        console.print(f"left to the server, which refused to be told: {' and '.join(left)}")


def _show_parts(parts: Mapping[str, Any], title: str, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title.removesuffix("s"), "problems", "avg", "95 % interval")
    for name, part in parts.items():
        score = part["avg"]
        interval_ = f"{score['low']:.3f} to {score['high']:.3f}"
        table.add_row(escape(name), str(part["problems"]), f"{score['mean']:.3f}", interval_)
    console.print(table)


def _parts(
    part_of: Mapping[str, str | None], kinds: Mapping[str, Sequence[str]], *, seed: int
) -> dict[str, dict[str, Any]]:
    """The mean score of each subject or level; problems without one are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for id_, part in part_of.items():
        if part is not None:
            values[part].append(list(kinds[id_]).count("correct") / len(kinds[id_]))
    return {
        part: {"problems": len(values[part]), "avg": interval(np.array(values[part]), seed=seed).to_json()}
        for part in sorted(values)
    }


def _lengths(rows: Sequence[Row]) -> dict[str, Any]:
    """Lengths in tokens, or in characters where some completion's tokens are not known; the truncated share."""
    counted = all(row.get("tokens") is not None for row in rows)
    lengths = np.array([row["tokens"] if counted else len(row["completion"]) for row in rows])
    known = all(isinstance(row.get("truncated"), bool) for row in rows)
    return {
        "length": {
            "unit": "tokens" if counted else "characters",
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "truncated": float(np.mean([row["truncated"] for row in rows])) if known else None,
    }
