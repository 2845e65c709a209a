"""`sgpo quickstart`: the whole method on puzzles in minutes, on a CPU, without a download.

Small, not fake: the trainer, objective, bank, verifier, evaluation and report are those of a 7B model. GRPO and SGPO
start from the same warmed-up policy and see the same problems in the same order, with 12 completions per problem and
step each: GRPO 12 autonomous ones, SGPO 8 autonomous and 4 guided. The warm-up has one family more than the training,
which measures retention. The options are those of `quickstart.yaml`, the GRPO run's of `quickstart_grpo.yaml`.
"""

from __future__ import annotations

import gc
import json
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
from sgpo.puzzles import DEFAULT_FAMILIES, RETENTION_FAMILY, mix_puzzles, select_families
from sgpo.puzzles.base import warmup_rows
from sgpo.puzzles.policy import build_policy, build_tokenizer
from sgpo.report import write_report
from sgpo.rollouts.engine import Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup, judge, pass_rate, sample_groups
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.models import load_policy, load_tokenizer
from sgpo.strategies.bank import StrategyBank
from sgpo.training.checkpoints import saved_prompts
from sgpo.training.config import SGPOConfig
from sgpo.training.measure import training_condition
from sgpo.training.metrics import record_effects
from sgpo.training.recipe import load_recipe
from sgpo.training.run_directory import RunDirectory
from sgpo.training.trainer import SGPOTrainer
from sgpo.training.warmup import run_warmup, tokenized_row
from sgpo.verifier import Verifier

TRAIN_PUZZLES, FRESH_PUZZLES, UNTOUCHED_PUZZLES, PROBED_PUZZLES, WARMUP_ROWS = 2400, 200, 50, 100, 28_800

HERE = Path(__file__).parent
RECIPES = {"grpo": HERE / "quickstart_grpo.yaml", "sgpo": HERE / "quickstart.yaml"}


def run_quickstart(out: Path, *, steps: int, seed: int, families: Sequence[str] = DEFAULT_FAMILIES) -> dict[str, Any]:
    """Make puzzles and bank, warm up, train GRPO and SGPO, compare, report: all in `out`.

    Args:
        out: A directory that holds no run yet.
        steps: Optimizer steps of each run.
        seed: The seed of the puzzles, the warm-up and the training.
        families: The families of puzzles to train on.

    Returns:
        The object of `sgpo quickstart --json`.

    Raises:
        InputError: `out` holds a quickstart already, or a family does not exist.
    """
    start = time.perf_counter()
    logging.disable_progress_bar()  # a model this small loads in no time
    if (out / "problems.jsonl").exists() or RunDirectory(out).config_file.exists():
        raise InputError(f"{out}: holds a run already; choose another --out or delete it")
    make_puzzles(out, families, seed=seed)
    warm_up(out, families, seed=seed)
    before = _probe(out, seed=seed)
    for name, recipe in RECIPES.items():
        train_run(out, name, recipe, steps=steps, seed=seed)
    result = _collect_result(out, before, seed=seed, steps=steps, start=start)
    write_json(out / "quickstart.json", result)
    return result


def make_puzzles(out: Path, families: Sequence[str], *, seed: int) -> None:
    """Write `problems.jsonl` and their strategies in `bank.db` to train on, and `fresh.jsonl` to evaluate on.

    Unless the retention family is trained, `untouched.jsonl` has puzzles of it, to evaluate on as well.

    Raises:
        InputError: A family does not exist.
    """
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
    """Train a policy from random weights on puzzles of these families and of the retention family."""
    taught = select_families(list(dict.fromkeys((*families, RETENTION_FAMILY))))
    tokenizer = build_tokenizer()
    rows = [
        tokenized_row(row["prompt"], row["completion"], tokenizer)
        for row in warmup_rows(taught, WARMUP_ROWS, seed=seed)
    ]
    options = SGPOConfig(output_dir=str(out), **load_recipe(RECIPES["sgpo"]).train)
    run_warmup(
        build_policy(tokenizer, seed=seed),
        tokenizer,
        rows,
        warmup_options() | {"seed": seed},
        RunDirectory(out),
        prompts=saved_prompts(options),
    )


def warmup_options() -> dict[str, Any]:
    """The options of SFTConfig for the warm-up of a tiny policy."""
    warmup = load_recipe(RECIPES["sgpo"]).warmup
    assert warmup is not None
    return warmup.sft


