from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgpo.evaluation.scores import (
    ScoreEstimate,
    interval,
    majority_correct,
    paired_difference,
    pass_at,
    powers_of_two,
    score_samples,
)

C, W, U, T = "correct", "wrong", "unparsed", "timeout"


def test_scores_of_two_problems_worked_by_hand() -> None:
    # p1: 1 of 4 correct; p2: 4 of 4. avg@4 = (1/4 + 1) / 2 = 0.625.
    # pass@2 of p1: of the 6 pairs, 3 hold the correct sample: 1/2; p2: 1. Mean 0.75. pass@4: 1 and 1.
    # Majority: p1's votes are 7, 8, 8 (the unparsed one has none): 8 wins and is wrong. p2's is correct. maj@4 = 0.5.
    scores = score_samples(
        {"p1": [C, W, W, U], "p2": [C, C, C, C]}, {"p1": ["7", "8", "8", None], "p2": ["1", "1.0", "1", "1"]}
    )
    assert {k: v["mean"] for k, v in scores.items() if "@" in k} == {
        "avg@4": 0.625,
        "pass@1": 0.625,
        "pass@2": 0.75,
        "pass@4": 1.0,
        "maj@4": 0.5,
    }
    assert scores["verdicts"] == {"correct": 5, "wrong": 2, "unparsed": 1, "timeout": 0}
    assert (scores["problems"], scores["k"]) == (2, 4)
    # Two problems resampled: both p1 (1/4), both p2 (1/4), or one of each: the interval reaches from one to the other.
    assert scores["avg@4"] == {"mean": 0.625, "low": 0.25, "high": 1.0}
    assert list(scores) == ["problems", "k", "avg@4", "pass@1", "pass@2", "pass@4", "maj@4", "verdicts"]


def test_without_answers_there_is_no_majority() -> None:
    assert "maj@1" not in score_samples({"p": [C]})


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_j_is_the_share_of_subsets_with_a_correct_sample(samples: list[bool], data: st.DataObject) -> None:
    j = data.draw(st.integers(1, len(samples)))
    subsets = list(combinations(samples, j))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at(j, samples=len(samples), correct=sum(samples)) == pytest.approx(expected)


