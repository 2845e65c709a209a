"""The problems that flipped: solved before and not after, or the other way round, with a completion of either side.

A problem counts as solved where more than half of its samples are correct. The counts are over all problems that both
evaluations have; completions are shown of those problems that the page holds (`sgpo/report/completions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgpo.report.completions import ProblemCard, passed
from sgpo.report.read import EvaluationRecord, RunRecord, shorten

MAX_FLIPS = 20  # shown in each direction
HEAD, TAIL = 1500, 1000  # characters of a completion, and of a prompt
SOLVED = 0.5  # a larger fraction of correct samples is solved

Cards = Mapping[tuple[int, str], Sequence[ProblemCard]]  # of the evaluations, by the index of the run and the set


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipSide:
    """One evaluation of a problem: how many of its samples are right, and one completion."""

    right: int
    samples: int
    text: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A problem that was solved in one of two evaluations only."""

    problem_id: str
    prompt: str
    before: FlipSide
    after: FlipSide


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipTable:
    """Two evaluations on one problem set: of run `baseline` and of run `run`, the same where it is before and after.

    `solved_in_both` to `lost` count problems; `flips` are `("gained", ...)` and `("lost", ...)`, the largest first.
    """

    name: str
    baseline: int
    run: int
    steps: tuple[int, int]
    solved_in_both: int
    solved_in_neither: int
    gained: int
    lost: int
    flips: Sequence[tuple[str, Sequence[Flip]]]


def find_flips(runs: Sequence[RunRecord], name: str, cards: Cards) -> list[FlipTable]:
    """The flips on one problem set: of each run since its first evaluation, and since the baseline's only one.

    The first run that was evaluated on the set is the baseline where it has a single evaluation of it, as an untrained
    model has.
    """
    found = [(index, [one for one in run.evaluations if one.name == name]) for index, run in enumerate(runs)]
    found = [(index, evaluations) for index, evaluations in found if evaluations]
    pairs = [((index, one[0]), (index, one[-1])) for index, one in found if len(one) > 1]
    if found and len(found[0][1]) == 1:
        baseline, (only,) = found[0]
        pairs += [((baseline, only), (index, one[-1])) for index, one in found[1:]]
    tables = (_tabulate(name, before, after, cards) for before, after in pairs)
    return [table for table in tables if table is not None]


def _tabulate(
    name: str, before: tuple[int, EvaluationRecord], after: tuple[int, EvaluationRecord], cards: Cards
) -> FlipTable | None:
    """Set two evaluations, each of the run at its side, against each other; None where no problem is in both."""
    (baseline, first), (run, last) = before, after
    common = first.pass_rates.keys() & last.pass_rates.keys()
    if not common:
        return None
    solved = {id_: (first.pass_rates[id_] > SOLVED, last.pass_rates[id_] > SOLVED) for id_ in common}
    outcomes = list(solved.values())
    sides = [_visits(cards.get((of, name), ()), one.step) for of, one in (before, after)]
    shown = []
    for what, outcome in (("gained", (False, True)), ("lost", (True, False))):
        flips = [
            _flip(id_, sides[0][id_], sides[1][id_], outcome)
            for id_ in solved
            if solved[id_] == outcome and id_ in sides[0] and id_ in sides[1]
        ]
        # The largest change first.
        flips.sort(key=lambda flip: (-abs(_rate(flip.after) - _rate(flip.before)), flip.problem_id))
        shown.append((what, flips[:MAX_FLIPS]))
    return FlipTable(
        name=name,
        baseline=baseline,
        run=run,
        steps=(first.step, last.step),
        solved_in_both=outcomes.count((True, True)),
        solved_in_neither=outcomes.count((False, False)),
        gained=outcomes.count((False, True)),
        lost=outcomes.count((True, False)),
        flips=shown,
    )


def _visits(cards: Sequence[ProblemCard], step: int) -> dict[str, dict[str, Any]]:
    return {card.problem_id: visit for card in cards for visit in card.visits if visit["step"] == step}


def _flip(problem_id: str, before: Mapping[str, Any], after: Mapping[str, Any], solved: tuple[bool, bool]) -> Flip:
    return Flip(
        problem_id=problem_id,
        prompt=shorten(after["prompt"], head=HEAD, tail=TAIL),
        before=_side(before["rows"], right=solved[0]),
        after=_side(after["rows"], right=solved[1]),
    )


def _side(rows: Sequence[Mapping[str, Any]], *, right: bool) -> FlipSide:
    """The counts of a visit, and a completion that shows the outcome: a right one of a problem that was solved."""
    example = next((row for row in rows if passed(row) == right), rows[0])
    return FlipSide(
        right=sum(row["count"] for row in rows if passed(row)),
        samples=sum(row["count"] for row in rows),
        text=shorten(example["text"], head=HEAD, tail=TAIL),
        verdict=example["verdict"],
    )


def _rate(side: FlipSide) -> float:
    return side.right / side.samples
