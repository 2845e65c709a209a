"""`SGPOTrainer`: strategy-guided training of any causal language model, on `transformers.Trainer`.

One optimizer step: sample both groups of every problem of the global batch in one generation call, judge them, let the
algorithm choose the training rows, and take the gradient of the loss over the micro-batches. `get_batch_samples`, which
the Trainer calls once per optimizer step, is where problems become rollouts and rollouts become rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from sgpo.algorithms import TrainingRow, build_algorithm
from sgpo.errors import InputError
from sgpo.io import write_jsonl
from sgpo.problems import Problem
from sgpo.prompts import prompt_style
from sgpo.rollouts.engine import Engine, Sampling
from sgpo.rollouts.engines import build_engine
from sgpo.rollouts.forward import Predictor, token_logprobs
from sgpo.rollouts.groups import PromptIds, RewardFunction, Rollout, RolloutGroup, judge, sample_groups, seed_of
from sgpo.rollouts.models import check_tokenizer, disable_dropout, load_tokenizer, named_policy, shape_chat_template
from sgpo.strategies.bank import StrategyBank
from sgpo.training.alarms import AlarmWatcher
from sgpo.training.callbacks import MetricsWriter, ProgressBar
from sgpo.training.config import SGPOConfig
from sgpo.training.data import (
    WindowSampler,
    as_problems,
    evaluation_sets,
    longest_sequence,
    prepare_problems,
    replace_without_signal,
    reserve_problems,
    token_batches,
)
from sgpo.training.distributed import check_launch, compute_dtype, part_quietly
from sgpo.training.effects import record_effects, strategy_effects
from sgpo.training.evaluating import EvaluatingTrainer
from sgpo.training.frozen import initial_guide
from sgpo.training.loss import Guide, Totals, batch_loss
from sgpo.training.metrics import Averages, add_rollout_metrics, rollout_records, target_records
from sgpo.training.model_card import write_model_card
from sgpo.training.run_directory import RunDirectory
from sgpo.verifier import Verifier

Problems = Sequence[Problem]


class SGPOTrainer(EvaluatingTrainer):
    """Trains a policy on problems, guided by the strategies of a bank.

    `model`: a causal language model, its path or its hub id. `train_dataset`, `eval_dataset`: `Problem`s (a list, a
    datasets.Dataset with their columns, or for evaluation a dict of such by name). `bank`: the strategies; a problem
    without one is trained autonomously, and counted. `verifier`: ours, or any function `(completion, problem)` that
    returns a `Verdict` or a reward; above one half counts as correct.

    `train()` writes the run directory `args.output_dir` (docs/run-directory.md); the trained model ends up in its
    `checkpoints/final`. Raises InputError where that directory holds another run, or data and options do not fit.
    """

    # The components are normalised over the global batch already (sgpo/training/loss.py).
    loss_is_scaled_for_ga = True

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
        check_launch(args)
        model, source = named_policy(model, args.model_init_kwargs)
        if processing_class is None:
            if not source:
                raise InputError("this model has no name to load a tokenizer by; pass one as processing_class")
            processing_class = load_tokenizer(source, pad_token=args.pad_token)
        else:
            check_tokenizer(processing_class, pad_token=args.pad_token)
        shape_chat_template(
            processing_class, template_kwargs=args.chat_template_kwargs, system_prompt=args.system_prompt
        )
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        disable_dropout(model)
        args._n_gpu = min(args.n_gpu, 1)  # one process, one device: no DataParallel; several start by accelerate launch

        self.algorithm = build_algorithm(args.algorithm, vars(args))
        self.run = RunDirectory(args.output_dir)
        self.model_name = source
        self.bank = bank
        self.verifier = verifier or Verifier(
            workers=args.verifier_workers, timeout=args.verifier_timeout, policy=args.verifier_policy
        )
        self._tokenizer = processing_class
        self.prepared = prepare_problems(
            as_problems(train_dataset, "train_dataset"), processing_class, args, bank=bank, algorithm=self.algorithm
        )
        problems = self.prepared.problems
        self.eval_problems = evaluation_sets(eval_dataset)
        if train_dataset is not None and len(problems) < args.global_batch_size:
            raise InputError(
                f"problems to train on: {len(problems)}, fewer than one batch of {args.global_batch_size} "
                f"(per_device_train_batch_size={args.per_device_train_batch_size} x "
                f"gradient_accumulation_steps={args.gradient_accumulation_steps} x processes={args.world_size}); "
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
                AlarmWatcher(self.run),
                *([] if args.disable_tqdm else [ProgressBar(args.algorithm)]),
                *(callbacks or []),
            ],
        )
        part_quietly()
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.predictor = Predictor(
            self.model, pad_id=processing_class.pad_token_id, dtype=compute_dtype(self.accelerator)
        )
        self.guide = self._guide()
        longest = longest_sequence(args, self.eval_problems, processing_class)
        self.engine: Engine = build_engine(
            args.engine,
            self.model,
            processing_class,
            batch_size=args.generation_batch_size,
            accelerator=self.accelerator,
            vllm=args.vllm_options(longest=longest),
        )
        self.sampling = Sampling(max_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p)

    @property
    def averages(self) -> Averages:
        """What was measured since the last row of metrics."""
        return self.in_hand.averages

    def _guide(self) -> Guide | None:
        """The guided branch of the divergence, where it has weights of its own."""
        if self.algorithm.needs.frozen_guided_model:
            return initial_guide(self.model, self.predictor, self.accelerator)
        return None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return WindowSampler(
            len(self.train_dataset),
            self.args.global_batch_size,
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
        # A run that is resumed at its very end is asked for one more step.
        if not batches or self.state.global_step >= self.state.max_steps:
            return [], None
        self.averages.steps += 1
        problems = [problem for batch in batches for problem in batch]
        if self.state.global_step % self.args.num_iterations == 0 or not self._in_hand(problems):
            self._collect(problems)
        ends = torch.tensor([len(batch) for batch in batches]).cumsum(0).tolist()
        micro_batches = []
        for start, end in zip([0, *ends], ends, strict=False):
            # Most groups all fail or all pass: rows without a gradient need no forward.
            rows = [row for row in self.in_hand.rows if start <= row.problem_index < end and row.has_gradient]
            parts = token_batches([row.length for row in rows], self.args.max_tokens_per_batch)
            # Every process must run the same forwards, if need be over a token that counts nothing.
            prompt = self.prepared.groups[problems[start].id].prompt
            idle = TrainingRow(problem_index=start, prompt=prompt, completion_ids=[self._tokenizer.pad_token_id])
            more = max(1, self._most(len(parts))) - len(parts)
            micro_batches.append(
                {"parts": [[rows[i] for i in part] for part in parts] + [[idle]] * more, "last": end == ends[-1]}
            )
        return micro_batches, None

    def _most(self, parts: int) -> int:
        """The largest number of parts that any process has."""
        return int(self.accelerator.gather(torch.tensor([parts], device=self.args.device)).max())

    def _in_hand(self, problems: Problems) -> bool:
        """Whether the rows in use are of these problems, in all processes: not so after a resume with others."""
        known = self.in_hand.narrow_to([problem.id for problem in problems])
        return self._sum(int(known)) == self.args.world_size

    def _collect(self, problems: Problems) -> None:
        """Fill the batch: groups of these problems, or of others in place of those without a gradient, and the rows."""
        step, args = self.state.global_step + 1, self.args
        with self.averages.timed("generate"):
            self.engine.sync_weights(self.accelerator.unwrap_model(self.model))
        generator = torch.Generator().manual_seed(seed_of(args.seed, step, args.process_index, "targets"))
        collect = partial(self._sample, step=step, generator=generator)
        first, rows = collect(problems)
        groups, rows, extra = replace_without_signal(
            first, rows, self._reserve(problems, step), collect, rounds=args.dynamic_sampling, share=self._share
        )
        if args.num_iterations > 1:
            pulled = [row for row in rows if row.advantage]
            logprobs = self._logprobs([row.prompt for row in pulled], [row.completion_ids for row in pulled])
            for row, values in zip(pulled, logprobs, strict=True):
                row.old_logprobs = values
        sampled = [*first, *extra]
        completions = sum(len(group.autonomous) + len(group.guided) for group in sampled)
        in_hand = self.in_hand
        in_hand.problem_ids, in_hand.group_ids = [p.id for p in problems], [group.problem.id for group in groups]
        in_hand.rows, in_hand.totals = rows, Totals(*map(self._sum, astuple(Totals.of(rows, problems=len(problems)))))
        in_hand.completions += self._sum(completions)
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
                seed=(self.args.seed, step),
            )
        with self.averages.timed("verify"):
            judge(((r, group.problem) for group in groups for r in (*group.autonomous, *group.guided)), self.verifier)
        with self.averages.timed("score"):
            return groups, self.algorithm.training_rows(groups, self._score, generator=generator)

    def _reserve(self, problems: Problems, step: int) -> Iterator[Problem]:
        ids = gather_object([problem.id for problem in problems]) if self.args.dynamic_sampling else []
        return reserve_problems(self.prepared.problems, set(ids), seed=self.args.seed, step=step)

    def _share(self, count: int) -> tuple[int, int]:
        counts = gather_object([count])
        return sum(counts[: self.args.process_index]), sum(counts)

    def _sum(self, count: int) -> int:
        """A count, summed over all processes."""
        return int(self.accelerator.reduce(torch.tensor(int(count), device=self.args.device)))

    def _score(self, items: Sequence[tuple[PromptIds, Rollout]]) -> list[Tensor]:
        return self._logprobs([prompt for prompt, _ in items], [rollout.completion_ids for _, rollout in items])

    @torch.no_grad()
    def _logprobs(self, prompts: Sequence[PromptIds], completions: Sequence[list[int]]) -> list[Tensor]:
        """Log-probabilities of completions after prompts under the current policy, a part at a time."""
        values: dict[int, Tensor] = {}
        lengths = [len(prompt.ids) + len(ids) for prompt, ids in zip(prompts, completions, strict=True)]
        parts = token_batches(lengths, self.args.max_tokens_per_batch)
        idle = self._most(len(parts)) - len(parts)
        for part in parts:
            ids = [completions[i] for i in part]
            with self.compute_loss_context_manager():
                predictions = self.predictor(self.model_wrapped, [prompts[i].ids for i in part], ids)
                ids_N = torch.tensor([t for row in ids for t in row], device=predictions.states.device)
                logprobs_N = token_logprobs(predictions, ids_N, temperature=self.args.temperature)
            values.update(zip(part, logprobs_N.split([len(row) for row in ids]), strict=True))
        for _ in range(idle):
            self.predictor.run_along(self.model_wrapped)
        return [values[i] for i in range(len(prompts))]

    # -- the loss

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = batch_loss(
            model, self.predictor, inputs["rows"], self.in_hand.totals, self.args, self.averages, self.guide
        )
        # DDP averages gradients over the processes, but every part here is a part of one global sum.
        loss = loss * self.args.world_size
        return (loss, None) if return_outputs else loss

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """About 6 operations per parameter and token of the training forward and backward."""
        rows = [row for part in inputs["parts"] for row in part if row.has_gradient]
        tokens = sum(len(row.prompt.ids) + len(row.completion_ids) for row in rows)
        return 6 * tokens * sum(parameter.numel() for parameter in self.model.parameters())

    # -- metrics and the run directory

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, part by part; processes exchange gradients in the last part only."""
        with self.averages.timed("train"):
            losses = []
            for i, rows in enumerate(inputs["parts"], 1):
                with nullcontext() if i == len(inputs["parts"]) else self._without_sync(model):
                    losses.append(super().training_step(model, {"rows": rows}, num_items_in_batch))
        if inputs["last"]:
            records = target_records(
                self.state.global_step + 1,
                self.in_hand.group_ids,
                self.in_hand.rows,
                self._tokenizer,
                kl_clip=self.args.kl_clip,
            )
            self._write_records("targets", records)
        return torch.stack(losses).sum()

    @contextmanager
    def _without_sync(self, model: Any) -> Iterator[None]:
        """What the Trainer does around every micro-batch but the last: gradients stay in this process."""
        state = self.accelerator.gradient_state
        sync = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(sync)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            results = self.averages.gathered(self.accelerator).results()
            self.in_hand.averages = Averages()
            if results.get("tokens") and results.get("time/generate"):
                results["tokens_per_second"] = results["tokens"] / results["time/generate"]
            logs = {**logs, **results, "completions": self.in_hand.completions}
        super().log(logs, start_time)

    def _write_records(self, kind: str, rows: list[dict[str, Any]]) -> None:
        gathered = gather_object(rows)
        if self.is_world_process_zero():
            self.run.write_rows(kind, self.state.global_step + 1, gathered)

    # -- the run as a whole

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, leave the model in the run directory's `checkpoints/final`, and tell the bank what its strategies did.

        `resume_from_checkpoint`: a checkpoint, or True for the run's last one. Raises InputError where the run
        directory holds another run, the checkpoint is none, or an option would change what is learnt.
        """
        output = super().train(resume_from_checkpoint, **kwargs)
        if self.is_world_process_zero():
            write_model_card(self.run)
        if self.args.push_to_hub:
            self.push_to_hub()
        shown_as_meant = self.args.strategy_content == "own" and not self.args.wrong_strategy_fraction
        if self.bank is not None and shown_as_meant and self.is_world_process_zero():
            used = {
                id_: group.strategy_id for id_, group in self.prepared.groups.items() if group.strategy_id is not None
            }
            record_effects(self.bank.path, self.run.id, strategy_effects(self.run.read_rows("rollouts"), used))
        return output

    def _begin_run(self) -> None:
        write_jsonl(self.run.path / "strategies.jsonl", (s.to_json() for s in self.prepared.strategies.values()))
        self.run.write_config(self.describe())

    def describe(self) -> dict[str, Any]:
        counts = self.prepared.counts
        problems = {key: counts[key] for key in ("problems", "too_long", "without_solution") if key in counts}
        strategies = {key: counts[key] for key in ("without_strategy", "guided_prompt_too_long", "retrieved")}
        return {
            "algorithm": self.args.algorithm,
            "model": self.model_name,
            "args": self.args.to_dict(),
            "problems": {**problems, "per_step": self.args.global_batch_size},
            "strategies": {"path": str(self.bank.path) if self.bank is not None else None, **strategies},
            "prompts": {"style": self.args.prompt_style, "version": prompt_style(self.args.prompt_style).version},
        }
