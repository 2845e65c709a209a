"""Target selection (step 5 of SGPO): of the correct guided completions, the one with the smallest gap to bridge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def select_target(
    logprobs_G: Sequence[Tensor] | Tensor,
    correct_G: Sequence[bool] | Tensor,
    *,
    rule: Literal["likelihood", "random"] = "likelihood",
    generator: torch.Generator | None = None,
) -> int | None:
    """Select the guided completion to distil from.

    The paper leaves open whether the likelihood is a sum or a mean over tokens; we take the mean, since a sum would
    prefer short completions. Ties go to the first.

    Args:
        logprobs_G: For each completion, the log-probabilities of its tokens under the *unguided* policy (`_T`, of its
            own length), or their mean.
        correct_G: Which completions are correct.
        rule: `likelihood`, or `random`, which draws a correct completion and reads no log-probabilities (the paper's
            ablation "without target selection").
        generator: Decides what `random` draws.

    Returns:
        The index of the completion; None if no completion is correct.

    Raises:
        ValueError: the rule is unknown, or the lengths differ.
    """
    if rule not in ("likelihood", "random"):
        raise ValueError(f"target selection must be 'likelihood' or 'random', got {rule!r}")
    if len(logprobs_G) != len(correct_G):
        raise ValueError(f"{len(logprobs_G)} completions with log-probabilities, but {len(correct_G)} with verdicts")
    candidates = [g for g, correct in enumerate(correct_G) if bool(correct)]
    if not candidates:
        return None
    if rule == "random":
        return candidates[int(torch.randint(len(candidates), (), generator=generator))]
    return max(candidates, key=lambda g: _mean_logprob(logprobs_G[g]))  # max keeps the first of equals


def _mean_logprob(logprobs_T: Tensor) -> float:
    mean = float(torch.as_tensor(logprobs_T, dtype=torch.float64).mean())
    return -math.inf if math.isnan(mean) else mean  # an empty completion is nobody's favourite
