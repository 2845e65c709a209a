"""Alarms: signs in the metrics that a run goes wrong. Thresholds stand here and in docs/alarms.md.

An alarm compares the last `ROWS` rows of metrics.jsonl with the first ones, or with a fixed limit. When it begins to
hold, it warns and adds a row to `alarms.jsonl`, and it does so again only once it has ceased to hold. No alarm stops a
run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgpo.training.run_directory import RunDirectory

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


def raised_alarms(rows: Sequence[Row]) -> list[Alarm]:
    """Find the alarms that hold at the last of a run's training rows (of `metrics.jsonl`, in order)."""
    checks = _CHECKS if len(rows) >= ROWS else (_logprob_difference,)
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
    message = (
        f"no group had a gradient in {ROWS} rows: all fail or all pass; choose other problems, or read a completion"
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


def _timeout(rows: Sequence[Row]) -> Alarm | None:
    return _verdicts(rows, "timeout", "they have no reward; raise verifier_timeout or verifier_workers")


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
    _logprob_difference,
)


def mentions_strategy(completion: str) -> bool:
    """Whether a text refers to a strategy that it was given: "following the strategy", not "my strategy"."""
    return _MENTION.search(completion) is not None


class AlarmWatcher(TrainerCallback):
    """Looks at every logged row; warns of each alarm that begins to hold, and adds it to `alarms.jsonl`."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.rows: list[Row] = []
        self.holding: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rows = [row for row in self.run.read_metrics() if "loss" in row]  # of a run that is resumed
            self.holding = {alarm.kind for alarm in raised_alarms(self.rows)}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        self.rows.append(dict(logs))
        alarms = raised_alarms(self.rows)
        for alarm in alarms:
            if alarm.kind not in self.holding:
                logger.warning("alarm %s at step %d: %s", alarm.kind, state.global_step, alarm.message)
                row = {
                    "alarm": alarm.kind,
                    "message": alarm.message,
                    "value": alarm.value,
                    "threshold": alarm.threshold,
                }
                self.run.append_metrics({"step": state.global_step, **row}, file="alarms.jsonl")
        self.holding = {alarm.kind for alarm in alarms}
