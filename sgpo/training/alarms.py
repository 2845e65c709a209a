"""Alarms: signs in the metrics that a run goes wrong. Thresholds stand here and in docs/alarms.md.

An alarm compares the last `ROWS` rows of metrics.jsonl (at the end of a shorter run, all of them) with the first ones,
or with a fixed limit. When it begins to hold, it warns and adds a row to `alarms.jsonl`, and it does so again only once
it has ceased to hold. No alarm stops a run; numbers that are not finite do.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgpo.errors import DivergedError
from sgpo.training.run_directory import RunDirectory, last_checkpoint

logger = logging.getLogger("sgpo")

ROWS = 10  # that a mean is taken over
# Fractions of the mean over the first rows.
ENTROPY_FRACTION = 0.2
LENGTH_FRACTION = 0.5
DISTINCT_FRACTION = 0.5
DISTINCT_PASS_GAIN = 0.1
# Fractions of completions, and of verdicts.
MENTION_FRACTION = 0.05
VERDICT_FRACTION = 0.5
TRUNCATED_FRACTION = 0.5
GUIDED_FRACTION = 0.9  # of the problems
LOGPROB_DIFFERENCE = 0.05  # nats; the tests' model on a CPU: 2e-7 in float32, 1e-3 in bfloat16

Row = Mapping[str, Any]

_MENTION = re.compile(
    r"\b(?:the|this|that|your)\s+(?:given|provided|suggested|above|described)\s+strategy\b"
    r"|\b(?:according\s+to|as|following|follow|using|applying|by|per|from)\s+the\s+strategy\b"
    r"|\bthe\s+strategy\s+(?:above|given|provided|described|says|said|suggests|tells|states|describes|asks)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A sign that a run goes wrong: `value` has passed `threshold`."""

    kind: str
    message: str
    value: float
    threshold: float


def raised_alarms(rows: Sequence[Row], *, ended: bool = False) -> list[Alarm]:
    """Find the alarms that hold at the last of a run's training rows (of `metrics.jsonl`, in order).

    A mean is taken over `ROWS` rows, or over all of them in a run that has `ended` with fewer.
    """
    checks = _CHECKS if len(rows) >= ROWS or (ended and rows) else (_nothing_parsed, _logprob_difference)
    found = (check(rows) for check in checks)
    return [alarm for alarm in found if alarm is not None]


def _entropy(rows: Sequence[Row]) -> Alarm | None:
    return _fallen(
        rows, "entropy", ENTROPY_FRACTION, "the policy collapses; lower the learning rate, or check that kl_clip is set"
    )


def _completion_length(rows: Sequence[Row]) -> Alarm | None:
    message = "the policy drops its reasoning; look at completions, and at what targets look like"
    return _fallen(rows, "completion_length/autonomous", LENGTH_FRACTION, message)


def _distinct_answers(rows: Sequence[Row]) -> Alarm | None:
    """Answers also grow alike when more of them are right: only a fall without more passes is an alarm."""
    before, now = (_mean(part, "pass_rate/autonomous") or 0.0 for part in (rows[:ROWS], rows[-ROWS:]))
    if now - before > DISTINCT_PASS_GAIN:
        return None
    message = "completions of a problem grow alike, but no better; lower the learning rate, or raise num_autonomous"
    return _fallen(rows, "distinct_answers", DISTINCT_FRACTION, message)


def _no_gradient(rows: Sequence[Row]) -> Alarm | None:
    keys = ("loss", "groups/with_gradient", "targets/fraction")
    if any(row.get(key) for row in rows[-ROWS:] for key in keys):
        return None
    count = min(ROWS, len(rows))
    message = (
        f"no group had a gradient in {count} rows: all fail or all pass; choose other problems, or read a completion"
    )
    return Alarm("no_gradient", message, 0.0, 0.0)


def _strategy_mentions(rows: Sequence[Row]) -> Alarm | None:
    fraction = _mean(rows[-ROWS:], "strategy_mentions")
    if fraction is None or fraction <= MENTION_FRACTION:
        return None
    message = f"{fraction:.0%} of autonomous completions speak of a strategy that they were not given"
    return Alarm("strategy_mentions", message, fraction, MENTION_FRACTION)


def _unparsed(rows: Sequence[Row]) -> Alarm | None:
    return _verdicts(rows, "unparsed", "no answer is found in them; look at a completion, prompt_style, and the limit")


def _nothing_parsed(rows: Sequence[Row]) -> Alarm | None:
    """The first row is enough: where no completion of a batch has an answer, no later one has by chance."""
    counts = {key: rows[0].get(key, 0) for key in rows[0] if key.startswith("verdicts/")} if len(rows) == 1 else {}
    total = sum(counts.values())
    if not total or counts.get("verdicts/unparsed", 0) < total:
        return None
    message = (
        f"no answer was found in any of the first {total:,} completions; look at one, at the prompts, the limit, "
        "and the kind of the problems"
    )
    return Alarm("nothing_parsed", message, 1.0, 1.0)


def _timeout(rows: Sequence[Row]) -> Alarm | None:
    return _verdicts(rows, "timeout", "they have no reward; raise verifier_timeout or verifier_workers")


def _truncated(rows: Sequence[Row]) -> Alarm | None:
    fraction = _mean(rows[-ROWS:], "truncated/autonomous")
    if fraction is None or fraction <= TRUNCATED_FRACTION:
        return None
    message = f"{fraction:.0%} of autonomous completions are cut off: raise max_completion_length"
    return Alarm("mostly_truncated", message, fraction, TRUNCATED_FRACTION)


def partly_guided(fraction: float) -> Alarm | None:
    """The alarm of a run that has guided prompts for this fraction of its problems."""
    if fraction >= GUIDED_FRACTION:
        return None
    message = f"only {fraction:.0%} of the problems have a guided prompt; the others are trained without"
    return Alarm("partly_guided", message, fraction, GUIDED_FRACTION)


