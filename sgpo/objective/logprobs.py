"""Log-probabilities of given tokens from hidden states and the head, without ever holding a `T x V` matrix.

Logits exist one tile at a time. A tile is high, so that the head is read once per thousand tokens, and narrow, so that
it stays small; sums that a softmax needs over the whole vocabulary go from tile to tile (online softmax,
arXiv 1805.02867). `sgpo/objective/divergence.py` uses the same tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# 33 MB of float32 a tile: wide enough for a fast product, small beside the head of a large vocabulary.
TILE_LOGITS = 2**23
TILE_TOKENS = 1024


def chunked_token_logprobs(hidden_TH: Tensor, lm_head_VH: Tensor, ids_T: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute `log softmax(hidden @ lm_head.T / temperature)` of each token's id.

    Values and gradients (to the hidden states and, if it is trained, to the head) are those of full logits. With a
    frozen head (LoRA) the forward pass computes the gradient, and backward costs nothing; with a trained head backward
    computes the logits again.

    Args:
        hidden_TH: The states that predict the tokens.
        lm_head_VH: The head.
        ids_T: The tokens.
        temperature: Of sampling; logits are divided by it.

    Returns:
        `logprobs_T`, in nats, float32 (float64 for float64 states).

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive.
    """
    if hidden_TH.dim() != 2 or ids_T.shape != hidden_TH.shape[:1]:
        raise ValueError(
            f"got hidden states {tuple(hidden_TH.shape)} for ids {tuple(ids_T.shape)}: one of each a token"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    logprobs_T: Tensor = _ChunkedTokenLogprobs.apply(hidden_TH, lm_head_VH, ids_T, temperature)
    return logprobs_T


class _ChunkedTokenLogprobs(torch.autograd.Function):
    """The log-probabilities by tiles, with the gradients written out: autograd would keep every tile."""

    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, head_VH: Tensor, ids_T: Tensor, temperature: float) -> Tensor:
        ctx.temperature = temperature
        ctx.head_is_frozen = not ctx.needs_input_grad[1]
        keeps_slopes = ctx.head_is_frozen and ctx.needs_input_grad[0]
        tokens, wide = hidden_TH.shape[0], wide_dtype(hidden_TH)
        logsumexp_T = hidden_TH.new_empty(tokens, dtype=wide)
        chosen_TH = head_VH[ids_T]
        slope_TH = hidden_TH.new_zeros(hidden_TH.shape if keeps_slopes else (0,), dtype=wide)
        # The logarithm of each token's normaliser, and with a frozen head its slope by the hidden states.
        for rows in token_blocks(tokens):
            softmax = RunningSoftmax(rows.stop - rows.start, hidden_TH)
            for columns in vocabulary_blocks(rows.stop - rows.start, head_VH.shape[0]):
                weights_CW, rescale_C = softmax.weights(tile_logits(hidden_TH[rows], head_VH[columns], temperature))
                if keeps_slopes:  # d logsumexp / d hidden is the mean of the head's rows under the softmax
                    slope_TH[rows] *= rescale_C.unsqueeze(-1)
                    add_product(slope_TH[rows], weights_CW, head_VH[columns])
            if keeps_slopes:
                slope_TH[rows] /= softmax.sum_C.unsqueeze(-1)
            logsumexp_T[rows] = softmax.logsumexp_C
        if ctx.head_is_frozen:
            ctx.save_for_backward(chosen_TH.to(wide).sub(slope_TH).div_(temperature) if keeps_slopes else slope_TH)
        else:
            ctx.save_for_backward(hidden_TH, head_VH, ids_T, logsumexp_T)
        # The chosen logit is a product of its own, in the wide type: no tile has to look for it. It is rounded as those
        # of the tiles are, or the log-probability of a certain token would be as far from 0 as 16 bits round.
        chosen_T = torch.linalg.vecdot(hidden_TH.to(wide), chosen_TH.to(wide)).to(hidden_TH.dtype).to(wide)
        return chosen_T / temperature - logsumexp_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head_is_frozen:
            (slope_TH,) = ctx.saved_tensors
            return slope_TH * grad_T.unsqueeze(-1), None, None, None
        hidden_TH, head_VH, ids_T, logsumexp_T = ctx.saved_tensors
        upstream_T = grad_T / ctx.temperature
        # The chosen logits first; then, from tiles computed again, the normaliser's softmax.
        grad_TH = upstream_T.unsqueeze(-1) * head_VH[ids_T]
        grad_VH = torch.zeros_like(head_VH, dtype=grad_T.dtype)
        grad_VH.index_add_(0, ids_T, upstream_T.unsqueeze(-1) * hidden_TH)
        for rows in token_blocks(hidden_TH.shape[0]):
            for columns in vocabulary_blocks(rows.stop - rows.start, head_VH.shape[0]):
                logits_CW = tile_logits(hidden_TH[rows], head_VH[columns], ctx.temperature)
                slope_CW = logits_CW.sub_(logsumexp_T[rows].unsqueeze(-1)).exp_().mul_(-upstream_T[rows].unsqueeze(-1))
                add_product(grad_TH[rows], slope_CW, head_VH[columns])
                add_product(grad_VH[columns], slope_CW.T, hidden_TH[rows])
        return grad_TH.to(hidden_TH.dtype), grad_VH.to(head_VH.dtype), None, None


