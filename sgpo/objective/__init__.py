"""The method as pure functions: tensors and numbers in, tensors and numbers out, nothing but torch.

The legend of shapes, for the whole package. A tensor's name ends in a letter for each of its axes:

    _P  problems                    _T  tokens of a completion, or of a packed sequence
    _G  completions of a group      _N  completion tokens of a whole batch, packed row after row
    _B  rows of a batch             _V  entries of the vocabulary
    _H  hidden width                _C, _W  tokens and vocabulary entries of one tile of `T x V`
    _1  an axis of length one, kept to broadcast

Masks are bool or 0/1; values outside of a mask, NaN included, have no effect. Log-probabilities and divergences are in
nats. No gradient reaches anything through the guided branch. docs/method.md maps every equation of the paper to its
function and its test.
"""

from sgpo.objective.advantages import group_advantages, soft_overlong_punishment
from sgpo.objective.distill_weight import distill_weight
from sgpo.objective.divergence import chunked_token_divergence, clip_divergence, token_divergence
from sgpo.objective.policy_loss import (
    completion_mean,
    importance_ratio,
    importance_weights,
    policy_loss,
    reference_kl,
    shaped_policy_loss,
)
from sgpo.objective.target_selection import select_target

__all__ = [
    "chunked_token_divergence",
    "clip_divergence",
    "completion_mean",
    "distill_weight",
    "group_advantages",
    "importance_ratio",
    "importance_weights",
    "policy_loss",
    "reference_kl",
    "select_target",
    "shaped_policy_loss",
    "soft_overlong_punishment",
    "token_divergence",
]
