"""Strategy distillation, token by token (step 6 of SGPO).

`KL_t = sum_v p_v (log p_v - log u_v)` over the full vocabulary, with `p = stopgrad pi(. | q, s, y_<t)` the guided and
`u = pi_theta(. | q, y_<t)` the unguided branch. `direction="reverse"` is `sum_v u_v (log u_v - log p_v)` (the paper's
ablation). No gradient reaches anything through the guided branch, the head included.

Two forms of one quantity: from logits, and from hidden states and the head without ever holding a T x V matrix (at a
vocabulary of 152K, two fp32 T x V matrices take 1.2 MB per token).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sgpo.objective.logprobs import (
    RunningSoftmax,
    add_product,
    tile_logits,
    token_blocks,
    vocabulary_blocks,
)

Direction = Literal["forward", "reverse"]


def token_divergence(
    unguided_logits_TV: Tensor,
    guided_logits_TV: Tensor,
    *,
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """Compute the divergence of every token, exactly over the full vocabulary.

    Args:
        unguided_logits_TV: Of the branch with gradient. A logit of -inf is a token that the branch rules out.
        guided_logits_TV: Of the branch without.
        direction: `forward` or `reverse`, as above.
        temperature: Of sampling; the logits of both branches are divided by it.

    Returns:
        `divergence_T`, in nats, float32 (float64 for float64 logits).

    Raises:
        ValueError: the shapes differ, the direction is unknown, or the temperature is not positive.
    """
    _check(unguided_logits_TV, guided_logits_TV, direction, temperature)
    unguided_TV = _log_softmax(unguided_logits_TV, temperature)
    guided_TV = _log_softmax(guided_logits_TV.detach(), temperature)
    if direction == "forward":
        return _expected_difference(guided_TV, unguided_TV)
    return _expected_difference(unguided_TV, guided_TV)


def chunked_token_divergence(
    unguided_hidden_TH: Tensor,
    guided_hidden_TH: Tensor,
    lm_head_VH: Tensor,
    *,
    guided_lm_head_VH: Tensor | None = None,
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """Compute `token_divergence` of `hidden @ lm_head.T` tile by tile: same values and gradients, far less memory.

    Gradients reach `unguided_hidden_TH` and, if it is trained, `lm_head_VH`. With a frozen head (LoRA) the forward pass
    computes them, so that backward costs nothing; with a trained head backward computes the logits again.

    Args:
        unguided_hidden_TH: Of the branch with gradient.
        guided_hidden_TH: Of the branch without.
        lm_head_VH: The head of both, or of the branch with gradient.
        guided_lm_head_VH: The head of the branch without, if it is another one.
        direction: `forward` or `reverse`, as above.
        temperature: Of sampling; the logits of both branches are divided by it.

    Returns:
        `divergence_T`, in nats.

    Raises:
        ValueError: the shapes differ, the direction is unknown, or the temperature is not positive.
    """
    _check(unguided_hidden_TH, guided_hidden_TH, direction, temperature)
    guided_head_VH = lm_head_VH if guided_lm_head_VH is None else guided_lm_head_VH
    if guided_head_VH.shape != lm_head_VH.shape:
        raise ValueError(
            f"both heads must have the same shape, got {tuple(lm_head_VH.shape)} and {tuple(guided_head_VH.shape)}"
        )
    divergence_T: Tensor = _ChunkedTokenDivergence.apply(
        unguided_hidden_TH, guided_hidden_TH.detach(), lm_head_VH, guided_head_VH.detach(), direction, temperature
    )
    return divergence_T


def clip_divergence(
    divergence_T: Tensor, *, kl_clip: float | None, mode: Literal["scale", "clamp"] = "scale"
) -> Tensor:
    """Clip the divergence of each token: the proximal constraint `min(KL_t, c)`.

    Args:
        divergence_T: In nats.
        kl_clip: The limit c; None clips nothing.
        mode: `scale` limits the size and keeps the gradient's direction, `KL * c / max(stopgrad KL, c)`: a token above
            the limit has the gradient of one at the limit. `clamp` is the literal minimum, whose gradient is zero above
            the limit, at the very decisions that the strategy is about. Measurements and the choice:
            docs/deviations.md.

    Raises:
        ValueError: the limit is not positive, or the mode is unknown.
    """
    if mode not in ("scale", "clamp"):
        raise ValueError(f"kl_clip_mode must be 'scale' or 'clamp', got {mode!r}")
    if kl_clip is None:
        return divergence_T
    if not kl_clip > 0:
        raise ValueError(f"kl_clip must be positive (or null for no clip), got {kl_clip}")
    if mode == "clamp":
        return divergence_T.clamp(max=kl_clip)
    return divergence_T * (kl_clip / divergence_T.detach().clamp(min=kl_clip))


def _check(unguided: Tensor, guided: Tensor, direction: str, temperature: float) -> None:
    if unguided.shape != guided.shape or unguided.dim() != 2:
        raise ValueError(
            f"both branches must have the same two-dimensional shape, got {tuple(unguided.shape)} unguided and "
            f"{tuple(guided.shape)} guided"
        )
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be 'forward' or 'reverse', got {direction!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _log_softmax(logits_TV: Tensor, temperature: float) -> Tensor:
    logits_TV = logits_TV if logits_TV.dtype == torch.float64 else logits_TV.float()
    return (logits_TV / temperature).log_softmax(-1)


def _expected_difference(p_TV: Tensor, q_TV: Tensor) -> Tensor:
    """`sum_v p (log p - log q)` from log-probabilities; a token that p rules out adds nothing, whatever q says."""
    possible_TV = p_TV > -torch.inf
    return (p_TV.exp() * (p_TV.where(possible_TV, 0.0) - q_TV.where(possible_TV, 0.0))).sum(-1)


class _ChunkedTokenDivergence(torch.autograd.Function):
    """The divergence by tiles, with the gradients written out: autograd would keep every tile."""

    @staticmethod
    def forward(
        ctx: Any,
        unguided_TH: Tensor,
        guided_TH: Tensor,
        head_VH: Tensor,
        guided_head_VH: Tensor,
        direction: Direction,
        temperature: float,
    ) -> Tensor:
        ctx.direction, ctx.temperature = direction, temperature
        ctx.head_is_frozen = not ctx.needs_input_grad[2]
        # A token's gradient is its slope times one number that only backward knows, so with a frozen head the slopes
        # can be kept (T x H) in place of a second pass over the logits.
        keeps_slopes = ctx.head_is_frozen and ctx.needs_input_grad[0]
        heads = head_VH, guided_head_VH
        blocks = [
            _block(unguided_TH[rows], guided_TH[rows], heads, direction, temperature, with_slope=keeps_slopes)
            for rows in token_blocks(unguided_TH.shape[0])
        ]
        divergence_T, unguided_logsumexp_T, guided_logsumexp_T, slope_TH = (
            torch.cat(parts) for parts in zip(*blocks, strict=True)
        )
        if ctx.head_is_frozen:
            ctx.save_for_backward(slope_TH)
        else:
            ctx.save_for_backward(
                unguided_TH, guided_TH, *heads, divergence_T, unguided_logsumexp_T, guided_logsumexp_T
            )
        return divergence_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head_is_frozen:
            (slope_TH,) = ctx.saved_tensors
            return slope_TH * grad_T.unsqueeze(-1).to(slope_TH.dtype), None, None, None, None, None
        unguided_TH, guided_TH, head_VH, guided_head_VH, divergence_T, *logsumexps = ctx.saved_tensors
        unguided_logsumexp_T, guided_logsumexp_T = logsumexps
        # The head is trained: compute the logits again, tile by tile, and from them the slope of the divergence by each
        # logit. Wide sums: a bf16 sum over many tiles would lose small contributions.
        grad_TH = torch.zeros_like(unguided_TH, dtype=grad_T.dtype)
        grad_VH = torch.zeros_like(head_VH, dtype=grad_T.dtype)
        for rows in token_blocks(unguided_TH.shape[0]):
            upstream_C1 = grad_T[rows].unsqueeze(-1) / ctx.temperature
            for columns in vocabulary_blocks(rows.stop - rows.start, head_VH.shape[0]):
                unguided_CW = tile_logits(unguided_TH[rows], head_VH[columns], ctx.temperature)
                guided_CW = tile_logits(guided_TH[rows], guided_head_VH[columns], ctx.temperature)
                # From logits to log-probabilities.
                unguided_CW.sub_(unguided_logsumexp_T[rows].unsqueeze(-1))
                guided_CW.sub_(guided_logsumexp_T[rows].unsqueeze(-1))
                if ctx.direction == "forward":  # dKL/dlogit = u - p
                    slope_CW = unguided_CW.exp_().sub_(guided_CW.exp_())
                else:  # dKL/dlogit = u ((log u - log p) - KL)
                    slope_CW = torch.sub(unguided_CW, guided_CW, out=guided_CW).sub_(divergence_T[rows].unsqueeze(-1))
                    slope_CW.mul_(unguided_CW.exp_())
                slope_CW.mul_(upstream_C1)
                # Chain rule: the logits are hidden @ head.T.
                add_product(grad_TH[rows], slope_CW, head_VH[columns])
                add_product(grad_VH[columns], slope_CW.T, unguided_TH[rows])
        return grad_TH.to(unguided_TH.dtype), None, grad_VH.to(head_VH.dtype), None, None, None


def _block(
    unguided_CH: Tensor,
    guided_CH: Tensor,
    heads: tuple[Tensor, Tensor],
    direction: Direction,
    temperature: float,
    *,
    with_slope: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the divergence of a block of tokens in one pass over the vocabulary.

    With `gap = +-(guided - unguided)` the difference of the logits, and `E` the mean under the branch that the
    divergence averages over, `KL = E[gap] + the difference of the logsumexps`. `heads`: the unguided branch's and the
    guided one's.

    Returns:
        `divergence_C`, both branches' logsumexp (`_C`), and with `with_slope` the slope of the divergence by the
        unguided hidden states (`_CH`).
    """
    tokens = unguided_CH.shape[0]
    head_VH, guided_head_VH = heads
    unguided, guided = RunningSoftmax(tokens, unguided_CH), RunningSoftmax(tokens, guided_CH)
    gap_C = torch.zeros_like(unguided.sum_C)
    # The unguided head's rows summed by the unguided weights; and by the guided ones (forward) or by unguided x gap
    # (reverse).
    first_CH = unguided_CH.new_zeros(unguided_CH.shape if with_slope else (0, 1), dtype=gap_C.dtype)
    second_CH = torch.zeros_like(first_CH)
    for columns in vocabulary_blocks(tokens, head_VH.shape[0]):
        head_WH = head_VH[columns]
        # The tile's logits of both branches, their gap, and their weights relative to the largest logit so far.
        unguided_CW = tile_logits(unguided_CH, head_WH, temperature)
        guided_CW = tile_logits(guided_CH, guided_head_VH[columns], temperature)
        gap_CW = guided_CW - unguided_CW if direction == "forward" else unguided_CW - guided_CW
        unguided_CW, unguided_rescale_C = unguided.weights(unguided_CW)
        guided_CW, guided_rescale_C = guided.weights(guided_CW)
        # Add the tile to E[gap]; what was summed before is rescaled where the largest logit has grown.
        averaging_CW, rescale_C = (
            (guided_CW, guided_rescale_C) if direction == "forward" else (unguided_CW, unguided_rescale_C)
        )
        gap_C = gap_C * rescale_C + torch.linalg.vecdot(averaging_CW, gap_CW)
        if with_slope:
            second_CW = guided_CW if direction == "forward" else gap_CW.mul_(unguided_CW)
            add_product(first_CH.mul_(unguided_rescale_C.unsqueeze(-1)), unguided_CW, head_WH)
            add_product(second_CH.mul_(rescale_C.unsqueeze(-1)), second_CW, head_WH)
    # From sums of weights to means, and from them to the divergence.
    averaging, other = (guided, unguided) if direction == "forward" else (unguided, guided)
    gap_C = gap_C / averaging.sum_C
    divergence_C = gap_C - averaging.logsumexp_C + other.logsumexp_C
    if with_slope:
        first_CH.div_(unguided.sum_C.unsqueeze(-1))
        second_CH.div_(averaging.sum_C.unsqueeze(-1))
        if direction == "forward":  # E_u[head] - E_p[head]
            first_CH.sub_(second_CH)
        else:  # E_u[gap head] - E_u[gap] E_u[head]
            first_CH.mul_(-gap_C.unsqueeze(-1)).add_(second_CH)
        first_CH.div_(temperature)
    return divergence_C, unguided.logsumexp_C, guided.logsumexp_C, first_CH.to(unguided_CH.dtype)
