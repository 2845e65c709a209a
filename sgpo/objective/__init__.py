"""The method as pure functions: tensors and numbers in, tensors and numbers out, nothing but torch.

Shape suffixes: `_P` problems, `_G` completions of a group, `_B` rows of a batch, `_T` tokens, `_V` vocabulary, `_H`
hidden. docs/method.md maps every equation of the paper to its function and its test.
"""

from sgpo.objective.advantages import group_advantages
from sgpo.objective.distill_weight import distill_weight
from sgpo.objective.divergence import chunked_token_divergence, clip_divergence, token_divergence
from sgpo.objective.policy_loss import importance_weights, policy_loss, shaped_policy_loss
from sgpo.objective.target_selection import select_target

__all__ = [
    "chunked_token_divergence",
    "clip_divergence",
    "distill_weight",
    "group_advantages",
    "importance_weights",
    "policy_loss",
    "select_target",
    "shaped_policy_loss",
    "token_divergence",
]
