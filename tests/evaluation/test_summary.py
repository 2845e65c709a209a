"""A result in words."""

from __future__ import annotations

import math

import pytest

from sgpo.evaluation.scores import ScoreEstimate
from sgpo.evaluation.summary import (
    AGAINST_ANOTHER,
    change,
    pass_rates,
    say_failed_training,
    say_failure,
    say_standings,
    sign,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, 1), (-0.3, -0.1, -1), (-0.1, 0.3, 0), (0.0, 0.3, 0), (math.nan, math.nan, 1)],
)
def test_only_an_interval_without_zero_is_a_win_or_a_loss(low, high, expected):
    assert sign(ScoreEstimate(mean=-0.2 if expected < 0 else 0.2, low=low, high=high)) == expected


def test_wins_losses_and_ties_in_one_breath():
    win, loss, tie = (ScoreEstimate(mean, mean - 0.1, mean + 0.1) for mean in (0.3, -0.3, 0.0))
    results = {"a": (loss, "-30"), "b": (win, "+30"), "c": (win, "+31"), "d": (win, "+32"), "e": (tie, "0")}
    said = say_standings(results, AGAINST_ANOTHER)
    assert said == "ahead on b (+30), c (+31) and d (+32); behind on a (-30); level on e (0)"


def test_pass_rates_of_what_can_be_read():
    samples = {"p": ["correct", "wrong", "unparsed", "correct"], "q": ["wrong"], "none": [], "odd": "correct"}
    assert pass_rates(samples) == {"p": 0.5, "q": 0.0}
    assert pass_rates(None) == {}


def test_a_change_is_paired_over_the_problems_of_both():
    difference = change({"p": 0.0, "q": 1.0, "gone": 1.0}, {"p": 1.0, "q": 0.5, "new": 0.0})
    assert difference is not None
    assert (difference.mean, difference.problems) == (0.25, 2)
    assert change({"p": 0.0}, {"q": 1.0}) is None


@pytest.mark.parametrize(
    ("verdicts", "truncated", "said"),
    [
        ({"correct": 0, "wrong": 8, "unparsed": 160}, 0.97, "0 of 168 right, 97 % truncated, 95 % unparsed"),
        ({"correct": 0, "wrong": 1000}, None, "0 of 1,000 right"),
        ({"correct": 10, "wrong": 990}, 0.04, "10 of 1,000 right"),
        ({"correct": 1, "timeout": 199}, 0.0, "1 of 200 right, 100 % timeout"),
        ({"correct": 11, "wrong": 989}, 0.9, None),  # more than one in a hundred is right
        ({}, 1.0, None),
    ],
)
def test_why_nothing_came_out(verdicts, truncated, said):
    assert say_failure(verdicts, truncated) == said


def test_training_is_told_over_all_its_rows():
    rows = [
        {"verdicts/correct": 0, "verdicts/unparsed": 90, "truncated/autonomous": 1.0},
        {"eval/avg@4": 0.5},
        {"verdicts/correct": 0, "verdicts/wrong": 30, "truncated/autonomous": 0.5, "verdicts/timeout": math.nan},
        {"verdicts/correct": 10**400, "truncated/autonomous": "much"},
    ]
    assert say_failed_training(rows) == "0 of 120 right, 75 % truncated, 75 % unparsed"
    assert say_failed_training([]) is None
