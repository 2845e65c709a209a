"""Paired differences over replicates, against numbers worked out elsewhere."""

from __future__ import annotations

import math

import pytest

from sgpo.evaluation.scores import difference_over_replicates


def test_worked_by_hand():
    # Differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1; t(2) = 4.303 times 0.1 / sqrt(3) = 0.24843.
    difference = difference_over_replicates({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.5, 2: 0.6})
    assert (difference.mean, difference.replicates) == (pytest.approx(0.2), 3)
    assert (difference.low, difference.high) == (pytest.approx(-0.04843, abs=1e-5), pytest.approx(0.44843, abs=1e-5))
    assert difference.verdict == "level"


@pytest.mark.parametrize(
    ("ours", "verdict"), [((0.4, 0.41, 0.42), "ahead"), ((0.1, 0.11, 0.12), "behind"), ((0.2, 0.3, 0.35), "level")]
)
def test_verdicts(ours, verdict):
    assert difference_over_replicates(dict(enumerate(ours)), dict.fromkeys(range(3), 0.3)).verdict == verdict


def test_only_replicates_that_both_have_are_paired():
    difference = difference_over_replicates({0: 0.5, 1: 0.9, 4: 0.2}, {1: 0.4, 2: 0.0, 0: 0.3})
    assert (difference.mean, difference.replicates) == (pytest.approx(0.35), 2)
    assert difference.verdict == "open"
    assert difference_over_replicates({0: 0.5}, {1: 0.5}) is None


def test_a_single_pair_has_no_interval():
    difference = difference_over_replicates({0: 0.5}, {0: 0.1})
    assert (difference.low, difference.high, difference.verdict) == (-math.inf, math.inf, "open")


@pytest.mark.parametrize(("pairs", "t"), [(5, 2.776), (21, 2.086), (25, 2.064), (61, 2.000)])
def test_quantiles_of_students_t(pairs, t):
    """Half the pairs differ by 1 and half by -1 (and one by 0): the interval's half-width is t sd / sqrt(n)."""
    differences = {i: (0.0 if i == 0 else (1.0 if i % 2 else -1.0)) for i in range(pairs)}
    difference = difference_over_replicates(differences, dict.fromkeys(range(pairs), 0.0))
    # sum of squares n - 1, so the unbiased standard deviation is 1
    assert difference.high * math.sqrt(pairs) == pytest.approx(t, abs=0.01)
