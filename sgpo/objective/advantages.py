"""Group-relative advantages (GRPO, arXiv 2402.03300, eq. 3; step 4 of SGPO)."""

from __future__ import annotations

import torch
from torch import Tensor

STD_EPSILON = 1e-4  # as TRL: keeps a group with one lucky completion from an unbounded advantage


def group_advantages(rewards_PG: Tensor, *, scale: bool = True) -> Tensor:
    """Compute how much better each completion did than its group: `A = (r - mean) / (std + 1e-4)`, with unbiased std.

    A group whose rewards are all equal, or that has fewer than two, gets exact zeros.

    Args:
        rewards_PG: One group per row. NaN marks a completion without a reward: its group's statistics leave it out, and
            its advantage is 0.
        scale: False leaves out the division (Dr. GRPO, arXiv 2503.20783).

    Returns:
        `advantages_PG`, float32 (float64 for float64 rewards).

    Raises:
        ValueError: the rewards do not have two axes.
    """
    if rewards_PG.dim() != 2:
        raise ValueError(f"rewards_PG must have shape (problems, completions), got {tuple(rewards_PG.shape)}")
    rewards_PG = rewards_PG if rewards_PG.dtype == torch.float64 else rewards_PG.float()
    if not rewards_PG.numel():
        return rewards_PG
    valid_PG = ~rewards_PG.isnan()
    known_PG = rewards_PG.where(valid_PG, 0.0)
    count_P1 = valid_PG.sum(1, keepdim=True)
    mean_P1 = known_PG.sum(1, keepdim=True) / count_P1.clamp(min=1)
    centered_PG = (known_PG - mean_P1).where(valid_PG, 0.0)
    advantages_PG = centered_PG
    if scale:
        std_P1 = (centered_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
        advantages_PG = centered_PG / (std_P1 + STD_EPSILON)
    # Rounding of the mean must not turn equal rewards into a direction: compare, do not subtract.
    highest_P1 = rewards_PG.where(valid_PG, -torch.inf).amax(1, keepdim=True)
    lowest_P1 = rewards_PG.where(valid_PG, torch.inf).amin(1, keepdim=True)
    return advantages_PG.where(highest_P1 > lowest_P1, 0.0)


def soft_overlong_punishment(length: int, *, limit: int, cache: int) -> float:
    """Compute what the length of a completion takes off its reward (DAPO, arXiv 2503.14476, eq. 13).

    Args:
        length: Its tokens, at most `limit`.
        limit: The tokens that a completion may have (L_max).
        cache: The last of these, over which the punishment grows (L_cache).

    Returns:
        0 up to `limit - cache` tokens; from there it falls evenly to -1 at the limit.
    """
    return min(limit - cache - length, 0) / cache
