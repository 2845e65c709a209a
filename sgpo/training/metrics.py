"""What a run shows: metrics of a step, the rows of `rollouts/` and `targets/`, the callbacks that write and show them,
and the effects of strategies over a whole run.

docs/metrics.md explains every key of a metric, docs/run-directory.md every row.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgpo.algorithms import TrainingRow
from sgpo.errors import BankError
from sgpo.progress import listen
from sgpo.rollouts.groups import Rollout, RolloutGroup, pass_rate, seed_of
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Condition
from sgpo.training.alarms import mentions_strategy
from sgpo.training.config import SGPOConfig
from sgpo.training.run_directory import RunDirectory

# Seconds before a bar shows what a step is at, and between two such lines: on a terminal, and in a file.
PATIENCE, PAUSE, PAUSE_IN_A_FILE = 5.0, 1.0, 60.0


class MetricsWriter(TrainerCallback):
    """Writes every logged row to `metrics.jsonl`; keys of evaluations read `eval/...`, as in the loggers.

    A number that is not finite is left out, as a mean over nothing is: JSON has none.
    """

    def __init__(self, run: RunDirectory, file: str = "metrics.jsonl") -> None:
        self.run, self.file = run, file

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            row = {
                key.replace("eval_", "eval/", 1) if key.startswith("eval_") else key: value
                for key, value in logs.items()
                if not isinstance(value, float) or math.isfinite(value)
            }
            self.run.append_metrics({"step": state.global_step, **row}, file=self.file)


class ProgressBar(TrainerCallback):
    """One line on standard error: steps, rate, time left, both pass rates and the latest score; and how far a step has
    come in what takes longer than some seconds: sampling, judging, scoring, training."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] | None = None
        self.shown: dict[str, str] = {}
        self.doing, self.since, self.said = "", 0.0, 0.0  # at work on what, since when; when this was shown last
        self.micro_batch, self.micro_batches = 1, 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                desc=self.name,
                initial=state.global_step,
                total=state.max_steps,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
            )
            self.micro_batches = args.gradient_accumulation_steps
            listen(self.show_work)

    def show_work(self, doing: str, done: int, total: int, more: str) -> None:
        """Show how far the work of a step has come, if it is long; a listener of `sgpo.progress`."""
        now = perf_counter()
        if doing != self.doing:
            self.doing, self.since = doing, now
        pause = PAUSE if sys.stderr.isatty() else PAUSE_IN_A_FILE
        if self.bar is None or now - self.since < PATIENCE or now - self.said < pause:
            return
        self.said = now
        if doing == "training" and self.micro_batches > 1:
            more = f"micro-batch {self.micro_batch} of {self.micro_batches}"
        self.bar.set_postfix({**self.shown, doing: f"{done:,}/{total:,}{f' ({more})' if more else ''}"}, refresh=True)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A micro-batch is done, and not the last of its step."""
        self.micro_batch += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.micro_batch, self.doing = 1, ""
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs:
            return
        if "loss" in logs:  # a row without guided completions has no pass rate of theirs
            self.shown = {key: text for key, text in self.shown.items() if key not in ("autonomous", "guided")}
        for key, value in logs.items():
            if key.startswith("pass_rate/"):
                self.shown[key.removeprefix("pass_rate/")] = f"{value:.2f}"
            elif key.startswith("eval_") and "avg@" in key:
                self.shown[key.removeprefix("eval_")] = f"{value:.3f}"
        self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            listen(None)
            self.bar.close()
            self.bar = None


logger = logging.getLogger("sgpo")


class Averages:
    """Means as (sum, count) pairs, so that micro-batches and processes add up; plain sums; and largest values.

    A mean over nothing is left out: a step without a target has no divergence, not a divergence of 0. Components of the
    loss are sums over the micro-batches of a step and means over the `steps`, as the Trainer's own `loss` is.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.means: dict[str, tuple[float, float]] = {}
        self.sums: dict[str, float] = {}
        self.largest: dict[str, float] = {}

    def add_all(self, name: str, values: Tensor) -> None:
        """Add every element of `values` to a mean."""
        values = values.detach()
        self.add(name, float(values.double().sum()), values.numel())

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add `count` values, whose sum is `total`, to a mean."""
        old_total, old_count = self.means.get(name, (0.0, 0.0))
        self.means[name] = (old_total + total, old_count + count)

    def add_sum(self, name: str, value: Tensor | float) -> None:
        """Add to a plain sum, such as a component of the loss."""
        self.sums[name] = self.sums.get(name, 0.0) + float(value.detach() if isinstance(value, Tensor) else value)

    def add_largest(self, name: str, value: float) -> None:
        """Keep the largest of the values given so far."""
        self.largest[name] = max(value, self.largest.get(name, value))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of a phase to `time/<phase>`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add_sum(f"time/{phase}", perf_counter() - start)

    def gathered(self, accelerator: Accelerator) -> Averages:
        """Gather the averages of all processes; seconds are the mean over processes."""
        if accelerator.num_processes == 1:
            return self
        everyone = Averages()
        everyone.steps = self.steps
        for averages in gather_object([self]):
            everyone.merge(averages)
        for name in everyone.sums:
            if name.startswith("time/"):
                everyone.sums[name] /= accelerator.num_processes
        return everyone

    def merge(self, other: Averages) -> None:
        """Add the means, sums and largest values of another process."""
        for name, (total, count) in other.means.items():
            self.add(name, total, count)
        for name, value in other.sums.items():
            self.add_sum(name, value)
        for name, value in other.largest.items():
            self.add_largest(name, value)

    def results(self) -> dict[str, float]:
        """Every mean, sum and largest value by name."""
        means = {name: total / count for name, (total, count) in self.means.items() if count}
        sums = {
            name: value / max(self.steps, 1) if name.startswith("loss/") else value for name, value in self.sums.items()
        }
        return means | sums | self.largest


def add_rollout_metrics(
    averages: Averages, groups: Sequence[RolloutGroup], rows: Sequence[TrainingRow], *, guided: bool
) -> None:
    """Add what the sampled groups and the algorithm's choice of rows show.

    Args:
        averages: Where to add it.
        groups: All groups that were sampled, also those that dynamic sampling left out of the batch.
        rows: The training rows.
        guided: Whether the algorithm samples guided groups at all.
    """
    # What the two groups of a problem have in common.
    for name in ("autonomous", "guided"):
        for group in groups:
            rollouts: list[Rollout] = getattr(group, name)
            if not rollouts:
                continue
            if not math.isnan(rate := pass_rate(rollouts)):
                averages.add(f"pass_rate/{name}", rate)
            averages.add(f"completion_length/{name}", sum(len(r.completion_ids) for r in rollouts), len(rollouts))
            averages.add(f"truncated/{name}", sum(r.truncated for r in rollouts), len(rollouts))
            for rollout in rollouts:
                averages.add_sum("tokens", len(rollout.completion_ids))
    # What the autonomous groups alone show.
    for group in groups:
        passes = [r.correct for r in group.autonomous if not math.isnan(r.reward)]
        rewards = {r.total_reward for r in group.autonomous if not math.isnan(r.total_reward)}
        if passes:
            averages.add("groups/all_fail", float(not any(passes)))
            averages.add("groups/all_pass", float(all(passes)))
            averages.add("groups/with_gradient", float(len(rewards) > 1))
        for rollout in group.autonomous:
            _add_rewards(averages, rollout)
        punishments = [r.punishment for r in group.autonomous if r.punishment is not None]
        averages.add("overlong_punishment", sum(punishments), len(punishments))
        # At the sampling temperature, -log pi of a sampled token is an unbiased estimate of the entropy.
        # vLLM may lack some.
        logprobs = [v for rollout in group.autonomous for v in rollout.logprobs if not math.isnan(v)]
        averages.add("entropy", -sum(logprobs), len(logprobs))
        mentions = sum(mentions_strategy(rollout.completion) for rollout in group.autonomous)
        averages.add("strategy_mentions", mentions, len(group.autonomous))
        if group.autonomous:
            averages.add("distinct_answers", len({_answer(r) for r in group.autonomous}))
    # What the algorithm made of the groups.
    targets = [row.target for row in rows if row.target is not None]
    averages.add("targets/fraction", len({row.problem_index for row in rows if row.target is not None}), len(groups))
    if guided:
        averages.add("distill_weight", sum(target.weight for target in targets), len(groups))
    verdicts = Counter(
        r.verdict.kind for group in groups for r in (*group.autonomous, *group.guided) if r.verdict is not None
    )
    for kind in ("correct", "wrong", "unparsed", "timeout"):
        averages.add_sum(f"verdicts/{kind}", verdicts[kind])


def _add_rewards(averages: Averages, rollout: Rollout) -> None:
    """Add the rewards of a user's own: the mean of each over the completions that have one, and of their sum."""
    for name, value in rollout.rewards.items():
        missing = math.isnan(value)
        averages.add_sum(f"rewards/{name}/missing", missing)
        if not missing:
            averages.add(f"rewards/{name}/mean", value)
    if rollout.rewards and not math.isnan(rollout.total_reward):
        averages.add("reward", rollout.total_reward)


