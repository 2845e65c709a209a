"""The adaptive instance weight alpha(q) (step 7 of SGPO): as strong as the policy needs it."""

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
    """`alpha(q) = clip(base * (p_guided - p_autonomous) / (p_autonomous + smoothing), 0, maximum)`.

    Large where autonomous exploration fails, zero where guidance brings nothing, vanishing as the policy's own
    competence grows. The paper gives the constants (alpha_0 = 0.5, gamma = 0.1, alpha_max = 0.8) but no formula that
    we could reach; this is the plainest in which all three act (docs/deviations.md). NaN, the pass rate of a group in
    which nothing was judged, gives 0: a busy verifier is no sign that guidance is needed.

    Raises ValueError for a pass rate outside [0, 1].
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
