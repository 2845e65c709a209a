"""The guided branch of the divergence at frozen weights: those that training starts from (OPSD)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from sgpo.rollouts.forward import Predictions, Predictor
from sgpo.training.loss import Guide


def initial_guide(model: Any, predictor: Predictor, accelerator: Accelerator) -> Guide:
    """The model as it is now, for good; called before any update. `predictor` is the model's.

    Adapters that change nothing yet have the initial weights below them, so the model is run without them. Of any other
    model a copy is kept.
    """
    if hasattr(model, "disable_adapter") and _adapters_add_nothing(model):
        return _guide(model, predictor, accelerator, within=model.disable_adapter)
    return _guide(*_copy(model, predictor), accelerator)


def _copy(model: Any, predictor: Predictor) -> tuple[Any, Predictor]:
    model = copy.deepcopy(model).requires_grad_(False)
    return model, Predictor(model, pad_id=predictor.pad_id, dtype=predictor.dtype)


def _guide(
    model: Any,
    predictor: Predictor,
    accelerator: Accelerator,
    *,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Guide:
    """Runs `model` in the precision that training runs in, `within` a context of its own."""

    def guide(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Predictions:
        with accelerator.autocast(), within():
            return predictor(model, prompts, completions)

    return guide


@torch.no_grad()
def _adapters_add_nothing(model: Any) -> bool:
    """Not so of adapters that are trained already, or drawn from the weights (PiSSA): seen on one short input."""
    input_ids = torch.arange(4, device=model.device).unsqueeze(0)
    with model.disable_adapter():
        without = model(input_ids=input_ids, use_cache=False).logits
    return torch.allclose(model(input_ids=input_ids, use_cache=False).logits, without, rtol=1e-5, atol=1e-5)
