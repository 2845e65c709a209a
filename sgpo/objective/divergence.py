"""Strategy distillation, token by token (step 6 of SGPO).

`KL_t = sum_v p_v (log p_v - log u_v)` over the full vocabulary, with `p = stopgrad pi(. | q, s, y_<t)` the guided and
`u = pi_theta(. | q, y_<t)` the unguided branch. `direction="reverse"` is `sum_v u_v (log u_v - log p_v)` (the paper's
ablation). No gradient reaches anything through the guided branch, the head included.

Two forms of one quantity: from logits, and from hidden states and the head without ever holding a T x V matrix (at a
vocabulary of 152K, two fp32 T x V matrices take 1.2 MB per token).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Direction = Literal["forward", "reverse"]

# The chunked form works on so many logits of each branch at a time: 80 MB in float32, 138 tokens of a 152K vocabulary.
CHUNK_LOGITS = 21_000_000


def token_divergence(
    unguided_logits_TV: Tensor,
    guided_logits_TV: Tensor,
    *,
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """The divergence of every token, exact over the full vocabulary, in float32 (float64 for float64 logits).

    Both branches' logits are divided by `temperature`, the one of sampling. A logit of -inf is a token that the branch
    rules out. Returns `divergence_T`, in nats. Raises ValueError for unequal shapes or an unknown direction.
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
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """`token_divergence` of `hidden @ lm_head.T`, chunk by chunk: same values and gradients, less memory.

    The gradients reach `unguided_hidden_TH` and, where it is trained, `lm_head_VH`. With a frozen head (LoRA) they are
    computed in the forward pass, so that backward costs nothing; with a trained one the logits are computed again.
    Returns `divergence_T`, in nats. Raises ValueError for unequal shapes or an unknown direction.
    """
    _check(unguided_hidden_TH, guided_hidden_TH, direction, temperature)
    divergence_T: Tensor = _ChunkedTokenDivergence.apply(
        unguided_hidden_TH, guided_hidden_TH.detach(), lm_head_VH, direction, temperature
    )
    return divergence_T


def clip_divergence(
    divergence_T: Tensor, *, kl_clip: float | None, mode: Literal["scale", "clamp"] = "scale"
) -> Tensor:
    """The proximal constraint `min(KL_t, c)`; None is no constraint.

    `scale` caps the size and keeps the gradient's direction, `KL * c / max(stopgrad KL, c)`: a token above the cap
    pulls with the strength of one at the cap. `clamp` is the literal minimum, whose gradient is zero above the cap, at
    the very decisions that the strategy is about. Measurements and the choice: docs/deviations.md.

    Raises ValueError for a cap that is not positive or an unknown mode.
    """
    if mode not in ("scale", "clamp"):
        raise ValueError(f"kl_clip_mode must be 'scale' or 'clamp', got {mode!r}")
    if kl_clip is None:
        return divergence_T
    if not kl_clip > 0:
        raise ValueError(f"kl_clip must be positive (or null for no cap), got {kl_clip}")
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
    @staticmethod
    def forward(
        ctx: Any,
        unguided_TH: Tensor,
        guided_TH: Tensor,
        head_VH: Tensor,
        direction: Direction,
        temperature: float,
    ) -> Tensor:
        ctx.direction, ctx.temperature = direction, temperature
        dtype = torch.float64 if unguided_TH.dtype == torch.float64 else torch.float32
        divergence_T = unguided_TH.new_empty(unguided_TH.shape[0], dtype=dtype)
        ctx.head_is_frozen = not ctx.needs_input_grad[2]
        ctx.needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        # A token's gradient is its slope times one number that only backward knows, so with a frozen head the slopes
        # can be kept (T x H) in place of a second pass over the logits.
        keep_slopes = ctx.head_is_frozen and ctx.needs_grad
        slope_TH = torch.empty_like(unguided_TH) if keep_slopes else unguided_TH.new_empty(0)
        for rows in _chunks(unguided_TH.shape[0], head_VH.shape[0]):
            divergence_C, slope_CV = _chunk(
                unguided_TH[rows], guided_TH[rows], head_VH, direction, temperature, with_slope=keep_slopes
            )
            divergence_T[rows] = divergence_C
            if slope_CV is not None:
                torch.mm(slope_CV.to(head_VH.dtype), head_VH, out=slope_TH[rows])
        if ctx.head_is_frozen:
            ctx.save_for_backward(slope_TH)
        else:
            ctx.save_for_backward(unguided_TH, guided_TH, head_VH)
        return divergence_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head_is_frozen:
            (slope_TH,) = ctx.saved_tensors
            return slope_TH * grad_T.unsqueeze(-1).to(slope_TH.dtype), None, None, None, None
        unguided_TH, guided_TH, head_VH = ctx.saved_tensors
        grad_TH = torch.empty_like(unguided_TH)
        # A bf16 sum over many chunks would lose small contributions.
        grad_VH = torch.zeros_like(head_VH, dtype=grad_T.dtype)
        for rows in _chunks(unguided_TH.shape[0], head_VH.shape[0]):
            _, slope_CV = _chunk(
                unguided_TH[rows], guided_TH[rows], head_VH, ctx.direction, ctx.temperature, with_slope=True
            )
            assert slope_CV is not None
            slope_CV.mul_(grad_T[rows].unsqueeze(-1))
            slope_CV = slope_CV.to(head_VH.dtype)
            torch.mm(slope_CV, head_VH, out=grad_TH[rows])
            if grad_VH.dtype == slope_CV.dtype:
                grad_VH.addmm_(slope_CV.T, unguided_TH[rows])
            else:
                grad_VH += slope_CV.T @ unguided_TH[rows]
        return grad_TH, None, grad_VH.to(head_VH.dtype), None, None


def _chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _chunk(
    unguided_CH: Tensor,
    guided_CH: Tensor,
    head_VH: Tensor,
    direction: Direction,
    temperature: float,
    *,
    with_slope: bool,
) -> tuple[Tensor, Tensor | None]:
    """The divergence of a chunk's tokens and, if asked for, its derivative by the unguided logits (`C x V`)."""
    unguided_CV = _log_probabilities(unguided_CH, head_VH, temperature)
    guided_CV = _log_probabilities(guided_CH, head_VH, temperature)
    if direction == "forward":
        # dKL/dz = (u - p) / temperature
        guided_probs_CV = guided_CV.exp()
        divergence_C = torch.linalg.vecdot(guided_probs_CV, guided_CV.sub_(unguided_CV))
        slope_CV = unguided_CV.exp_().sub_(guided_probs_CV) if with_slope else None
    else:
        # dKL/dz = u ((log u - log p) - KL) / temperature
        unguided_probs_CV = unguided_CV.exp()
        difference_CV = unguided_CV.sub_(guided_CV)
        divergence_C = torch.linalg.vecdot(unguided_probs_CV, difference_CV)
        slope_CV = difference_CV.sub_(divergence_C.unsqueeze(-1)).mul_(unguided_probs_CV) if with_slope else None
    if slope_CV is not None and temperature != 1.0:
        slope_CV.div_(temperature)
    return divergence_C, slope_CV


def _log_probabilities(hidden_CH: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    logits_CV = hidden_CH @ head_VH.T
    logits_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
    if temperature != 1.0:
        logits_CV.div_(temperature)
    return logits_CV.sub_(logits_CV.logsumexp(-1, keepdim=True))
