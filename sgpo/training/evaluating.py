"""Evaluation during training, by the one loop of `sgpo.evaluation`.

It is written when it is whole: after a resume the weights of a step may be others than before, so completions of an
evaluation that a kill cut off are not reused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerControl
from transformers.trainer_utils import speed_metrics

from sgpo.errors import InputError
from sgpo.evaluation.evaluate import EngineSource, evaluate
from sgpo.io import write_json, write_jsonl
from sgpo.problems import Problem
from sgpo.rollouts.engine import Engine, Sampling
from sgpo.rollouts.groups import RewardFunction
from sgpo.training.checkpoints import ResumableTrainer
from sgpo.training.data import evaluation_sets
from sgpo.verifier import Verifier


class EvaluatingTrainer(ResumableTrainer):
    """Evaluates its policy by sampling, where a `Trainer` computes a loss. A subclass has engine and verifier."""

    engine: Engine
    verifier: Verifier | RewardFunction
    eval_problems: dict[str, list[Problem]]
    control: TrainerControl

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate on each set of problems with autonomous prompts, and write `eval/NAME-step-N.json` and `.jsonl`.

        Args:
            eval_dataset: A list of problems, or several by name; the trainer's own if not given.
            ignore_keys: Not used.
            metric_key_prefix: First word of the metrics' names.

        Returns:
            avg@k, pass@k and maj@k: `eval_avg@4` and so on (`eval_NAME_avg@4` with several sets), which
            `metric_for_best_model` and early stopping may name.

        Raises:
            InputError: There is nothing to evaluate on.
        """
        sets = self.eval_problems if eval_dataset is None else evaluation_sets(eval_dataset)
        if not sets:
            raise InputError("nothing to evaluate on: pass eval_dataset, a list of problems or several by name")
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
        self.log(metrics | {f"{metric_key_prefix}_completions": self.pending.completions})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_set(self, name: str, problems: Sequence[Problem]) -> dict[str, Any]:
        args = self.args
        self.engine.sync_weights(self.accelerator.unwrap_model(self.model))
        result = evaluate(
            problems,
            EngineSource(self.engine, self.processing_class),
            self.verifier,
            Sampling(max_tokens=args.eval_max_tokens, temperature=args.eval_temperature, top_p=args.eval_top_p),
            samples=args.eval_samples,
            style=args.style,
            seed=args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            gather=gather_object,
        )
        if self.is_world_process_zero():
            step = self.state.global_step
            path = self.run.path / "eval" / f"{name}-step-{step:06d}.json"
            write_jsonl(path.with_suffix(".jsonl"), result.rows)
            write_json(path, result.to_json(name=name, step=step, completions=self.pending.completions))
        return result.scores