def _logprob_difference(rows: Sequence[Row]) -> Alarm | None:
    """One row is enough: nothing that follows from a wrong importance ratio can be trusted."""
    value = rows[-1].get("logprob_difference/mean", 0.0) if rows else 0.0
    if value <= LOGPROB_DIFFERENCE:
        return None
    message = (
        f"the engine's log-probabilities differ from the trainer's by {value:.3g} nats per token; check its weights"
    )
    return Alarm("logprob_difference", message, value, LOGPROB_DIFFERENCE)


def _verdicts(rows: Sequence[Row], kind: str, fix: str) -> Alarm | None:
    counts = [
        row.get(f"verdicts/{name}", 0) for row in rows[-ROWS:] for name in ("correct", "wrong", "unparsed", "timeout")
    ]
    total = sum(counts)
    fraction = sum(row.get(f"verdicts/{kind}", 0) for row in rows[-ROWS:]) / total if total else 0.0
    if fraction <= VERDICT_FRACTION:
        return None
    return Alarm(f"mostly_{kind}", f"{fraction:.0%} of verdicts are `{kind}`: {fix}", fraction, VERDICT_FRACTION)


def _fallen(rows: Sequence[Row], key: str, fraction: float, what: str) -> Alarm | None:
    """The mean over the last rows lies below a fraction of that over the first ones; the two share no row."""
    before, now = _mean(rows[:ROWS], key), _mean(rows[-ROWS:], key)
    if len(rows) < 2 * ROWS or before is None or now is None or now >= fraction * before:
        return None
    message = f"{key} fell from {before:.3g} in the first {ROWS} rows to {now:.3g}: {what}"
    return Alarm(key.partition("/")[0], message, now, fraction * before)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else None


_CHECKS: tuple[Callable[[Sequence[Row]], Alarm | None], ...] = (
    _entropy,
    _completion_length,
    _distinct_answers,
    _no_gradient,
    _strategy_mentions,
    _unparsed,
    _timeout,
    _truncated,
    _logprob_difference,
)


def mentions_strategy(completion: str) -> bool:
    """Whether a text refers to a strategy that it was given: "following the strategy", not "my strategy"."""
    return _MENTION.search(completion) is not None


class AlarmWatcher(TrainerCallback):
    """Looks at every logged row; warns of each alarm that begins to hold, and adds it to `alarms.jsonl`."""

    def __init__(self, run: RunDirectory, *, guided_fraction: float = 1.0) -> None:
        """`guided_fraction`: of the problems, those that have a guided prompt."""
        self.run = run
        self.guided_fraction = guided_fraction
        self.rows: list[Row] = []
        self.holding: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.rows = [row for row in self.run.read_metrics() if "loss" in row]  # of a run that is resumed
        self.holding = {alarm.kind for alarm in raised_alarms(self.rows)}
        alarm = partly_guided(self.guided_fraction)
        if alarm is not None and state.global_step == 0:
            self._raise(alarm, step=0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            self.rows.append(dict(logs))
            self._look(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._look(state.global_step, ended=True)

    def _look(self, step: int, *, ended: bool = False) -> None:
        alarms = raised_alarms(self.rows, ended=ended)
        for alarm in alarms:
            if alarm.kind not in self.holding:
                self._raise(alarm, step)
        self.holding = {alarm.kind for alarm in alarms}

    def _raise(self, alarm: Alarm, step: int) -> None:
        logger.warning("alarm %s at step %d: %s", alarm.kind, step, alarm.message)
        row = {"alarm": alarm.kind, "message": alarm.message, "value": alarm.value, "threshold": alarm.threshold}
        self.run.append_metrics({"step": step, **row}, file="alarms.jsonl")


# -- what stops a run


class DivergenceStop(TrainerCallback):
    """Stops a run at the first step whose gradient, weights or loss are not finite, before anything of it is saved.

    The gradient is looked at before the optimizer's step, the weights after it. With fp16 an infinite gradient is no
    sign: the scaler skips that step.
    """

    def __init__(self, checkpoints: Path, learning_rate: str = "learning_rate") -> None:
        """`checkpoints`: where the run's are; `learning_rate`: what its option is called."""
        self.checkpoints, self.learning_rate = checkpoints, learning_rate

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        gradients = (p.grad for p in model.parameters() if p.grad is not None)
        if not args.fp16 and not _all_finite(gradients, args.device):
            self._stop(state.global_step + 1, "gradient is")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if not _all_finite((p.detach() for p in model.parameters() if p.requires_grad), args.device):
            self._stop(state.global_step, "weights are")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # Its components, too: the Trainer logs a loss of 0 in place of one that is not finite.
        losses = [value for key, value in (logs or {}).items() if key == "loss" or key.startswith("loss/")]
        if not all(map(math.isfinite, losses)):
            self._stop(state.global_step, "loss is")

    def _stop(self, step: int, what: str) -> None:
        checkpoint = last_checkpoint(self.checkpoints)
        fix = (
            f"go back to {checkpoint}: start a new run with it as the model"
            if checkpoint is not None
            else "there is no checkpoint yet to go back to: start again"
        )
        raise DivergedError(
            f"training diverged at step {step}: its {what} not finite, and nothing of it was saved; {fix}, with a "
            f"lower {self.learning_rate}"
        )


def _all_finite(tensors: Iterable[Tensor], device: torch.device) -> bool:
    """Whether all numbers are finite, in all processes: each may hold a part."""
    parts = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    infinite = torch.zeros((), device=device)
    for part in parts:
        infinite += (~part.isfinite()).any()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(infinite)
    return not infinite.item()
