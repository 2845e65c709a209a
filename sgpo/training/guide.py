"""The guided branch at other weights than the current ones: the initial ones, or a moving average."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgpo.rollouts.logprobs import Predictor
from sgpo.training.in_hand import InHand
from sgpo.training.loss import Guide
from sgpo.training.resumable import ResumableTrainer


def fixed_guide(model: Any, *, pad_id: int) -> Guide:
    """The model as it is now, for good: a second copy of it."""
    model = copy.deepcopy(model).requires_grad_(False)
    return partial(Predictor(model, pad_id=pad_id), model)


def averaged_guide(trainer: ResumableTrainer, decay: float) -> Guide:
    """A moving average of the weights, `average = decay average + (1 - decay) weights` after every optimizer step: a
    second copy of the model, and part of every checkpoint."""
    average = copy.deepcopy(trainer.model).requires_grad_(False)
    trainer.add_callback(_MovingAverage(average, decay, trainer))
    return partial(Predictor(average, pad_id=trainer.processing_class.pad_token_id), average)


class _MovingAverage(TrainerCallback):
    def __init__(self, average: Any, decay: float, trainer: ResumableTrainer) -> None:
        self.average, self.decay, self.trainer = average, decay, trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        in_hand: InHand = self.trainer.in_hand
        if in_hand.average:
            self.average.load_state_dict(in_hand.average)
        in_hand.average = self.average.state_dict()  # its tensors are those that change

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for slow, fast in zip(self.average.parameters(), kwargs["model"].parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
