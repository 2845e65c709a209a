"""`sgpo quickstart`: the whole method on puzzles in minutes, on a CPU, with nothing to download.

Small, not fake: the trainer, objective, bank, verifier, evaluation and report are those of a 7B model. GRPO and SGPO
start from the same warmed-up policy and see the same problems in the same order, with 12 completions per problem and
step each: GRPO 12 autonomous ones, SGPO 8 autonomous and 4 guided. The warm-up has one family more than the training:
what becomes of it measures retention.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from sgpo.errors import InputError
from sgpo.evaluation.compare import compare_runs
from sgpo.io import read_json, write_json
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.puzzles.base import mix_puzzles
from sgpo.puzzles.families import DEFAULT_FAMILIES, RETENTION_FAMILY, select_families
from sgpo.puzzles.policy import build_policy, build_tokenizer, warmup_rows
from sgpo.report import write_report
from sgpo.rollouts.engine import Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.groups import PromptIds, RolloutGroup, judge, pass_rate, sample_groups
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.models import load_policy, load_tokenizer
from sgpo.strategies.bank import StrategyBank
from sgpo.training.config import SGPOConfig
from sgpo.training.run_directory import RunDirectory
from sgpo.training.trainer import SGPOTrainer
from sgpo.training.warmup import run_warmup, tokenized_row
from sgpo.verifier import Verifier

TRAIN_PUZZLES, FRESH_PUZZLES, UNTOUCHED_PUZZLES, PROBED_PUZZLES, WARMUP_ROWS = 2400, 200, 50, 100, 28_800

# Options of SFTConfig.
WARMUP: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 32,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "adam_beta2": 0.98,
    "weight_decay": 0.01,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 50,
}

# Options of SGPOConfig, the same for both runs; the learning rate was chosen for GRPO (docs/results/quickstart.md).
TRAIN: dict[str, Any] = {
    "prompt_style": "compact",
    "max_prompt_length": 64,
    "max_completion_length": 48,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,
    "eval_strategy": "steps",
    "eval_on_start": True,
    "eval_samples": 4,
    "eval_temperature": 1.0,
    "eval_top_p": 1.0,
    "save_strategy": "no",
    "use_cpu": True,
}
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo", "num_autonomous": 12},
    # The paper's objective, and the cross-entropy of the target beside it (docs/results/conclusions.md).
    "sgpo": {"algorithm": "sgpo", "num_autonomous": 8, "num_guided": 4, "target_sft_coef": 1.0},
}


def run_quickstart(out: Path, *, steps: int, seed: int, families: Sequence[str] = DEFAULT_FAMILIES) -> dict[str, Any]:
    """Make puzzles and bank, warm up, train GRPO and SGPO, compare, report: all in `out`.

    Returns the object of `sgpo quickstart --json`. Raises InputError where `out` holds a quickstart already, and for
    families that do not exist.
    """
    start = time.perf_counter()
    logging.disable_progress_bar()  # a model this small loads in no time
    if (out / "problems.jsonl").exists() or RunDirectory(out).config_file.exists():
        raise InputError(f"{out}: holds a run already; choose another --out or delete it")
    make_puzzles(out, families, seed=seed)
    warm_up(out, families, seed=seed)
    for name, options in RUNS.items():
        train_run(out, name, options, steps=steps, seed=seed)
    before = _probe(out, seed=seed)
    result = _result(out, before, seed=seed, steps=steps, start=start)
    write_json(out / "quickstart.json", result)
    return result


def make_puzzles(out: Path, families: Sequence[str], *, seed: int) -> None:
    """Write `problems.jsonl` to train on with the strategies in `bank.db`, and to evaluate on `fresh.jsonl` and, where
    no family trains it, `untouched.jsonl`. Raises InputError for families that do not exist."""
    chosen = select_families(families)
    train = mix_puzzles(chosen, TRAIN_PUZZLES, split="train", seed=seed)
    sets = {"problems": train, "fresh": mix_puzzles(chosen, FRESH_PUZZLES, split="fresh", seed=seed)}
    if RETENTION_FAMILY not in families:
        retention = select_families([RETENTION_FAMILY])
        sets["untouched"] = mix_puzzles(retention, UNTOUCHED_PUZZLES, split="fresh", seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, puzzles in sets.items():
        save_problems([puzzle.to_problem() for puzzle in puzzles], out / f"{name}.jsonl")
    with StrategyBank(out / "bank.db") as bank:
        for puzzle in train:
            bank.add(puzzle.to_strategy())


def warm_up(out: Path, families: Sequence[str], *, seed: int) -> None:
    """Train a policy from nothing on puzzles of these families and the retention family."""
    taught = select_families(list(dict.fromkeys((*families, RETENTION_FAMILY))))
    tokenizer = build_tokenizer()
    rows = [
        tokenized_row(row["prompt"], row["completion"], tokenizer)
        for row in warmup_rows(taught, WARMUP_ROWS, seed=seed)
    ]
    run_warmup(build_policy(tokenizer, seed=seed), tokenizer, rows, WARMUP | {"seed": seed}, RunDirectory(out))


def train_run(
    out: Path,
    name: str,
    options: dict[str, Any],
    *,
    steps: int,
    seed: int,
    evaluated: Sequence[str] = ("fresh", "untouched"),
) -> None:
    """Train the warmed-up policy with these options of SGPOConfig, into the run directory `out/name`.

    `evaluated` names the problem files of `out` that it is evaluated on, those that exist.
    """
    files = [out / f"{file}.jsonl" for file in evaluated]
    sets = {file.stem: load_problems(file) for file in files if file.exists()}
    args = SGPOConfig(
        output_dir=str(out / name), max_steps=steps, seed=seed, eval_steps=max(1, steps // 6), **{**TRAIN, **options}
    )
    with StrategyBank(out / "bank.db") as bank:
        problems = load_problems(out / "problems.jsonl")
        SGPOTrainer(str(RunDirectory(out).warm_model), args, problems, sets, bank=bank).train()
    gc.collect()


def _probe(out: Path, *, seed: int) -> dict[str, float]:
    """What the warmed-up policy can do: both groups of some training puzzles, before any reinforcement."""
    model = str(RunDirectory(out).warm_model)
    tokenizer, policy = load_tokenizer(model), load_policy(model)

    def encoded(text: str) -> PromptIds:
        return PromptIds(text, encode_prompt(tokenizer, text))

    def group(problem: Problem, bank: StrategyBank) -> RolloutGroup:
        strategy = bank.for_problem(problem)
        assert strategy is not None
        guided = encoded(guided_prompt(problem.problem, strategy, style="compact"))
        return RolloutGroup(problem, encoded(autonomous_prompt(problem.problem, style="compact")), strategy.id, guided)

    with StrategyBank(out / "bank.db") as bank:
        groups = [group(problem, bank) for problem in load_problems(out / "problems.jsonl", limit=PROBED_PUZZLES)]
    engine = HFEngine(policy, pad_id=tokenizer.pad_token_id, eos_ids=end_token_ids(policy, tokenizer))
    sampling = Sampling(max_tokens=TRAIN["max_completion_length"])
    sample_groups(groups, engine, tokenizer, sampling, num_autonomous=8, num_guided=4, seed=(seed, "probe"))
    with Verifier() as verifier:
        judge(((r, group.problem) for group in groups for r in (*group.autonomous, *group.guided)), verifier)
    failed = [group for group in groups if not any(r.correct for r in group.autonomous)]
    rescued = [group for group in failed if any(r.correct for r in group.guided)]
    return {
        "autonomous_pass_rate": _mean([pass_rate(group.autonomous) for group in groups]),
        "guided_pass_rate": _mean([pass_rate(group.guided) for group in groups]),
        "all_fail_share": len(failed) / len(groups),
        "rescued_share": len(rescued) / len(failed) if failed else 0.0,
    }


def _mean(rates: Sequence[float]) -> float:
    """The mean of those that were measured; 0 where none was."""
    measured = [rate for rate in rates if not math.isnan(rate)]
    return sum(measured) / len(measured) if measured else 0.0


def _result(out: Path, before: dict[str, float], *, seed: int, steps: int, start: float) -> dict[str, Any]:
    report = write_report([out / name for name in RUNS], out / "report.html")
    compared = {each.name: each for each in compare_runs([out / name for name in RUNS]).evaluations}
    (difference,) = compared["fresh"].differences
    assert difference.curve is not None
    scores = {
        name: {"warmup": read_json(out / "sgpo" / "eval" / f"{name}-step-000000.json")["avg@4"]}
        | {run.run: run.final.to_json() for run in evaluation.runs}
        for name, evaluation in compared.items()
    }
    return {
        "seed": seed,
        "steps": steps,
        **scores.pop("fresh"),
        "difference": difference.curve.to_json(),
        "final_difference": difference.final.to_json(),
        **scores,
        **before,
        "seconds": round(time.perf_counter() - start, 1),
        "report": str(report),
    }


def show_quickstart(result: dict[str, Any]) -> None:
    """The result as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sets = {"fresh": result} | {name: result[name] for name in ("untouched",) if name in result}
    table = Table("policy", *(f"{name} puzzles" for name in sets), title="avg@4, plain prompts, 95 % over puzzles")
    for name, label in (("warmup", "warm-up"), ("grpo", "GRPO"), ("sgpo", "SGPO")):
        scores = [each[name] for each in sets.values()]
        table.add_row(
            label, *(f"{score['mean']:.3f} [dim]({score['low']:.3f} to {score['high']:.3f})[/dim]" for score in scores)
        )
    console.print(table)
    if "untouched" in result:
        console.print("The untouched puzzles are of a family that the warm-up taught and that is not trained on.")
    console.print(
        f"After the warm-up {result['all_fail_share']:.0%} of groups fail all 8 times alone; in "
        f"{result['rescued_share']:.0%} of these the strategy brings a correct completion."
    )
    difference = result["difference"]
    interval = f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
    tie = difference["low"] <= 0 <= difference["high"]
    console.print(
        f"SGPO minus GRPO over the learning curve, equal completions: {interval}" + (": a tie." if tie else ".")
    )
    console.print(f"{result['seconds']:.0f} s. Report: {result['report']}")
