"""Make one run of a study: data, warm-up, training, scores, and the small JSON that stays."""

from __future__ import annotations

import gc
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.plan import Study, StudyRun, WarmupKind, settings_of, stages_of
from sgpo.evaluation.evaluate import EngineSource, evaluate
from sgpo.io import write_json
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt, solution_guided_prompt
from sgpo.puzzles.base import mix_puzzles
from sgpo.puzzles.benchmark import (
    WARMED_UP,
    benchmark_strategies,
    distinct_solutions,
    is_recombined,
    strategy_benchmark,
    strategy_warmup,
)
from sgpo.puzzles.policy import build_policy, build_tokenizer
from sgpo.puzzles.quickstart import warmup_options
from sgpo.rollouts.engine import Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.groups import seed_of
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.models import load_policy, load_tokenizer
from sgpo.strategies.bank import StrategyBank
from sgpo.training.config import SGPOConfig
from sgpo.training.run_directory import RunDirectory
from sgpo.training.trainer import SGPOTrainer
from sgpo.training.warmup import run_warmup, tokenized_row
from sgpo.verifier import Verifier

POOL_SEED = 1000  # replicate r draws its problems with POOL_SEED + r, far from the seeds of the warm-ups
CURVE_PROBLEMS = 100
READERS_ROWS = 4  # times as many rows with a solution in the prompt
PHASES = ("time/generate", "time/verify", "time/score", "time/train")


def warm_model(study: Study, kind: WarmupKind, warmup: int) -> Path:
    """The run directory of a warm-up."""
    return study.work / "warmups" / f"{kind}-{warmup}"


def make_warmup(study: Study, kind: WarmupKind, warmup: int) -> None:
    """Warm up a policy from random weights, unless that was done before.

    It learns to read solutions in prompts as it learns to follow strategies: from puzzles whose words mean something
    else each time.
    """
    place = RunDirectory(warm_model(study, kind, warmup))
    if place.warm_model.exists():
        return
    shutil.rmtree(place.path, ignore_errors=True)
    tokenizer = build_tokenizer()
    rows = strategy_warmup(study.warmup_rows, seed=warmup, leak="much" if kind == "much" else "little")
    rows += _solution_rows(study.solution_rows * (READERS_ROWS if kind == "readers" else 1), seed=warmup)
    random.Random(warmup).shuffle(rows)
    run_warmup(
        build_policy(tokenizer, seed=warmup),
        tokenizer,
        [tokenized_row(row["prompt"], row["completion"], tokenizer) for row in rows],
        warmup_options() | {"seed": warmup, "disable_tqdm": True},
        place,
    )


def _solution_rows(count: int, *, seed: int) -> list[dict[str, str]]:
    """Rows whose prompt shows a solution in some style; the completion is the one in the policy's own style."""
    puzzles = mix_puzzles(
        WARMED_UP,
        count,
        split="warmup",
        seed=seed + 2,
        words="scrambled",
        keep=lambda puzzle: not is_recombined(puzzle),
    )
    rows = []
    for number, puzzle in enumerate(puzzles):
        solution = puzzle.to_problem("compact", ("own", "leap", "foreign")[number % 3]).solution
        assert solution is not None
        prompt = solution_guided_prompt(puzzle.compact.problem, solution, style="compact")
        rows.append({"prompt": prompt, "completion": puzzle.compact.solution})
    return rows


def make_run(study: Study, run: StudyRun, verifier: Verifier, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Train and score a run, and write its JSON into the study's results. Returns that JSON."""
    seed = POOL_SEED + run.replicate
    splits = strategy_benchmark(
        seed=seed, problems=study.problems, pool=study.pool, style=run.style, held_out=run.held_out
    )
    pool = splits.pop("train")
    work = study.work / "runs" / run.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    model = RunDirectory(warm_model(study, run.warmup_kind, run.warmup)).warm_model
    cost: dict[str, float] = {"completions": 0, "trained_tokens": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    curve: list[dict[str, float]] = []
    with StrategyBank(work / "bank.db") as bank:
        for strategy in benchmark_strategies(seed=seed, pool=study.pool):
            bank.add(strategy)
        for number, options in enumerate(stages_of(study, run)):
            start = time.process_time()
            args = SGPOConfig(output_dir=str(work / f"stage-{number}"), **options)
            watched = {"fresh": splits["fresh"][:CURVE_PROBLEMS]}
            trainer = SGPOTrainer(str(model), args, pool, watched, bank=bank, verifier=verifier)
            trainer.train()
            model = trainer.run.final_model
            curve += _curve(trainer.run, cost)
            cost["cpu_seconds"] += time.process_time() - start
            del trainer
            gc.collect()
    result = {
        **run.to_json(),
        **cost,
        "curve": curve,
        **_score(str(model), splits, study, verifier, seed=seed),
        "settings": settings_of(study, run),
        **provenance,
    }
    write_json(study.results / f"{run.name}.json", result)
    shutil.rmtree(work)
    return result


def _curve(run: RunDirectory, cost: dict[str, float]) -> list[dict[str, float]]:
    """The learning curve of a stage; adds the stage's cost to `cost`, which holds that of the stages before it."""
    points, before = [], cost["completions"]
    for row in run.read_metrics():
        if "loss" in row:
            cost["completions"] = before + row["completions"]
            cost["trained_tokens"] += row["trained_tokens"]
            cost["seconds"] += sum(row.get(phase, 0.0) for phase in PHASES)
        score = next((value for key, value in row.items() if key.startswith("eval/avg@")), None)
        if score is not None:
            points.append(
                {"completions": cost["completions"], "trained_tokens": cost["trained_tokens"], "score": score}
            )
    return points


def _score(
    model: str, splits: Mapping[str, list[Problem]], study: Study, verifier: Verifier, *, seed: int
) -> dict[str, Any]:
    """Scores on every split, distinct right solutions of a problem, and the entropy per token on fresh problems."""
    tokenizer, policy = load_tokenizer(model), load_policy(model)
    engine = HFEngine(policy, pad_id=tokenizer.pad_token_id, eos_ids=end_token_ids(policy, tokenizer))
    source, sampling = EngineSource(engine, tokenizer), Sampling(max_tokens=study.train["max_completion_length"])
    scores, distinct = {}, {}
    for name, problems in splits.items():
        evaluation = evaluate(problems, source, verifier, sampling, samples=study.samples, style="compact", seed=seed)
        scores[name] = {
            key: round(value["mean"], 5)
            for key, value in evaluation.scores.items()
            if isinstance(value, dict) and "mean" in value
        }
        distinct[name] = round(distinct_solutions(evaluation.rows), 5)
    prompts = [encode_prompt(tokenizer, autonomous_prompt(p.problem, style="compact")) for p in splits["fresh"]]
    completions = engine.generate(prompts, sampling, seeds=[seed_of(seed, "entropy", i) for i in range(len(prompts))])
    logprobs = [value for completion in completions for value in completion.logprobs]
    return {"scores": scores, "distinct_solutions": distinct, "entropy": round(-sum(logprobs) / len(logprobs), 5)}
