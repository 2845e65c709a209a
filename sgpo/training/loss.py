"""The loss of a micro-batch: the sum of its components, each normalised over the *global* batch.

Policy gradient and cross-entropy are sums over their tokens, divided by that component's tokens in the global batch
(with `loss_mean="sequence"` the policy gradient is a sum of means over each completion, divided by their number), and
so is the KL to the reference; the divergence is `(1/P) sum_q w_q (1/T_q) sum_t clip(KL_t)` over all P problems of the
global batch, where a problem without a target counts 0; with `target_sft_coef` the target's cross-entropy is added to
`clip(KL_t)`. So the sum over micro-batches, however the batch is split, is the loss of one pass. Shape suffixes:
`sgpo/objective/__init__.py`; `_N` is all completion tokens of a micro-batch, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sgpo.algorithms import TrainingRow
from sgpo.objective import (
    clip_divergence,
    completion_mean,
    importance_ratio,
    importance_weights,
    policy_loss,
    reference_kl,
    shaped_policy_loss,
)
from sgpo.rollouts.forward import Predictions, Predictor, predicted_divergence, token_logprobs
from sgpo.training.config import SGPOConfig
from sgpo.training.frozen import Branch
from sgpo.training.metrics import Averages


@dataclass(frozen=True, slots=True)
class Totals:
    """The divisors of the components: counts over the global batch, all processes together."""

    problems: int = 0
    policy_sequences: int = 0
    policy_tokens: int = 0
    cross_entropy_tokens: int = 0

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], *, problems: int) -> Totals:
        """Count the tokens and sequences of these rows."""
        return cls(
            problems=problems,
            policy_sequences=sum(row.advantage is not None for row in rows),
            policy_tokens=sum(len(row.completion_ids) for row in rows if row.advantage is not None),
            cross_entropy_tokens=sum(len(row.completion_ids) for row in rows if row.cross_entropy),
        )


def batch_loss(
    model: Any,
    predictor: Predictor,
    rows: Sequence[TrainingRow],
    totals: Totals,
    options: SGPOConfig,
    averages: Averages,
    frozen_guided: Branch | None = None,
) -> Tensor:
    """Compute the part of the global loss that falls on these rows, by one forward with gradient over all of them.

    Args:
        model: The policy, as wrapped for several processes.
        predictor: Runs it.
        rows: The training rows; each target gets its tokens' divergences.
        totals: The divisors.
        options: The options of training.
        averages: Gets the metrics.
        frozen_guided: The guided branch of the divergence, if it is not the policy itself.

    Returns:
        A scalar.
    """
    # The forward: log-probabilities of all completion tokens, of all rows, whatever component a row is in.
    predictions = predictor(model, [row.prompt.ids for row in rows], [row.completion_ids for row in rows])
    device = predictions.states.device
    ids_N = torch.tensor([token for row in rows for token in row.completion_ids], device=device)
    logprobs_N = token_logprobs(predictions, ids_N, temperature=options.temperature)
    logprobs = logprobs_N.split([len(row.completion_ids) for row in rows])
    averages.add_sum("trained_tokens", sum(len(row.completion_ids) for row in rows if row.has_gradient))

    # The components. A batch in which no component has a part still gives every process a gradient, of zeros.
    loss = logprobs_N.sum() * 0.0
    policy = [(row, values) for row, values in zip(rows, logprobs, strict=True) if row.advantage is not None]
    if on_policy := [(row, values) for row, values in policy if row.shaping is None]:
        loss = loss + options.policy_coef * _policy_component(on_policy, totals, options, averages)
        if options.beta:
            loss = loss + options.beta * _reference_kl_component(on_policy, totals, options, averages)
    if off_policy := [(row, values) for row, values in policy if row.shaping is not None]:
        loss = loss + options.policy_coef * _off_policy_component(off_policy, totals, options, averages)
    entropic = [(row, values) for row, values in zip(rows, logprobs, strict=True) if row.cross_entropy]
    if entropic:
        component = -torch.stack([row.cross_entropy * values.sum() for row, values in entropic]).sum()
        component = component / totals.cross_entropy_tokens
        averages.add_sum("loss/cross_entropy", component)
        loss = loss + component
    if any(row.target is not None for row in rows):
        loss = loss + options.distill_coef * _distillation_component(
            model, predictor, rows, predictions, logprobs, totals, options, averages, frozen_guided
        )
    elif options.world_size > 1 and frozen_guided is None:
        predictor.dummy_forward(model)  # while other processes run their guided branch
    return loss


def _policy_component(
    rows: Sequence[tuple[TrainingRow, Tensor]], totals: Totals, options: SGPOConfig, averages: Averages
) -> Tensor:
    """The clipped policy gradient of the autonomous completions."""
    logprobs_BT, old_logprobs_BT, mask_BT = _padded(rows)
    advantages_B = torch.tensor([row.advantage for row, _ in rows], device=logprobs_BT.device)
    # How far the engine's log-probabilities are from the trainer's: an alarm watches this.
    sampling_logprobs_BT = _sampling_logprobs(rows)
    differences_N = (old_logprobs_BT - sampling_logprobs_BT)[mask_BT].abs()
    if len(differences_N := differences_N[~differences_N.isnan()]):
        averages.add_all("logprob_difference/mean", differences_N)
        averages.add_largest("logprob_difference/max", float(differences_N.max()))
    loss = policy_loss(
        logprobs_BT,
        old_logprobs_BT,
        advantages_B,
        mask_BT,
        clip_low=options.clip_low,
        clip_high=options.clip_high,
        loss_mean=options.loss_mean,
        ratio_level=options.importance_sampling_level,
        importance_BT=_importance_weights(old_logprobs_BT, sampling_logprobs_BT, mask_BT, options, averages),
    )
    component = loss * _part_of_batch(mask_BT, totals, options)
    averages.add_sum("loss/policy", component)
    with torch.no_grad():
        level = options.importance_sampling_level
        ratio_N = importance_ratio(logprobs_BT, old_logprobs_BT, mask_BT, level=level)[mask_BT]
        clipped_N = (ratio_N < 1 - options.clip_low) | (ratio_N > 1 + options.clip_high)
        averages.add_all("clipped_fraction", clipped_N.float())
    return component


def _reference_kl_component(
    rows: Sequence[tuple[TrainingRow, Tensor]], totals: Totals, options: SGPOConfig, averages: Averages
) -> Tensor:
    """The KL of the autonomous completions to the reference, normalised as their policy gradient is."""
    logprobs_BT, old_logprobs_BT, mask_BT = _padded(rows)
    reference = [row.reference_logprobs.to(values) for row, values in rows if row.reference_logprobs is not None]
    ratio_BT = importance_ratio(logprobs_BT, old_logprobs_BT, mask_BT, level=options.importance_sampling_level)
    kl_BT = reference_kl(logprobs_BT, pad_sequence(reference, batch_first=True), ratio_BT)
    averages.add_all("kl", kl_BT[mask_BT])
    return completion_mean(kl_BT, mask_BT, by=options.loss_mean) * _part_of_batch(mask_BT, totals, options)


def _padded(rows: Sequence[tuple[TrainingRow, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The rows' log-probabilities, those of the policy that sampled, and the mask of their tokens.

    On the first update after sampling the policy is the one that sampled: its own log-probabilities are the old ones.
    """
    logprobs_BT = pad_sequence([values for _, values in rows], batch_first=True)
    old_logprobs_BT = pad_sequence(
        [values.detach() if row.old_logprobs is None else row.old_logprobs.to(values) for row, values in rows],
        batch_first=True,
    )
    lengths_B1 = torch.tensor([[len(row.completion_ids)] for row, _ in rows], device=logprobs_BT.device)
    mask_BT = torch.arange(logprobs_BT.shape[1], device=logprobs_BT.device) < lengths_B1
    return logprobs_BT, old_logprobs_BT, mask_BT


