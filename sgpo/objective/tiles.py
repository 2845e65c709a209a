"""Logits a tile at a time: sums over the vocabulary that never hold a `T x V` matrix.

A tile is high, so that the head is read once per thousand tokens, and narrow, so that it stays small: what a softmax
needs over the whole vocabulary is carried from tile to tile (online softmax, arXiv 1805.02867).

Shape suffixes: `_C` the tokens of a tile, `_W` its vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# 33 MB of float32 a tile: wide enough for a fast product, small beside the head of a large vocabulary.
TILE_LOGITS = 2**23
TILE_TOKENS = 1024


def token_blocks(tokens: int) -> Iterator[slice]:
    """The rows of the tiles: at most `TILE_TOKENS` tokens each; without tokens one empty block."""
    for start in range(0, max(tokens, 1), TILE_TOKENS):
        yield slice(start, min(start + TILE_TOKENS, tokens))


def vocabulary_blocks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """The columns of the tiles of `tokens` rows: at most `TILE_LOGITS` logits each."""
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
    """`sum_ += left @ right`, multiplied in the type of `right` (the weights') and added in that of the sum."""
    if sum_.dtype == right.dtype == left.dtype:
        sum_.addmm_(left, right)
    else:
        sum_ += left.to(right.dtype) @ right


class RunningSoftmax:
    """The softmax of rows whose logits come tile by tile.

    `weights` turns a tile into `exp(logits - m)`, with m the largest logit so far. What is summed by these weights has
    to be rescaled whenever m grows: the second value returned, `rescale_C`, says by how much.
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
