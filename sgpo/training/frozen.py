"""The weights that training starts from, kept beside those that it changes.

They are the guided branch of `opsd`, and the reference of `beta`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from sgpo.rollouts.forward import Predictions, Predictor

# Predictions of completions (token ids) after prompts.
Branch = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Predictions]


def frozen_branch(model: Any, predictor: Predictor, accelerator: Accelerator) -> Branch:
    """Freeze the model as it is now; call it before any update.

    Below adapters that change nothing yet lie the initial weights, so such a model is run without its adapters. Any
    other model is copied.

    Args:
        model: The policy.
        predictor: The policy's.
        accelerator: Gives the precision that training runs in.
    """
    if hasattr(model, "disable_adapter") and _adapters_add_nothing(model):
        return _branch(model, predictor, accelerator, within=model.disable_adapter)
    frozen = copy.deepcopy(model).requires_grad_(False)
    return _branch(frozen, Predictor(frozen, pad_id=predictor.pad_id, dtype=predictor.dtype), accelerator)


def _branch(
    model: Any,
    predictor: Predictor,
    accelerator: Accelerator,
    *,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Branch:
    """Run `model` in the precision that training runs in, `within` a context of its own."""

    def predict(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Predictions:
        with accelerator.autocast(), within():
            return predictor(model, prompts, completions)

    return predict


@torch.no_grad()
def _adapters_add_nothing(model: Any) -> bool:
    """Compare the model with and without adapters on one short input.

    Adapters that are trained already, or drawn from the weights (PiSSA), do add something.
    """
    input_ids = torch.arange(4, device=model.device).unsqueeze(0)
    with model.disable_adapter():
        without = model(input_ids=input_ids, use_cache=False).logits
    return torch.allclose(model(input_ids=input_ids, use_cache=False).logits, without, rtol=1e-5, atol=1e-5)