def test_which_pass_at_j_are_given() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    ("kinds", "answers", "expected"),
    [
        ([C, C, W], ["1/2", "0.5", "3"], True),  # different texts, one answer: the verifier said so
        ([W, C, C, W], ["3", "1/2", "0.5", "3"], False),  # a tie: 3 was first
        ([C, W, C, W], ["1/2", "3", "0.5", "3"], True),  # a tie: the correct one was first
        ([W, W, C], ["a  b", "a b ", "c"], False),  # white space does not split a vote
        ([U, U, U, C], [None, None, None, "1"], True),  # no answer, no vote
        ([U, U], [None, "half an answer"], False),  # nobody votes
        ([T, T, C], ["9^9^9", "9^9^9", "1"], False),  # an answer that took too long to judge is still an answer
        ([T, C], [None, "1"], True),
        ([W, W, C, C], ["2", "3", "1", "1"], True),  # wrong answers that differ do not add up
    ],
)
def test_majority(kinds: list[str], answers: list[str | None], expected: bool) -> None:
    assert majority_correct(kinds, answers) is expected


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "no problems"),
        ({"a": [C, C], "b": [C]}, "problem 'b' has 1 sample, problem 'a' has 2"),
        ({"a": []}, "no samples"),
        ({"a": ["right"]}, "unknown verdict 'right'"),
    ],
)
def test_samples_that_cannot_be_scored(samples: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_samples(samples)


# ----------------------------------------------------------------------------------------------------------- intervals


def test_the_interval_of_solved_or_not_is_the_binomial_one() -> None:
    # 100 problems, 30 solved. Resampled means are Binomial(100, 0.3) / 100, whose 2.5 % and 97.5 % quantiles are 0.21
    # and 0.39 (P(X <= 21) = 0.029, P(X <= 20) = 0.0165; P(X <= 39) = 0.979, P(X <= 38) = 0.966).
    estimate = interval(np.array([1.0] * 30 + [0.0] * 70))
    assert estimate == ScoreEstimate(pytest.approx(0.3), pytest.approx(0.21), pytest.approx(0.39))


def test_the_interval_of_many_problems_is_the_normal_one() -> None:
    # The central limit: mean 0.5 +- 1.96 * standard error, for 2,000 evenly spread values.
    values = np.linspace(0, 1, 2000)
    estimate = interval(values)
    error = 1.96 * values.std() / np.sqrt(2000)
    assert estimate.low == pytest.approx(0.5 - error, abs=0.0005)
    assert estimate.high == pytest.approx(0.5 + error, abs=0.0005)


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        # 60 problems of unlike difficulty, 4 samples each; the mean of Beta(1, 2) is 1/3.
        estimate = interval(rng.binomial(4, rng.beta(1, 2, size=60)) / 4)
        hits += estimate.low <= 1 / 3 <= estimate.high
    assert 0.91 <= hits / 400 <= 0.98


@pytest.mark.parametrize("problems", [1, 5, 200])
def test_all_solved_gives_the_exact_binomial_interval(problems: int) -> None:
    # Clopper and Pearson: the lower bound p of N successes in N solves p^N = 0.025.
    estimate = interval(np.ones(problems))
    assert (estimate.mean, estimate.high) == (1.0, 1.0)
    assert estimate.low**problems == pytest.approx(0.025)
    none = interval(np.zeros(problems))
    assert (none.mean, none.low) == (0.0, 0.0)
    assert (1 - none.high) ** problems == pytest.approx(0.025)


def test_one_problem_says_next_to_nothing() -> None:
    estimate = score_samples({"p": [C, C, W, W]})["avg@4"]
    assert estimate == {"mean": 0.5, "low": pytest.approx(0.0125), "high": pytest.approx(0.9875)}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_stays_between_0_and_1(passes: list[int]) -> None:
    estimate = interval(np.array(passes) / 4)
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1 + 1e-12


def test_intervals_repeat_with_the_seed_and_ignore_the_order_of_problems() -> None:
    values = np.random.default_rng(0).random(50)
    assert interval(values, seed=3) == interval(values[::-1].copy(), seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


# -------------------------------------------------------------------------------------------------- paired differences


def test_a_paired_difference_worked_by_hand() -> None:
    # Differences 0.5, 0.25, 0 and -0.25 on the four common problems: mean 0.125. "x" and "y" are in one run only.
    # Sign flips of (2, 1, 1) quarters: sums 4 2 2 0 0 -2 -2 -4; the observed one is 2, and 6 of 8 are as far from 0.
    a = {"p": 1.0, "q": 0.5, "r": 0.25, "s": 0.0, "x": 1.0}
    b = {"p": 0.5, "q": 0.25, "r": 0.25, "s": 0.25, "y": 0.0}
    difference = paired_difference(a, b)
    assert (difference.mean, difference.problems, difference.dropped) == (0.125, 4, 2)
    assert difference.p_value == 6 / 8
    assert difference.low < 0 < difference.high


def test_a_difference_in_one_direction_has_the_sign_tests_p_value() -> None:
    # All of n differences positive and equal: only all-plus and all-minus are as extreme, 2 / 2^n.
    a = {str(i): 1.0 for i in range(10)}
    b = {str(i): 0.5 for i in range(10)}
    assert paired_difference(a, b).p_value == 2 / 2**10
    assert paired_difference(b, a).mean == -0.5


def test_the_sampled_p_value_agrees_with_the_normal_approximation() -> None:
    # 200 differences of +-1, 114 of them positive: the flipped sum has standard deviation sqrt(200), the observed 28 is
    # 1.98 of them; with the continuity correction (steps of 2) P(|Z| >= 27 / 14.14) = 0.0562.
    a = {str(i): 1.0 if i < 114 else 0.0 for i in range(200)}
    b = {str(i): 0.0 if i < 114 else 1.0 for i in range(200)}
    assert paired_difference(a, b).p_value == pytest.approx(0.0562, abs=0.007)


def test_pairing_sees_what_separate_intervals_hide() -> None:
    difficulty = np.linspace(0, 0.9, 100)
    a = {str(i): float(v) + 0.05 + 0.01 * (i % 2) for i, v in enumerate(difficulty)}
    b = {str(i): float(v) for i, v in enumerate(difficulty)}
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.055)
    assert difference.low > 0.05
    assert difference.p_value < 0.001


def test_equal_runs_are_a_tie_with_a_width() -> None:
    scores = {str(i): 0.5 for i in range(100)}
    tie = paired_difference(scores, scores)
    assert (tie.mean, tie.p_value) == (0.0, 1.0)
    assert tie.low == pytest.approx(-tie.high)
    assert (1 - tie.high) ** 100 == pytest.approx(0.025)


def test_runs_without_a_common_problem() -> None:
    with pytest.raises(ValueError, match="no problem in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})