def _answer(rollout: Rollout) -> str:
    extracted = rollout.verdict.extracted if rollout.verdict is not None else None
    return rollout.completion if extracted is None else extracted


def recorded(rows: Iterable[dict[str, Any]], args: SGPOConfig) -> list[dict[str, Any]]:
    """Keep the rows of the problems that a run writes: the same ones at every step and after a resume."""
    below = args.rollout_fraction * 2**63
    return [row for row in rows if seed_of(args.seed, "recorded", row["problem_id"]) < below]


def rollout_records(step: int, groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
    """Make the rows of `rollouts/`: one object per sampled completion."""
    return [
        {
            "step": step,
            "problem_id": group.problem.id,
            "subject": group.problem.subject,
            "group": name,
            "prompt": rollout.prompt,
            "completion": rollout.completion,
            "tokens": len(rollout.completion_ids),
            "truncated": rollout.truncated,
            "verdict": rollout.verdict.kind if rollout.verdict is not None else None,
            "extracted": rollout.verdict.extracted if rollout.verdict is not None else None,
            "reward": _or_null(rollout.reward),
            **({"rewards": {k: _or_null(v) for k, v in rollout.rewards.items()}} if rollout.rewards else {}),
            "strategy_id": group.strategy_id if name == "guided" else None,
        }
        for group in groups
        for name, rollouts in (("autonomous", group.autonomous), ("guided", group.guided))
        for rollout in rollouts
    ]


def target_records(
    step: int,
    problem_ids: Sequence[str],
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kl_clip: float | None,
) -> list[dict[str, Any]]:
    """Make the rows of `targets/`: one object per distillation target, with the divergence of each of its tokens."""
    return [
        {
            "step": step,
            "problem_id": problem_ids[row.problem_index],
            "strategy_id": row.target.strategy_id,
            "weight": row.target.weight,
            "guided_pass_rate": _or_null(row.target.guided_pass_rate),
            "autonomous_pass_rate": _or_null(row.target.autonomous_pass_rate),
            "prompt": row.prompt.text,
            "tokens": tokenizer.batch_decode([[token] for token in row.completion_ids]),
            "divergences": row.target.divergences,
            "kl_clip": kl_clip,
        }
        for row in rows
        if row.target is not None
    ]


def _or_null(value: float | None) -> float | None:
    """JSON has no NaN, which stands for a completion or a group that was not judged."""
    return None if value is None or math.isnan(value) else value


def strategy_effects(rows: Iterable[Mapping[str, Any]], strategy_ids: Mapping[str, str]) -> dict[str, list[int]]:
    """Count what each strategy did in a run.

    Autonomous completions of a problem count for its strategy, as what it is compared with. A completion without a
    reward (a time-out) counts nowhere.

    Args:
        rows: The rows of `rollouts/`.
        strategy_ids: The strategy of each problem, by problem id.

    Returns:
        For each strategy: guided passes, guided completions, autonomous passes, autonomous completions.
    """
    effects: dict[str, list[int]] = {}
    for row in rows:
        strategy_id = strategy_ids.get(str(row.get("problem_id")))
        if strategy_id is None or row.get("reward") is None:
            continue
        counts = effects.setdefault(strategy_id, [0, 0, 0, 0])
        place = 0 if row["group"] == "guided" else 2
        counts[place] += row["reward"] > 0.5
        counts[place + 1] += 1
    return effects


def record_effects(
    bank: Path, run: str, effects: Mapping[str, Sequence[int]], condition: Condition | None = None
) -> None:
    """Write the effects of a run, measured under a condition, into its bank, which must be writable only here; warn if
    it is not."""
    try:
        with StrategyBank(bank, create=False) as writable:
            writable.record_run(run, effects, condition)
    except BankError as error:
        logger.warning("the bank was not told what its strategies did in this run: %s", error)
