"""Choosing the next token: one uniform number per token, from the seed of its completion.

Inverse-CDF sampling makes a completion a function of its seed and its logits, whatever else is in the batch: the same
problem gives the same completion in a batch of 1 and of 192.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgpo.rollouts.engine import Sampling


def uniform_numbers(seeds: Sequence[int], count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed: `uniforms_BT`, float64 on the CPU."""
    generator = torch.Generator()
    rows = []
    for seed in seeds:
        generator.manual_seed(seed)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows) if rows else torch.empty(0, count, dtype=torch.float64)


def sample_tokens(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability under the temperature-scaled distribution.

    Returns `tokens_B` (int64) and `logprobs_B` (float32). Greedy at temperature 0, where the log-probability is that
    of temperature 1. top-p keeps the smallest set of likeliest tokens that holds the probability `top_p`.

    Raises FloatingPointError for logits that are NaN.
    """
    logprobs_BV = (logits_BV.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if logprobs_BV.isnan().any():
        raise FloatingPointError("the policy's logits are not numbers: training diverged, or the weights are damaged")
    if sampling.temperature == 0:
        tokens_B = logprobs_BV.argmax(-1)
    else:
        probabilities_BV = logprobs_BV.exp()
        if sampling.top_p < 1:
            probabilities_BV = _keep_top_p(probabilities_BV, sampling.top_p)
        cumulative_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)  # in float32 a GPU's sum need not rise
        # Scaling the uniform number by the row's own total keeps rounding from ever choosing past the end, and a token
        # of probability zero is never chosen: `right` skips over equal neighbours.
        thresholds_B1 = (uniforms_B.to(cumulative_BV).unsqueeze(-1) * cumulative_BV[:, -1:]).clamp(
            max=torch.nextafter(cumulative_BV[:, -1:], torch.zeros_like(cumulative_BV[:, -1:]))
        )
        tokens_B = torch.searchsorted(cumulative_BV, thresholds_B1, right=True).squeeze(-1)
    return tokens_B, logprobs_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)


def _keep_top_p(probabilities_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = sorted_BV.where(before_BV < top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order_BV, kept_BV)
