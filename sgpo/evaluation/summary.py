"""A result in words, for the first lines of a report or a model card: losses beside wins, and why a run failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sgpo.evaluation.scores import VERDICT_KINDS, PairedDifference, paired_difference

FEW_RIGHT = 0.01  # a run that has no larger fraction of its completions right has failed
LARGEST = 1e100  # of numbers in a file
MENTIONED = 0.05  # a cause is named from this fraction of the completions on

# What a difference is called that lies above 0, below it, or has an interval that includes it.
AGAINST_ANOTHER = ("ahead on", "behind on", "level on")
SINCE_THE_FIRST = ("better on", "worse on", "no clear change on")


class Difference(Protocol):
    """A difference and its 95 % interval."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def sign(difference: Difference) -> int:
    """1 or -1 for a difference whose interval lies above or below zero, 0 for a tie."""
    if difference.low <= 0 <= difference.high:
        return 0
    return 1 if difference.mean > 0 else -1


def say_standings(results: Mapping[str, tuple[Difference, str]], words: tuple[str, str, str]) -> str:
    """Say wins, losses and ties in this order: `ahead on fresh (+0.26); behind on untouched (-0.17)`.

    Args:
        results: for each problem set the difference, and how it is written.
        words: for a win, a loss and a tie: `AGAINST_ANOTHER` or `SINCE_THE_FIRST`.
    """
    parts = []
    for wanted, word in zip((1, -1, 0), words, strict=True):
        named = [f"{name} ({written})" for name, (difference, written) in results.items() if sign(difference) == wanted]
        if named:
            parts.append(f"{word} {' and '.join(filter(None, (', '.join(named[:-1]), named[-1])))}")
    return "; ".join(parts)


def pass_rates(samples: Any) -> dict[str, float]:
    """The fraction of correct samples per problem, from the `samples` of an `eval/*.json`; empty where it has none."""
    if not isinstance(samples, Mapping):
        return {}
    return {
        id_: kinds.count("correct") / len(kinds) for id_, kinds in samples.items() if isinstance(kinds, list) and kinds
    }


def change(before: Mapping[str, float], after: Mapping[str, float]) -> PairedDifference | None:
    """The pass rates of one evaluation minus those of an earlier one, paired; None where they share no problem."""
    return paired_difference(after, before) if before.keys() & after.keys() else None


def say_failure(verdicts: Mapping[str, float], truncated: float | None) -> str | None:
    """Say why nothing came out, as `0 of 168 right, 97 % truncated, 40 % unparsed`; None where enough is right.

    Args:
        verdicts: how many completions were `correct`, `wrong`, `unparsed` and `timeout`.
        truncated: the fraction of completions that was cut off, if it is known.
    """
    total = sum(verdicts.get(kind, 0) for kind in VERDICT_KINDS)
    right = verdicts.get("correct", 0)
    if not total or right > FEW_RIGHT * total:
        return None
    causes = {"truncated": truncated or 0.0} | {kind: verdicts.get(kind, 0) / total for kind in ("unparsed", "timeout")}
    said = [f"{100 * fraction:.0f} % {cause}" for cause, fraction in causes.items() if fraction >= MENTIONED]
    return ", ".join([f"{right:,.0f} of {total:,.0f} right", *said])


def say_failed_training(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """`say_failure` of training, from rows of `metrics.jsonl`; truncated are the autonomous completions."""
    verdicts = {kind: sum(_numbers(metrics, f"verdicts/{kind}")) for kind in VERDICT_KINDS}
    truncated = _numbers(metrics, "truncated/autonomous")
    return say_failure(verdicts, sum(truncated) / len(truncated) if truncated else None)


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of a metric; a file may hold anything, so what is no finite number of a sane size is left out."""
    values = (row.get(key) for row in rows)
    return [float(value) for value in values if isinstance(value, int | float) and abs(value) <= LARGEST]
