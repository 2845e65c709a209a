"""`SGPOTrainer`: strategy-guided training of any causal language model, on `transformers.Trainer`.

One optimizer step: sample both groups of every problem of the global batch in one generation call, judge them, let the
algorithm choose the training rows, and take the gradient of the loss over the micro-batches. `get_batch_samples`, which
the Trainer calls once per optimizer step, is where problems become rollouts and rollouts become rows.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerControl
from transformers.trainer_utils import speed_metrics

from sgpo.algorithms import TrainingRow, build_algorithm
from sgpo.evaluation.evaluate import evaluate
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt, guided_prompt, prompt_style
from sgpo.rollouts.engine import Engine, Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.groups import PromptIds, RewardFunction, Rollout, RolloutGroup, judge, sample_groups, seed_of
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.logprobs import Predictor, token_logprobs
from sgpo.rollouts.policy import check_tokenizer, load_policy, load_tokenizer
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy
from sgpo.training.callbacks import MetricsWriter, ProgressBar
from sgpo.training.config import SGPOConfig
from sgpo.training.data import WindowSampler, as_problems, evaluation_sets
from sgpo.training.loss import Totals, batch_loss
from sgpo.training.metrics import Averages, add_rollout_metrics
from sgpo.training.records import new_counts, rollout_records, strategy_effects, target_records
from sgpo.training.rows_in_use import load_rows, save_rows
from sgpo.training.run_directory import (
    RunDirectory,
    check_checkpoint,
    checkpoint_step,
    read_json,
    write_json,
    write_jsonl,
)
from sgpo.verifier import Verifier

logger = logging.getLogger("sgpo")

Problems = Sequence[Problem]


class SGPOTrainer(Trainer):
    """Trains a policy on problems, guided by the strategies of a bank.

    `model`: a causal language model, its path or its hub id. `train_dataset`, `eval_dataset`: `Problem`s (a list, a
    datasets.Dataset with their columns, or for evaluation a dict of such by name). `bank`: the strategies; a problem
    without one is trained autonomously, and counted. `verifier`: ours, or any function `(completion, problem)` that
    returns a `Verdict` or a reward; above one half counts as correct.

    `train()` writes the run directory `args.output_dir` (docs/run-directory.md); the trained model ends up in its
    `checkpoints/final`. Raises ValueError where that directory holds another run, or data and options do not fit.
    """

    # The components are normalised over the global batch already (sgpo/training/loss.py).
    loss_is_scaled_for_ga = True

    control: TrainerControl

    def __init__(
        self,
        model: Any,
        args: SGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        bank: StrategyBank | None = None,
        verifier: Verifier | RewardFunction | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        args = args or SGPOConfig()
        source = model if isinstance(model, str | Path) else model.config._name_or_path
        if isinstance(model, str | Path):
            model = load_policy(model)
        if processing_class is None:
            if not source:
                raise ValueError("this model has no name to load a tokenizer by; pass one as processing_class")
            processing_class = load_tokenizer(source, pad_token=args.pad_token)
        else:
            check_tokenizer(processing_class, pad_token=args.pad_token)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        _disable_dropout(model)
        args._n_gpu = min(args.n_gpu, 1)  # one process, one device: no DataParallel; several start by accelerate launch

        self.algorithm = build_algorithm(args.algorithm, vars(args))
        self.run = RunDirectory(args.output_dir)
        self.model_name = str(source)
        self.bank = bank
        self.verifier = verifier or Verifier(
            workers=args.verifier_workers, timeout=args.verifier_timeout, policy=args.verifier_policy
        )
        self.counts: dict[str, int] = {}
        self.groups: dict[str, RolloutGroup] = {}
        self.strategies: dict[str, Strategy] = {}
        prompt_style(args.prompt_style)
        self._tokenizer = processing_class
        problems = self._prepare_problems(as_problems(train_dataset, "train_dataset"), args)
        self.eval_problems = evaluation_sets(eval_dataset)
        if train_dataset is not None and len(problems) < args.window:
            raise ValueError(
                f"{len(problems)} problems to train on, fewer than one batch of {args.window} "
                f"(per_device_train_batch_size={args.per_device_train_batch_size} problems x "
                f"gradient_accumulation_steps={args.gradient_accumulation_steps} x {args.world_size} processes); "
                "lower one of these"
            )

        super().__init__(
            model=model,
            args=args,
            train_dataset=problems,
            eval_dataset=self.eval_problems or None,
            processing_class=processing_class,
            data_collator=list,
            callbacks=[
                MetricsWriter(self.run),
                *([] if args.disable_tqdm else [ProgressBar(args.algorithm)]),
                *(callbacks or []),
            ],
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("sharded training (FSDP, DeepSpeed) is not supported yet; start without it")
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.predictor = Predictor(self.model, pad_id=processing_class.pad_token_id)
        self.engine: Engine = HFEngine(
            self.model,
            pad_id=processing_class.pad_token_id,
            eos_ids=end_token_ids(self.model, processing_class),
            batch_size=args.generation_batch_size,
        )
        self.sampling = Sampling(max_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p)
        self.averages = Averages()
        self.completions = 0  # sampled for training so far, by all processes: the budget axis of a comparison
        self._groups: list[RolloutGroup] = []  # the rollouts in use
        self._rows: list[TrainingRow] = []
        self._totals = Totals()

    # -- problems and their prompts

    def _prepare_problems(self, problems: Problems, args: SGPOConfig) -> list[Problem]:
        """Encode every prompt once; leave out what is too long, and count it."""
        names = ("too_long", "without_strategy", "guided_prompt_too_long", "retrieved")
        counts = {"problems": len(problems), **dict.fromkeys(names, 0)}
        kept = []
        for problem in problems:
            prompt = self._encode(autonomous_prompt(problem.problem, style=args.prompt_style))
            if len(prompt.ids) > args.max_prompt_length:
                counts["too_long"] += 1
                continue
            group = RolloutGroup(problem, prompt)
            if self.algorithm.num_guided:
                strategy = self.bank.for_problem(problem, use=args.strategies) if self.bank is not None else None
                if strategy is None:
                    counts["without_strategy"] += 1
                else:
                    guided = self._encode(guided_prompt(problem.problem, strategy, style=args.prompt_style))
                    if len(guided.ids) > args.max_prompt_length:
                        counts["guided_prompt_too_long"] += 1
                    else:
                        counts["retrieved"] += strategy.problem_id != problem.id
                        group.guided_prompt, group.strategy_id = guided, strategy.id
                        self.strategies[strategy.id] = strategy
            kept.append(problem)
            self.groups[problem.id] = group
        if problems and not kept:
            raise ValueError(
                f"all {len(problems)} problems have prompts longer than max_prompt_length={args.max_prompt_length}; "
                "raise it"
            )
        self.counts = counts
        if counts["too_long"] or counts["without_strategy"] or counts["guided_prompt_too_long"]:
            logger.warning(
                "of %d problems %d are left out (prompt longer than max_prompt_length=%d); trained without guidance: "
                "%d that have no strategy, %d with a guided prompt that is too long",
                *(counts["problems"], counts["too_long"], args.max_prompt_length),
                *(counts["without_strategy"], counts["guided_prompt_too_long"]),
            )
        return kept

    def _encode(self, text: str) -> PromptIds:
        return PromptIds(text, encode_prompt(self._tokenizer, text))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return WindowSampler(
            len(self.train_dataset),
            self.args.window,
            repeats=self.args.num_iterations,
            seed=self.args.seed,
            epoch=lambda: self.state.epoch,
        )

    # -- one optimizer step: from problems to rows

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Problem]], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of one optimizer step: sampled, judged, and turned into training rows."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return [], None
        self.averages.steps += 1
        problems = [problem for batch in batches for problem in batch]
        # After a resume with other problems or another number of processes, the rows in use are not of this batch.
        known = [group.problem for group in self._groups] == problems
        if self.state.global_step % self.args.num_iterations == 0 or not known:
            self._collect(problems)
        ends = torch.tensor([len(batch) for batch in batches]).cumsum(0).tolist()
        micro_batches = []
        for start, end in zip([0, *ends], ends, strict=False):
            rows = [row for row in self._rows if start <= row.problem_index < end]
            # Most groups all fail or all pass: rows without a gradient need no forward. One stays, because every
            # process must run the same forwards.
            micro_batches.append({"rows": [row for row in rows if row.pulls] or rows[:1], "last": end == ends[-1]})
        return micro_batches, None

    def _collect(self, problems: Problems) -> None:
        """Sample and judge both groups of every problem, and let the algorithm choose the training rows."""
        step, args = self.state.global_step + 1, self.args
        groups = [
            RolloutGroup(problem, prepared.prompt, prepared.strategy_id, prepared.guided_prompt)
            for problem in problems
            for prepared in (self.groups[problem.id],)
        ]
        with self.averages.timed("generate"):
            self.engine.sync_weights(self.accelerator.unwrap_model(self.model))
            sample_groups(
                groups,
                self.engine,
                self._tokenizer,
                self.sampling,
                num_autonomous=self.algorithm.num_autonomous,
                num_guided=self.algorithm.num_guided,
                seed=(args.seed, step),
            )
        with self.averages.timed("verify"):
            judge(((r, group.problem) for group in groups for r in (*group.autonomous, *group.guided)), self.verifier)
        with self.averages.timed("score"):
            generator = torch.Generator().manual_seed(seed_of(args.seed, step, args.process_index, "targets"))
            self._rows = self.algorithm.training_rows(groups, self._score, generator=generator)
            if args.num_iterations > 1:
                rows = [row for row in self._rows if row.advantage]
                logprobs = self._logprobs([row.prompt for row in rows], [row.completion_ids for row in rows])
                for row, values in zip(rows, logprobs, strict=True):
                    row.old_logprobs = values
        sampled = sum(len(group.autonomous) + len(group.guided) for group in groups)
        totals = (*astuple(Totals.of(self._rows, problems=len(groups))), sampled)
        summed: list[int] = self.accelerator.reduce(torch.tensor(totals, device=args.device)).tolist()
        self._totals = Totals(*summed[:-1])
        self.completions += summed[-1]
        self._groups = groups
        add_rollout_metrics(self.averages, groups, self._rows, guided=self.algorithm.num_guided > 0)
        self._write_records("rollouts", rollout_records(step, groups))

    def _score(self, items: Sequence[tuple[PromptIds, Rollout]]) -> list[Tensor]:
        return self._logprobs([prompt for prompt, _ in items], [rollout.completion_ids for _, rollout in items])

    @torch.no_grad()
    def _logprobs(self, prompts: Sequence[PromptIds], completions: Sequence[list[int]]) -> list[Tensor]:
        """Log-probabilities of completions after prompts under the current policy, a micro-batch at a time."""
        size = self.args.per_device_train_batch_size * (self.algorithm.num_autonomous + self.algorithm.num_guided)
        values: list[Tensor] = []
        calls = torch.tensor([math.ceil(len(prompts) / size)], device=self.args.device)
        for call in range(int(self.accelerator.gather(calls).max())):
            rows = slice(call * size, (call + 1) * size)
            if not prompts[rows]:
                self.predictor.run_along(self.model_wrapped)
                continue
            with self.compute_loss_context_manager():
                predictions = self.predictor(
                    self.model_wrapped, [prompt.ids for prompt in prompts[rows]], completions[rows]
                )
                ids_N = torch.tensor([t for ids in completions[rows] for t in ids], device=predictions.states.device)
                logprobs_N = token_logprobs(predictions, ids_N, temperature=self.args.temperature)
            values += logprobs_N.split([len(ids) for ids in completions[rows]])
        return values

    # -- the loss

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = batch_loss(model, self.predictor, inputs["rows"], self._totals, self.args, self.averages)
        if inputs["last"]:
            records = target_records(
                self.state.global_step + 1, self._groups, self._rows, self._tokenizer, kl_clip=self.args.kl_clip
            )
            self._write_records("targets", records)
        # DDP averages gradients over the processes, but every part here is a part of one global sum.
        loss = loss * self.args.world_size
        return (loss, None) if return_outputs else loss

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """About 6 operations per parameter and token of the training forward and backward."""
        tokens = sum(len(row.prompt.ids) + len(row.completion_ids) for row in inputs["rows"])
        return 6 * tokens * sum(parameter.numel() for parameter in self.model.parameters())

    # -- metrics, evaluation, the run directory

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.averages.timed("train"):
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            results = self.averages.gathered(self.accelerator).results()
            self.averages = Averages()
            if results.get("time/generate"):
                results["tokens_per_second"] = results["tokens"] / results["time/generate"]
            logs = {**logs, **results, "completions": self.completions}
        super().log(logs, start_time)

    def _write_records(self, kind: str, rows: list[dict[str, Any]]) -> None:
        gathered = gather_object(rows)
        if self.is_world_process_zero():
            self.run.write_rows(kind, self.state.global_step + 1, gathered)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """avg@k, pass@k and maj@k on each evaluation set, sampled from plain prompts (`eval_samples`, ...).

        Writes `eval/NAME-step-N.json` and the completions. Returns `eval_avg@4` and so on (`eval_NAME_avg@4` with
        several sets), which `metric_for_best_model` and early stopping may name.
        """
        sets = self.eval_problems if eval_dataset is None else evaluation_sets(eval_dataset)
        if not sets:
            raise ValueError("nothing to evaluate on: pass eval_dataset, a list of problems or several by name")
        metrics: dict[str, float] = {}
        start = time.time()
        for name, problems in sets.items():
            prefix = metric_key_prefix if len(sets) == 1 else f"{metric_key_prefix}_{name}"
            scores = self._evaluate_set(name, problems)
            for key, value in scores.items():
                if isinstance(value, dict) and "mean" in value:
                    metrics[f"{prefix}_{key}"] = value["mean"]
        count = sum(len(problems) for problems in sets.values())
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=count * self.args.eval_samples))
        self.log(metrics | {f"{metric_key_prefix}_completions": self.completions})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_set(self, name: str, problems: Problems) -> dict[str, Any]:
        args = self.args
        self.engine.sync_weights(self.accelerator.unwrap_model(self.model))
        evaluation = evaluate(
            problems,
            self.engine,
            self._tokenizer,
            self.verifier,
            Sampling(max_tokens=args.eval_max_tokens, temperature=args.eval_temperature, top_p=args.eval_top_p),
            samples=args.eval_samples,
            style=args.prompt_style,
            seed=args.seed,
        )
        if self.is_world_process_zero():
            step = self.state.global_step
            path = self.run.path / "eval" / f"{name}-step-{step:06d}.json"
            write_jsonl(path.with_suffix(".jsonl"), evaluation.rows)
            write_json(path, evaluation.to_json(name=name, step=step, completions=self.completions))
        return evaluation.scores

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, and leave the model in the run directory's `checkpoints/final`.

        `resume_from_checkpoint`: a checkpoint, or True for the run's last one. Raises ValueError where the run
        directory holds another run, or the checkpoint is none.
        """
        checkpoint: Path | None = None
        if resume_from_checkpoint:
            # A run that was killed before its first checkpoint starts again from the beginning.
            checkpoint = self.run.last_checkpoint() if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            if checkpoint is not None:
                check_checkpoint(checkpoint)
                self.args.eval_on_start = False  # it was done when the run started
                if self._rows_file(checkpoint).exists():
                    ids, self._rows, self._totals = load_rows(self._rows_file(checkpoint))
                    self._groups = [self.groups[id_] for id_ in ids if id_ in self.groups]
            if self.is_world_process_zero():
                self.run.cut_after(checkpoint_step(checkpoint) if checkpoint else -1)
        else:
            self.run.check_unused()
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero() and not self.run.config_file.exists():
            write_jsonl(self.run.path / "strategies.jsonl", (s.to_json() for s in self.strategies.values()))
            self.run.write_config(self._describe())
        self.completions = self.run.completions()
        self.accelerator.wait_for_everyone()
        output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        self.save_model()
        if self.bank is not None and self.is_world_process_zero():
            self._record_effects(self.bank)
        return output

    def _record_effects(self, bank: StrategyBank) -> None:
        """Add what the run measured of each strategy to the bank; a run that goes on later adds only what is new."""
        used = {id_: group.strategy_id for id_, group in self.groups.items() if group.strategy_id is not None}
        effects = strategy_effects(self.run.read_rows("rollouts"), used)
        file = self.run.path / "effects.json"
        recorded = read_json(file) if file.exists() else {}
        for strategy_id, counts in effects.items():
            old = recorded.get(strategy_id, [0, 0, 0, 0])
            if counts != old and bank.by_id(strategy_id) is not None:  # someone may have dropped it meanwhile
                bank.record_effect(strategy_id, *new_counts(counts, old))
        write_json(file, effects)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.state.global_step % self.args.num_iterations:
            # First of all: a checkpoint is whole once it has its trainer_state.json, which comes last.
            file = self._rows_file(self.run.checkpoints / f"checkpoint-{self.state.global_step}")
            save_rows(file, [group.problem.id for group in self._groups], self._rows, self._totals)
        super()._save_checkpoint(model, trial)

    def _rows_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"rows-{self.args.process_index}.pt"

    def _describe(self) -> dict[str, Any]:
        strategies = {key: self.counts[key] for key in ("without_strategy", "guided_prompt_too_long", "retrieved")}
        return {
            "algorithm": self.args.algorithm,
            "model": self.model_name,
            "args": self.args.to_dict(),
            "problems": {key: self.counts[key] for key in ("problems", "too_long")},
            "strategies": {"path": str(self.bank.path) if self.bank is not None else None, **strategies},
            "prompts": {"style": self.args.prompt_style, "version": prompt_style(self.args.prompt_style).version},
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, tokenizer and chat template; by default as the run's `checkpoints/final`."""
        super().save_model(output_dir or str(self.run.final_model), _internal_call)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.checkpoints)


def _disable_dropout(model: torch.nn.Module) -> None:
    """Dropout would make the importance ratio of an unchanged policy differ from 1."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Many models keep a rate as a number (attention_dropout, layerdrop) and apply it in training mode.
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0)
