from __future__ import annotations

import math
from dataclasses import astuple

import pytest

from sgpo.evaluation.scores import difference_of_fractions
from sgpo.report.completions import Tally
from sgpo.report.strategies import measure_uplift


def test_the_interval_is_that_of_newcombes_paper() -> None:
    # Newcombe (1998), table II, example (a), method 10: 56/70 against 48/80 is 0.2000 (0.0524, 0.3339).
    interval = difference_of_fractions(56, 70, 48, 80)
    assert astuple(interval) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    # Example (h): 10/10 against 0/10 is 1.0000 (0.6075, 1.0000).
    assert astuple(difference_of_fractions(10, 10, 0, 10)) == pytest.approx((1.0, 0.6075, 1.0), abs=5e-5)


def test_uplift_is_the_mean_over_problems_not_over_completions() -> None:
    tallies = {"a": Tally(4, 4, 8, 0), "b": Tally(400, 100, 800, 0)}
    (row,) = measure_uplift({"clues": tallies})
    assert (row.problems, row.guided, row.autonomous) == (2, 404, 808)
    assert row.uplift.mean == pytest.approx((1.0 + 0.25) / 2)
    assert math.isnan(row.uplift.low)  # two problems are too few for an interval over problems


def test_ten_problems_give_an_interval_over_problems() -> None:
    # Differences 0 and 1 five times each: mean 0.5, standard deviation 0.527, 1.96 * 0.527 / sqrt(10) = 0.3267.
    tallies = {str(number): Tally(1, number % 2, 1, 0) for number in range(10)}
    (row,) = measure_uplift({"clues": tallies})
    assert tuple(row.uplift) == pytest.approx((0.5, 0.5 - 0.3267, 0.5 + 0.3267), abs=1e-4)


def test_the_most_helpful_comes_first_and_what_lacks_a_group_is_left_out() -> None:
    found = {
        "harms": {"a": Tally(4, 0, 8, 8)},
        "helps": {"b": Tally(4, 4, 8, 0)},
        "guided only": {"c": Tally(4, 4, 0, 0)},
    }
    assert [row.key for row in measure_uplift(found)] == ["helps", "harms"]