# -- tiles


def token_blocks(tokens: int) -> Iterator[slice]:
    """Yield the rows of the tiles: at most `TILE_TOKENS` tokens each; without tokens one empty block."""
    for start in range(0, max(tokens, 1), TILE_TOKENS):
        yield slice(start, min(start + TILE_TOKENS, tokens))


def vocabulary_blocks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Yield the columns of the tiles of `tokens` rows: at most `TILE_LOGITS` logits each."""
    width = max(1, TILE_LOGITS // max(tokens, 1))
    for start in range(0, vocabulary, width):
        yield slice(start, min(start + width, vocabulary))


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """The type of sums and softmaxes: float32, or float64 for float64 inputs."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def tile_logits(hidden_CH: Tensor, head_WH: Tensor, temperature: float) -> Tensor:
    """`logits_CW` divided by the temperature, in the wide type."""
    logits_CW = (hidden_CH @ head_WH.T).to(wide_dtype(hidden_CH))
    return logits_CW if temperature == 1.0 else logits_CW.div_(temperature)


def add_product(sum_: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` to `sum_`, multiplied in the type of `right` (the weights') and added in that of the sum."""
    if sum_.dtype == right.dtype == left.dtype:
        sum_.addmm_(left, right)
    else:
        sum_ += left.to(right.dtype) @ right


class RunningSoftmax:
    """The softmax of rows whose logits come tile by tile.

    `weights` turns a tile into `exp(logits - m)`, with m the largest logit so far. Sums over these weights must be
    rescaled whenever m grows: the second value returned, `rescale_C`, says by how much.
    """

    def __init__(self, tokens: int, like: Tensor) -> None:
        self.maximum_C = like.new_full((tokens,), -torch.inf, dtype=wide_dtype(like))
        self.sum_C = torch.zeros_like(self.maximum_C)

    def weights(self, logits_CW: Tensor) -> tuple[Tensor, Tensor]:
        """`weights_CW` (in the memory of the logits) and `rescale_C`."""
        maximum_C = torch.maximum(self.maximum_C, logits_CW.amax(-1))
        rescale_C = (self.maximum_C - maximum_C).exp_()
        weights_CW = logits_CW.sub_(maximum_C.unsqueeze(-1)).exp_()
        self.maximum_C = maximum_C
        self.sum_C = self.sum_C * rescale_C + weights_CW.sum(-1)
        return weights_CW, rescale_C

    @property
    def logsumexp_C(self) -> Tensor:
        """The logarithm of the normaliser, after the last tile."""
        return self.maximum_C + self.sum_C.log()
