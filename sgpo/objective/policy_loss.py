"""The clipped policy gradient of the autonomous group (step 4 of SGPO; the clip range is DAPO's, arXiv 2503.14476)."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    completion_mask_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """The mean over all completion tokens of `-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)`.

    `rho = exp(logprobs - old_logprobs)` is the importance ratio of a token, `A` its completion's advantage. The mask
    is bool or 0/1; what lies outside it, NaN included, has no effect. Without a single token the loss is 0.

    Returns a scalar.
    """
    mask_BT = completion_mask_BT.bool()
    # Mask before exp: a padded NaN or overflow would survive a multiplication by zero.
    ratio_BT = (logprobs_BT - old_logprobs_BT).where(mask_BT, 0.0).exp()
    advantages_B1 = advantages_B.unsqueeze(-1)
    unclipped_BT = ratio_BT * advantages_B1
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_B1
    loss_BT = -torch.minimum(unclipped_BT, clipped_BT).where(mask_BT, 0.0)
    return loss_BT.sum() / mask_BT.sum().clamp(min=1)
