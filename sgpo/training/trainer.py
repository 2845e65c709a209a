"""`SGPOTrainer`: strategy-guided training of any causal language model, on `transformers.Trainer`.

One optimizer step: sample both groups of every problem of the global batch in one generation call, judge them, let the
algorithm choose the training rows, and take the gradient of the loss over the micro-batches. The Trainer calls
`get_batch_samples` once per optimizer step: there problems become rollouts, and rollouts become rows. It then calls
`training_step` for each micro-batch, which computes `batch_loss` (sgpo/training/loss.py) and its gradient.

What happens on resume stands in sgpo/training/checkpoints.py; the files of a run in sgpo/training/run_directory.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from sgpo.algorithms import TrainingRow, build_algorithm
from sgpo.errors import InputError
from sgpo.io import write_jsonl
from sgpo.problems import Problem, system_prompt_for
from sgpo.progress import told
from sgpo.rollouts.engine import Engine, Sampling, build_engine
from sgpo.rollouts.forward import Predictor, token_logprobs
from sgpo.rollouts.groups import PromptIds, RewardFunction, Rollout, RolloutGroup, judge, sample_groups, seed_of
from sgpo.rollouts.models import (
    check_tokenizer,
    load_policy,
    load_tokenizer,
    policy_config,
    policy_name,
    prepare_policy,
    shape_chat_template,
)
from sgpo.strategies.bank import StrategyBank
from sgpo.training.alarms import AlarmWatcher, DivergenceStop
from sgpo.training.checkpoints import use_one_device
from sgpo.training.config import SGPOConfig
from sgpo.training.data import (
    GlobalBatchSampler,
    as_bank,
    as_options,
    as_problems,
    check_start,
    evaluation_sets,
    longest_sequence,
    prepare_problems,
    replace_groups_without_gradient,
    reserve_problems,
    token_batches,
)
from sgpo.training.distributed import (
    check_launch,
    compute_dtype,
    max_over_processes,
    offset_and_total,
    part_quietly,
    sum_over_processes,
)
from sgpo.training.evaluating import EvaluatingTrainer
from sgpo.training.frozen import Branch, frozen_branch
from sgpo.training.loss import Totals, batch_loss
from sgpo.training.measure import training_condition, warn_unmeasured
from sgpo.training.metrics import (
    Averages,
    MetricsWriter,
    ProgressBar,
    add_rollout_metrics,
    record_effects,
    recorded,
    rollout_records,
    strategy_effects,
    target_records,
)
from sgpo.training.model_card import write_model_card
from sgpo.training.plan import rendered_prompts
from sgpo.training.rewards import Rewards
from sgpo.training.run_directory import RunDirectory
from sgpo.verifier import Verifier

Problems = Sequence[Problem]


class SGPOTrainer(EvaluatingTrainer):
    """Trains a policy on problems, guided by the strategies of a bank.

    `train()` writes the run directory `args.output_dir` (docs/run-directory.md); the trained model ends up in its
    `checkpoints/final`.

    Args:
        model: A causal language model, its path or its hub id.
        args: The options.
        train_dataset: `Problem`s: a list, or a datasets.Dataset with their columns.
        eval_dataset: The same, or a dict of such by name.
        processing_class: The tokenizer; the model's own if not given.
        bank: The strategies, or the bank's file; a problem without one is trained autonomously, and counted.
        verifier: Ours, or any function `(completion, problem)` that returns a `Verdict` or a reward; a reward above one
            half counts as correct.
        reward_funcs: What advantages are computed from in place of the verdict, one or several: TRL's functions,
            functions `(completion, problem)`, and "verifier"; weighed by `args.reward_weights`.
        peft_config: Adapters to train instead of the whole model.
        callbacks: More callbacks of the Trainer.

    Raises:
        InputError: data and options do not fit.
    """

    def __init__(
        self,
        model: Any,
        args: SGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        bank: StrategyBank | str | Path | None = None,
        verifier: Verifier | RewardFunction | None = None,
        reward_funcs: Any = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        args, bank = as_options(args), as_bank(bank)
        check_launch(args)

        # Its tokenizer and what it is trained on: what can be refused is refused before a model is loaded.
        source, init_kwargs = policy_name(model, args.model_init_kwargs), args.model_init_kwargs or {}
        if processing_class is None:
            if not source:
                raise InputError("this model has no name to load a tokenizer by; pass one as processing_class")
            processing_class = load_tokenizer(source, pad_token=args.pad_token, init_kwargs=init_kwargs)
        check_tokenizer(processing_class, pad_token=args.pad_token)
        problems = as_problems(train_dataset, "train_dataset")
        args.system_prompt = system_prompt_for(problems, args.system_prompt)
        shape_chat_template(
            processing_class, template_kwargs=args.chat_template_kwargs, system_prompt=args.system_prompt
        )
        self.algorithm = build_algorithm(args.algorithm, vars(args))
        self.run = RunDirectory(args.output_dir)
        self.model_name = source
        self.bank = bank
        self.verifier = verifier or Verifier(
            workers=args.verifier_workers, timeout=args.verifier_timeout, policy=args.verifier_policy
        )
        self._tokenizer = processing_class
        self.rewards = Rewards.of(reward_funcs, args.reward_weights, problems=problems, dataset=train_dataset)
        self.prepared = prepare_problems(problems, processing_class, args, bank=bank, algorithm=self.algorithm)
        self.eval_problems = evaluation_sets(eval_dataset)
        config = policy_config(model, adapters=peft_config is not None or hasattr(model, "peft_config"), **init_kwargs)
        check_start(self.prepared, self.eval_problems, processing_class, args, verifier=self.verifier, config=config)
        self.rewards.check(args.algorithm, self.prepared.problems)

        # The policy. Adapters are drawn at random, in every process alike.
        set_seed(args.seed)
        if isinstance(model, str | Path):
            model = load_policy(model, **init_kwargs)
        model = prepare_policy(model, peft_config)
        use_one_device(args)

        super().__init__(
            model=model,
            args=args,
            train_dataset=self.prepared.problems,
            eval_dataset=self.eval_problems or None,
            processing_class=processing_class,
            data_collator=list,
            # Else the Trainer would divide the loss of `compute_loss`, a global mean, by the accumulation steps.
            compute_loss_func=batch_loss,
            callbacks=[
                DivergenceStop(self.run.checkpoints),
                MetricsWriter(self.run),
                AlarmWatcher(self.run, guided_fraction=self.prepared.guided_fraction if self.algorithm.guides else 1.0),
                *([] if args.disable_tqdm else [ProgressBar(args.algorithm)]),
                *(callbacks or []),
            ],
        )
        part_quietly()
        # Ours take their place.
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

        # What needs the model as the Trainer has placed it.
        self.predictor = Predictor(
            self.model, pad_id=processing_class.pad_token_id, dtype=compute_dtype(self.accelerator)
        )
        frozen = self.algorithm.needs.frozen_guided_model
        self.reference = frozen_branch(self.model, self.predictor, self.accelerator) if frozen or args.beta else None
        self.frozen_guided = self.reference if frozen else None
        longest = longest_sequence(self.prepared, self.eval_problems, processing_class, args)
        self.engine: Engine = build_engine(
            args.engine,
            self.model,
            processing_class,
            batch_size=args.generation_batch_size,
            accelerator=self.accelerator,
            vllm=args.vllm_options(longest=longest),
        )
        self.sampling = Sampling(max_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p)

    # -- one optimizer step: from problems to rows

    def train_sampler(self) -> GlobalBatchSampler:
        return GlobalBatchSampler(
            len(self.train_dataset),
            self.args.global_batch_size,
            repeats=self.args.num_iterations,
            seed=self.args.seed,
            epoch=lambda: self.state.epoch,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Problem]], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Make the micro-batches of one optimizer step: sample, judge, and turn rollouts into training rows."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        # A run that is resumed at its very end is asked for one more step.
        if not batches or self.state.global_step >= self.state.max_steps:
            return [], None
        self.averages.steps += 1
        problems = [problem for batch in batches for problem in batch]
        # Of `num_iterations` updates on the same rollouts, the first samples them.
        if self.state.global_step % self.args.num_iterations == 0 or not self.has_pending([p.id for p in problems]):
            self._collect(problems)
        # Cut the rows at the ends of the micro-batches, and each micro-batch into parts that fit in memory.
        ends = torch.tensor([len(batch) for batch in batches]).cumsum(0).tolist()
        micro_batches = []
        for start, end in zip([0, *ends], ends, strict=False):
            # Most groups all fail or all pass: rows without a gradient need no forward.
            rows = [row for row in self.pending.rows if start <= row.problem_index < end and row.has_gradient]
            parts = token_batches([row.length for row in rows], self.args.max_tokens_per_batch)
            # Every process must run the same number of forwards, if need be over a dummy row, which counts nothing.
            prompt = self.prepared.groups[problems[start].id].prompt
            dummy = TrainingRow(problem_index=start, prompt=prompt, completion_ids=[self._tokenizer.pad_token_id])
            missing = max(1, max_over_processes(self.accelerator, len(parts))) - len(parts)
            micro_batches.append(
                {"parts": [[rows[i] for i in part] for part in parts] + [[dummy]] * missing, "last": end == ends[-1]}
            )
        return micro_batches, None

    def _collect(self, problems: Problems) -> None:
        """Sample groups of these problems, or of others in their place, and keep their rows as pending."""
        step, args = self.state.global_step + 1, self.args
        with self.averages.timed("generate"):
            self.engine.sync_weights(self.accelerator.unwrap_model(self.model))

        # Sample and judge; with dynamic sampling, other problems replace those whose group has no gradient.
        generator = torch.Generator().manual_seed(seed_of(args.seed, step, args.process_index, "targets"))
        collect = partial(self._sample, step=step, generator=generator)
        first, rows = collect(problems)
        groups, rows, extra = replace_groups_without_gradient(
            first,
            rows,
            self._reserve(problems, step),
            collect,
            rounds=args.dynamic_sampling,
            offset_and_total=partial(offset_and_total, self.accelerator),
        )

        # The KL needs the reference's log-probabilities; later updates on these rows, those of the policy that sampled.
        if args.beta:
            own = [row for row in rows if row.advantage is not None and row.shaping is None]
            references = self._logprobs([(row.prompt, row.completion_ids) for row in own], self.reference)
            for row, values in zip(own, references, strict=True):
                row.reference_logprobs = values
        if args.num_iterations > 1:
            weighed = [row for row in rows if row.advantage or row.reference_logprobs is not None]
            logprobs = self._logprobs([(row.prompt, row.completion_ids) for row in weighed])
            for row, values in zip(weighed, logprobs, strict=True):
                row.old_logprobs = values

        # Keep what the updates need, with divisors and counts over all processes.
        sampled = [*first, *extra]
        count = partial(sum_over_processes, self.accelerator)
        pending = self.pending
        pending.problem_ids, pending.group_ids = [p.id for p in problems], [group.problem.id for group in groups]
        pending.rows, pending.totals = rows, Totals(*map(count, astuple(Totals.of(rows, problems=len(problems)))))
        pending.completions += count(sum(len(group.autonomous) + len(group.guided) for group in sampled))

        # Show what was sampled.
        add_rollout_metrics(self.averages, sampled, rows, guided=self.algorithm.num_guided > 0)
        if args.dynamic_sampling:
            self.averages.add_sum("groups/extra", len(extra))
        self._write_records("rollouts", rollout_records(step, sampled))

    def _sample(
        self, problems: Problems, *, step: int, generator: torch.Generator
    ) -> tuple[list[RolloutGroup], list[TrainingRow]]:
        """Sample and judge both groups of every problem, and let the algorithm choose the training rows."""
        groups = [
            RolloutGroup(problem, prepared.prompt, prepared.strategy_id, prepared.guided_prompt, prepared.solution_ids)
            for problem in problems
            for prepared in (self.prepared.groups[problem.id],)
        ]
        with self.averages.timed("generate"):
            sample_groups(
                groups,
                self.engine,
                self._tokenizer,
                self.sampling,
                num_autonomous=self.algorithm.num_autonomous,
                num_guided=self.algorithm.num_guided,
                soft_punish_cache=self.args.soft_punish_cache,
                seed=(self.args.seed, step),
            )
        with self.averages.timed("verify"):
            judge(((r, group.problem) for group in groups for r in (*group.autonomous, *group.guided)), self.verifier)
            self.rewards.give(groups)
        with self.averages.timed("score"):
            return groups, self.algorithm.training_rows(groups, self._score, generator=generator)

    def _reserve(self, problems: Problems, step: int) -> Iterator[Problem]:
        ids = gather_object([problem.id for problem in problems]) if self.args.dynamic_sampling else []
        return reserve_problems(self.prepared.problems, set(ids), seed=self.args.seed, step=step)

    def _score(self, items: Sequence[tuple[PromptIds, Rollout]]) -> list[Tensor]:
        return self._logprobs([(prompt, rollout.completion_ids) for prompt, rollout in items])

    @torch.no_grad()
    def _logprobs(self, pairs: Sequence[tuple[PromptIds, list[int]]], branch: Branch | None = None) -> list[Tensor]:
        """Log-probabilities of completions after prompts under the current policy or another branch, part by part."""
        branch = branch or partial(self.predictor, self.model_wrapped)
        values: dict[int, Tensor] = {}
        parts = token_batches([len(prompt.ids) + len(ids) for prompt, ids in pairs], self.args.max_tokens_per_batch)
        missing = max_over_processes(self.accelerator, len(parts)) - len(parts)
        for part in told("scoring", parts):
            ids = [pairs[i][1] for i in part]
            with self.compute_loss_context_manager():
                predictions = branch([pairs[i][0].ids for i in part], ids)
                ids_N = torch.tensor([t for row in ids for t in row], device=predictions.states.device)
                logprobs_N = token_logprobs(predictions, ids_N, temperature=self.args.temperature)
            values.update(zip(part, logprobs_N.split([len(row) for row in ids]), strict=True))
        # As many forwards as the process with the most parts.
        for _ in range(missing):
            branch([[self.predictor.pad_id]], [[self.predictor.pad_id]])
        return [values[i] for i in range(len(pairs))]

    # -- one optimizer step: from rows to the gradient

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, part by part; processes exchange gradients in the last part only."""
        with self.averages.timed("train"):
            losses = []
            for i, rows in enumerate(told("training", inputs["parts"]), 1):
                with nullcontext() if i == len(inputs["parts"]) else self.gradients_stay_local(model):
                    losses.append(super().training_step(model, {"rows": rows}, num_items_in_batch))
        # The loss of the last micro-batch has given the last target its divergences.
        if inputs["last"]:
            step, pending = self.state.global_step + 1, self.pending
            records = target_records(step, pending.group_ids, pending.rows, self._tokenizer, kl_clip=self.args.kl_clip)
            self._write_records("targets", records)
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = batch_loss(
            model, self.predictor, inputs["rows"], self.pending.totals, self.args, self.averages, self.frozen_guided
        )
        # DDP averages gradients over the processes, but every part here is a part of one global sum.
        loss = loss * self.args.world_size
        return (loss, None) if return_outputs else loss

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Count about 6 operations per parameter and token of the training forward and backward."""
        rows = [row for part in inputs["parts"] for row in part if row.has_gradient]
        tokens = sum(len(row.prompt.ids) + len(row.completion_ids) for row in rows)
        return 6 * tokens * sum(parameter.numel() for parameter in self.model.parameters())

    # -- metrics and the run directory

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # Gather the sums of all processes, and begin new ones.
            results = self.averages.gathered(self.accelerator).results()
            self.pending.averages = Averages()
            if results.get("tokens") and results.get("time/generate"):
                results["tokens_per_second"] = results["tokens"] / results["time/generate"]
            logs = {**logs, **results, "completions": self.pending.completions}
        super().log(logs, start_time)

    def _write_records(self, kind: str, rows: list[dict[str, Any]]) -> None:
        gathered = gather_object(recorded(rows, self.args))
        if self.is_world_process_zero():
            self.run.write_rows(kind, self.state.global_step + 1, gathered)

    # -- the run as a whole

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, leave the model in the run directory's `checkpoints/final`, and tell the bank what its strategies did.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the run's last one.
            kwargs: More of `Trainer.train`'s.

        Raises:
            RunDirectoryError: the run directory holds another run, the checkpoint is not whole, or an option would
                change what is learnt.
            OSError: the disk is full or refuses, or the hub does.
        """
        output = super().train(resume_from_checkpoint, **kwargs)
        if self.is_world_process_zero():
            write_model_card(self.run)
        if self.args.push_to_hub:
            self.push_to_hub()
        # The bank learns only of strategies that the right problems were shown.
        shown_as_meant = self.args.strategy_content == "own" and not self.args.wrong_strategy_fraction
        if self.bank is not None and shown_as_meant and self.is_world_process_zero():
            effects = strategy_effects(self.run.read_rows("rollouts"), self.prepared.strategy_ids)
            condition = training_condition(self.model_name, self.args, self.verifier)
            record_effects(self.bank.path, self.run.id, effects, condition)
        return output

    def begin_run(self) -> None:
        if self.bank is not None and self.algorithm.guides:
            warn_unmeasured(self.bank, training_condition(self.model_name, self.args, self.verifier))
        write_jsonl(self.run.path / "strategies.jsonl", (s.to_json() for s in self.prepared.strategies.values()))
        self.run.write_config({**self.describe(), "rendered_prompts": rendered_prompts(self.prepared, self._tokenizer)})

    def describe(self) -> dict[str, Any]:
        counts = self.prepared.counts
        problems = {key: counts[key] for key in ("problems", "too_long", "without_solution") if key in counts}
        strategies = {key: count for key, count in counts.items() if key not in problems}
        return {
            "algorithm": self.args.algorithm,
            "model": self.model_name,
            "args": self.args.to_dict(),
            "problems": {**problems, "global_batch": self.args.global_batch_size},
            "strategies": {"path": str(self.bank.path) if self.bank is not None else None, **strategies},
            "prompts": self.args.style.describe(),
            **self.rewards.describe(self.verifier),
        }
