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
    """The index of the guided completion to distil from, or None where none is correct.

    `logprobs_G[g]` holds the log-probabilities of completion g's tokens under the *unguided* policy (shape `T_g`), or
    their mean. The paper leaves open whether the likelihood is a sum or a mean over tokens; we take the mean, since a
    sum would prefer short completions. Ties go to the first. `rule="random"` draws a correct one (the paper's ablation
    "without target selection") and reads no log-probabilities.

    Raises ValueError for an unknown rule or unequal lengths.
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
