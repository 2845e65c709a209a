"""The adaptive instance weight alpha(q) (step 7 of SGPO): it fades as the policy improves."""

from __future__ import annotations

import math


def distill_weight(
    guided_pass_rate: float,
    autonomous_pass_rate: float,
    *,
    base: float = 0.5,
    smoothing: float = 0.1,
    maximum: float = 0.8,
) -> float:
    """Compute `alpha(q) = clip(base * (p_guided - p_autonomous) / (p_autonomous + smoothing), 0, maximum)`.

    It is large where the autonomous group fails, zero where guidance adds nothing, and vanishes as the policy improves.
    The paper gives the constants (alpha_0 = 0.5, gamma = 0.1, alpha_max = 0.8) but no formula that we could reach; this
    is the plainest in which all three act (docs/deviations.md).

    Args:
        guided_pass_rate: Of the guided group. NaN, for a group in which nothing was judged, gives the weight 0: a busy
            verifier is no sign that guidance is needed.
        autonomous_pass_rate: Of the autonomous group; NaN likewise.
        base: alpha_0.
        smoothing: gamma.
        maximum: alpha_max.

    Raises:
        ValueError: a pass rate lies outside [0, 1], or `smoothing` is not positive.
    """
    if math.isnan(guided_pass_rate) or math.isnan(autonomous_pass_rate):
        return 0.0
    for name, rate in (("guided", guided_pass_rate), ("autonomous", autonomous_pass_rate)):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"the {name} pass rate must lie between 0 and 1, got {rate}")
    if smoothing <= 0:
        raise ValueError(f"distill_weight_smoothing must be positive, got {smoothing}")
    benefit = (guided_pass_rate - autonomous_pass_rate) / (autonomous_pass_rate + smoothing)
    return min(max(base * benefit, 0.0), maximum)