def train_run(
    out: Path,
    name: str,
    recipe: Path,
    settings: Sequence[str] = (),
    *,
    steps: int,
    seed: int,
    evaluated: Sequence[str] = ("fresh", "untouched"),
) -> None:
    """Train the warmed-up policy by a recipe, into the run directory `out/name`.

    Args:
        out: Where `make_puzzles` and `warm_up` left problems, bank and policy; they replace the recipe's.
        name: The run's name.
        recipe: The recipe file.
        settings: Changes to the recipe, `key=value`.
        steps: Optimizer steps; six times in these the policy is evaluated.
        seed: The seed of the training.
        evaluated: The problem files of `out` to evaluate on, those that exist.
    """
    paths = {"model": RunDirectory(out).warm_model, "out": out / name, "bank": out / "bank.db"}
    given = [f"{key}={json.dumps(str(path))}" for key, path in paths.items()]
    given += [f"max_steps={steps}", f"eval_steps={max(1, steps // 6)}", f"seed={seed}"]
    run = load_recipe(recipe, [*given, *settings], problems=out / "problems.jsonl")
    files = [out / f"{file}.jsonl" for file in evaluated]
    sets = {file.stem: load_problems(file) for file in files if file.exists()}
    args = SGPOConfig(output_dir=run.out, **run.train)
    with StrategyBank(out / "bank.db") as bank:
        SGPOTrainer(run.model, args, run.problems.load(), sets, bank=bank).train()
    gc.collect()


def _probe(out: Path, *, seed: int) -> dict[str, float]:
    """Measure the warmed-up policy before any reinforcement, on both groups of some puzzles; tell the bank."""
    options = load_recipe(RECIPES["sgpo"]).train
    budget = {group: options[group] for group in ("num_autonomous", "num_guided")}
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
    sampling = Sampling(max_tokens=options["max_completion_length"])
    sample_groups(groups, engine, tokenizer, sampling, **budget, seed=(seed, "probe"))
    with Verifier() as verifier:
        judge(((r, group.problem) for group in groups for r in (*group.autonomous, *group.guided)), verifier)
    effects = {
        str(group.strategy_id): [count for rollouts in (group.guided, group.autonomous) for count in _passes(rollouts)]
        for group in groups
    }
    condition = training_condition(model, SGPOConfig(output_dir=str(out), **options), verifier)
    record_effects(out / "bank.db", "probe", effects, condition)
    failed = [group for group in groups if not any(r.correct for r in group.autonomous)]
    rescued = [group for group in failed if any(r.correct for r in group.guided)]
    return {
        "autonomous_pass_rate": _mean([pass_rate(group.autonomous) for group in groups]),
        "guided_pass_rate": _mean([pass_rate(group.guided) for group in groups]),
        "all_fail_share": len(failed) / len(groups),
        "rescued_share": len(rescued) / len(failed) if failed else 0.0,
    }


def _passes(rollouts: Sequence[Rollout]) -> tuple[int, int]:
    return sum(rollout.correct for rollout in rollouts), len(rollouts)


def _mean(rates: Sequence[float]) -> float:
    """The mean of the rates that were measured; 0 if no rate was."""
    measured = [rate for rate in rates if not math.isnan(rate)]
    return sum(measured) / len(measured) if measured else 0.0


def _collect_result(out: Path, before: dict[str, float], *, seed: int, steps: int, start: float) -> dict[str, Any]:
    report = write_report([out / name for name in RECIPES], out / "report.html")
    compared = {each.name: each for each in compare_runs([out / name for name in RECIPES]).evaluations}
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
    """Print the result as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sets = {"fresh": result} | {name: result[name] for name in ("untouched",) if name in result}
    table = Table("policy", *(f"{name} puzzles" for name in sets), title="avg@4, autonomous prompts, 95 % over puzzles")
    for name, label in (("warmup", "warm-up"), ("grpo", "GRPO"), ("sgpo", "SGPO")):
        scores = [each[name] for each in sets.values()]
        table.add_row(
            label, *(f"{score['mean']:.3f} [dim]({score['low']:.3f} to {score['high']:.3f})[/dim]" for score in scores)
        )
    console.print(table)
    if "untouched" in result:
        console.print("The untouched puzzles are of a family that was taught in the warm-up and is not trained on.")
    console.print(
        f"After the warm-up {result['all_fail_share']:.0%} of groups fail all 8 times without a strategy; in "
        f"{result['rescued_share']:.0%} of these a strategy brings a correct completion."
    )
    difference = result["difference"]
    interval = f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
    tie = difference["low"] <= 0 <= difference["high"]
    console.print(
        f"SGPO minus GRPO over the learning curve, equal completions: {interval}" + (": a tie." if tie else ".")
    )
    console.print(f"{result['seconds']:.0f} s. Report: {result['report']}")
