"""The clipped policy gradient of the autonomous group (step 4 of SGPO; the clip range is DAPO's, arXiv 2503.14476)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossMean = Literal["token", "sequence"]
RatioLevel = Literal["token", "sequence"]


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    completion_mask_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    loss_mean: LossMean = "token",
    ratio_level: RatioLevel = "token",
    importance_BT: Tensor | None = None,
) -> Tensor:
    """Compute the mean over completion tokens of `-w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)`.

    `rho` is the importance ratio of a token (`importance_ratio`), `A` its completion's advantage.

    Args:
        logprobs_BT: Of the policy, with gradient.
        old_logprobs_BT: Of the policy that sampled.
        advantages_B: One per completion.
        completion_mask_BT: The completion tokens.
        clip_low: The ratio is clipped below `1 - clip_low`.
        clip_high: The ratio is clipped above `1 + clip_high`.
        loss_mean: `token` is the mean over all tokens of the batch, so that a long completion weighs more (DAPO,
            arXiv 2503.14476, section 3.3). `sequence` is the mean over completions of the mean over their tokens, so
            that each completion weighs the same (the original GRPO, arXiv 2402.03300, eq. 3); a completion without a
            token counts nowhere.
        ratio_level: As of `importance_ratio`.
        importance_BT: The weights `w` of `importance_weights`; 1 if not given.

    Returns:
        A scalar; 0 without a single token.
    """
    mask_BT = completion_mask_BT.bool()
    ratio_BT = importance_ratio(logprobs_BT, old_logprobs_BT, mask_BT, level=ratio_level)
    advantages_B1 = advantages_B.unsqueeze(-1)
    unclipped_BT = ratio_BT * advantages_B1
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_B1
    loss_BT = -torch.minimum(unclipped_BT, clipped_BT)
    if importance_BT is not None:
        loss_BT = loss_BT * importance_BT
    return completion_mean(loss_BT, mask_BT, by=loss_mean)


def completion_mean(values_BT: Tensor, completion_mask_BT: Tensor, *, by: LossMean) -> Tensor:
    """Compute the mean over completion tokens, `by` token or by sequence, as `policy_loss` explains it.

    Returns:
        A scalar; 0 without a single token.
    """
    mask_BT = completion_mask_BT.bool()
    values_BT = values_BT.where(mask_BT, 0.0)
    if by == "token":
        return values_BT.sum() / mask_BT.sum().clamp(min=1)
    # A completion without a token has the mean 0, and does not count among the completions.
    lengths_B = mask_BT.sum(-1)
    return (values_BT.sum(-1) / lengths_B.clamp(min=1)).sum() / (lengths_B > 0).sum().clamp(min=1)


def importance_ratio(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, completion_mask_BT: Tensor, *, level: RatioLevel
) -> Tensor:
    """Compute the importance ratio of each token.

    Args:
        logprobs_BT: Of the policy.
        old_logprobs_BT: Of the policy that sampled.
        completion_mask_BT: The completion tokens.
        level: `token` is `exp(logprobs - old_logprobs)`. `sequence` gives all tokens of a completion the geometric mean
            of these (GSPO, arXiv 2507.18071, eq. 7).

    Returns:
        `ratio_BT`; 1 outside of the mask.
    """
    mask_BT = completion_mask_BT.bool()
    # Mask before exp: a padded NaN or overflow would survive a multiplication by zero.
    log_ratio_BT = (logprobs_BT - old_logprobs_BT).where(mask_BT, 0.0)
    if level == "sequence":
        mean_B1 = log_ratio_BT.sum(-1, keepdim=True) / mask_BT.sum(-1, keepdim=True).clamp(min=1)
        log_ratio_BT = mean_B1.expand_as(log_ratio_BT).where(mask_BT, 0.0)
    return log_ratio_BT.exp()


def reference_kl(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """Estimate `KL(policy || reference)` at each sampled token: `rho (exp(d) - d - 1)`, `d = log pi_ref - log pi`.

    The second factor is Schulman's k3, never negative and unbiased (GRPO, arXiv 2402.03300, eq. 4). The ratio's own
    gradient makes that of the estimate unbiased too, also where it is 1 (DeepSeek-V3.2, arXiv 2512.02556; TRL's
    `use_bias_correction_kl`).

    Args:
        logprobs_BT: Of the policy, with gradient.
        reference_logprobs_BT: Of the reference.
        ratio_BT: The importance ratio `rho` of `importance_ratio`, with gradient.

    Returns:
        `kl_BT`, in nats; of no meaning outside of the mask.
    """
    difference_BT = reference_logprobs_BT - logprobs_BT
    return ratio_BT * (difference_BT.exp() - difference_BT - 1)


def importance_weights(old_logprobs_BT: Tensor, sampling_logprobs_BT: Tensor, *, clip_max: float) -> Tensor:
    """Compute the weight of each token that another engine sampled: `w = min(pi_old / pi_sampling, clip_max)`.

    The engine that samples (vLLM) and the trainer that takes the gradient compute the same policy with other kernels,
    so tokens come from a slightly different distribution. The truncated importance weight corrects for that with
    bounded variance ("Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", Yao et al. 2025; TRL's
    `vllm_importance_sampling_mode="token_truncate"`).

    Args:
        old_logprobs_BT: The trainer's, before the first update.
        sampling_logprobs_BT: The engine's; a token with NaN gets the weight 1.
        clip_max: The largest weight.

    Returns:
        `w_BT`, through which no gradient flows.
    """
    difference_BT = (old_logprobs_BT - sampling_logprobs_BT).detach()
    return difference_BT.nan_to_num(nan=0.0).exp().clamp(max=clip_max)


def shaped_policy_loss(
    logprobs_BT: Tensor, advantages_B: Tensor, completion_mask_BT: Tensor, *, shaping: float = 0.1
) -> Tensor:
    """Compute the loss of off-policy completions (LUFFY, arXiv 2504.14945): the mean of `-A pi / (pi + shaping)`.

    `pi = exp(logprobs)` is the policy's own probability of a token; the author's probability is taken as 1, and nothing
    is clipped. The derivative by log pi, `A shaping pi / (pi + shaping)^2`, is largest at `pi = shaping`, so the loss
    teaches unlikely tokens that a ratio without shaping would hardly move.

    Args:
        logprobs_BT: Of the policy, with gradient.
        advantages_B: One per completion.
        completion_mask_BT: The completion tokens.
        shaping: gamma of the paper.

    Returns:
        A scalar; 0 without a single token.
    """
    mask_BT = completion_mask_BT.bool()
    probs_BT = logprobs_BT.where(mask_BT, 0.0).exp()
    loss_BT = (-advantages_B.unsqueeze(-1) * probs_BT / (probs_BT + shaping)).where(mask_BT, 0.0)
    return loss_BT.sum() / mask_BT.sum().clamp(min=1)