def _part_of_batch(mask_BT: Tensor, totals: Totals, options: SGPOConfig) -> Tensor | float:
    """What the mean over these rows is multiplied by to be their part of the mean over the global batch."""
    if options.loss_mean == "token":
        return mask_BT.sum() / max(totals.policy_tokens, 1)
    return len(mask_BT) / max(totals.policy_sequences, 1)


def _sampling_logprobs(rows: Sequence[tuple[TrainingRow, Tensor]]) -> Tensor:
    """The engine's log-probability of each token (`sampling_logprobs_BT`); NaN where it gave none."""
    parts = [
        torch.full_like(values, torch.nan)
        if row.sampling_logprobs is None
        else values.new_tensor(row.sampling_logprobs)
        for row, values in rows
    ]
    return pad_sequence(parts, batch_first=True)


def _importance_weights(
    old_logprobs_BT: Tensor,
    sampling_logprobs_BT: Tensor,
    mask_BT: Tensor,
    options: SGPOConfig,
    averages: Averages,
) -> Tensor | None:
    """The weights of tokens that vLLM sampled; None if the trainer's own model samples."""
    if options.engine != "vllm" or not options.vllm_importance_sampling_correction:
        return None
    weights_BT = importance_weights(
        old_logprobs_BT, sampling_logprobs_BT, clip_max=options.vllm_importance_sampling_clip_max
    )
    averages.add_all("importance_weight", weights_BT[mask_BT])
    return weights_BT


