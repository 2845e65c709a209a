import math

import pytest

from sgpo.objective import distill_weight


@pytest.mark.parametrize(
    ("guided", "autonomous", "weight"),
    [
        (1.0, 0.0, 0.8),  # 0.5 * 1 / 0.1 = 5, capped
        (0.25, 0.125, 0.27777777777777778),  # 0.5 * 0.125 / 0.225 = 0.0625 / 0.225
        (1.0, 0.5, 0.41666666666666667),  # 0.5 * 0.5 / 0.6
        (1.0, 1.0, 0.0),
        (0.25, 0.75, 0.0),  # guidance that harms is not distilled
        (0.0, 0.0, 0.0),
        (1.0, math.nan, 0.0),  # nothing was judged
        (math.nan, 0.0, 0.0),
    ],
)
def test_worked_by_hand(guided, autonomous, weight):
    assert distill_weight(guided, autonomous) == pytest.approx(weight)


def test_every_constant_acts():
    assert distill_weight(0.5, 0.25, base=0.1) == pytest.approx(0.025 / 0.35)
    assert distill_weight(0.5, 0.25, smoothing=0.25) == pytest.approx(0.25)
    assert distill_weight(0.5, 0.0, maximum=0.3) == 0.3


def test_it_vanishes_as_the_policy_learns():
    weights = [distill_weight(1.0, passes / 8) for passes in range(9)]
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] == 0.0


@pytest.mark.parametrize(("guided", "autonomous"), [(1.1, 0.0), (0.0, -0.1)])
def test_what_is_no_pass_rate_is_refused(guided, autonomous):
    with pytest.raises(ValueError, match="pass rate"):
        distill_weight(guided, autonomous)


def test_smoothing_must_be_positive():
    with pytest.raises(ValueError, match="smoothing"):
        distill_weight(1.0, 0.0, smoothing=0.0)