def _off_policy_component(
    rows: Sequence[tuple[TrainingRow, Tensor]], totals: Totals, options: SGPOConfig, averages: Averages
) -> Tensor:
    """The shaped policy gradient of completions that the policy did not sample (LUFFY)."""
    parts = []
    for row, values_T in rows:
        assert row.shaping is not None
        advantage_1 = values_T.new_tensor([row.advantage])
        loss = shaped_policy_loss(values_T[None], advantage_1, torch.ones_like(values_T[None]), shaping=row.shaping)
        by_token = options.loss_mean == "token"
        parts.append(loss * len(values_T) / totals.policy_tokens if by_token else loss / totals.policy_sequences)
    component = torch.stack(parts).sum()
    averages.add_sum("loss/off_policy", component)
    return component


def _distillation_component(
    model: Any,
    predictor: Predictor,
    rows: Sequence[TrainingRow],
    predictions: Predictions,
    logprobs: Sequence[Tensor],
    totals: Totals,
    options: SGPOConfig,
    averages: Averages,
    frozen_guided: Branch | None,
) -> Tensor:
    """The clipped divergence of the targets from the guided branch."""
    # The guided branch reads the same completions after the guided prompts, without gradient.
    targets = [(i, row.target) for i, row in enumerate(rows) if row.target is not None]
    prompts, completions = [t.guided_prompt.ids for _, t in targets], [rows[i].completion_ids for i, _ in targets]
    with torch.no_grad():
        branch = partial(predictor, model) if frozen_guided is None else frozen_guided
        guided = branch(prompts, completions)
    # The unguided branch is the forward with gradient: take the tokens of the targets out of it.
    is_target_N = torch.tensor(
        [row.target is not None for row in rows for _ in row.completion_ids], device=predictions.states.device
    )
    divergences = predicted_divergence(
        predictions.of(is_target_N),
        guided,
        direction="reverse" if options.distill_loss == "reverse_kl" else "forward",
        temperature=options.temperature,
        one_head=frozen_guided is None,
    ).split([len(rows[i].completion_ids) for i, _ in targets])
    component = logprobs[0].new_zeros(())
    for (i, target), divergence_T in zip(targets, divergences, strict=True):
        clipped_T = clip_divergence(divergence_T, kl_clip=options.kl_clip, mode=options.kl_clip_mode)
        component = component + target.weight * _target_loss(clipped_T, logprobs[i], options) / totals.problems
        target.divergences = divergence_T.detach().tolist()
        averages.add_all("divergence/mean", divergence_T)
        averages.add_all("divergence/clipped_mean", clipped_T)
        if options.kl_clip is not None:
            averages.add_all("divergence/clipped_fraction", (divergence_T > options.kl_clip).float())
    averages.add_sum("loss/distill", component)
    return component


def _target_loss(clipped_T: Tensor, logprobs_T: Tensor, options: SGPOConfig) -> Tensor:
    """The loss of one target before its weight, a scalar.

    It is the mean of its tokens' clipped divergences, or of their cross-entropy in its place (`distill_loss=sft`), plus
    `target_sft_coef` times the cross-entropy.
    """
    loss_T = -logprobs_T if options.distill_loss == "sft" else clipped_T
    return loss_T.mean() - options.target_sft_coef * logprobs_T.mean()
