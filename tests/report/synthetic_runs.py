"""Run directories made up for the tests, in the format of docs/run-directory.md."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OPERATIONS = ("reverse", "sort", "rotate", "increment", "double", "prefix", "complement", "swap")
FAMILIES = ("clues", "clock")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(
    path: Path,
    *,
    algorithm: str = "sgpo",
    steps: int = 60,
    problems: int = 40,
    batch: int = 8,
    seed: int = 0,
    gain: float = 0.6,
    evaluations: Sequence[str] = ("fresh",),
) -> Path:
    """A run that learns: pass rates rise by `gain`, guidance helps, there is an evaluation every 10 steps."""
    rng = random.Random(seed)
    guided = algorithm == "sgpo"
    path.mkdir(parents=True)
    config = {
        "algorithm": algorithm,
        "model": "checkpoints/warmup",
        "args": {
            "num_autonomous": 8 if guided else 12,
            "num_guided": 4 if guided else 0,
            "learning_rate": 1e-4,
            "max_steps": steps,
            "seed": seed,
        },
        "problems": {"count": problems, "sha256": "ab" * 32},
        "strategies": {"path": "bank.db", "own": problems, "missing": 0},
        "prompts": {"style": "compact", "version": "9f86d081884c"},
        "versions": {"sgpo": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "git_commit": "0123abcd4567ef890123abcd4567ef890123abcd",
        "command": f"sgpo train recipes/quickstart.yaml --set algorithm={algorithm} --out {path.name}",
        "started": "2026-11-23T13:49:00+00:00",
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ids = [f"{FAMILIES[number % 2]}-{number}" for number in range(problems)]
    ability = {id_: rng.betavariate(0.6, 1.6) for id_ in ids}
    metrics: list[dict[str, Any]] = []
    for name in evaluations:
        _write_evaluation(path, rng, name, step=0, completions=0, level=0.0)
    for step in range(1, steps + 1):
        level = gain * step / steps
        chosen = rng.sample(ids, batch)
        rows = [row for id_ in chosen for row in _rollouts(rng, step, id_, ability[id_], level, guided)]
        write_lines(path / "rollouts" / f"step-{step:06d}.jsonl", rows)
        if guided:
            write_lines(
                path / "targets" / f"step-{step:06d}.jsonl",
                [_target(rng, step, id_, level) for id_ in chosen[: batch // 2]],
            )
        metrics.append(_metrics(rng, step, steps, level, guided) | {"completions": step * batch * 12})
        if step % 10 == 0:
            for name in evaluations:
                metrics.append(
                    _write_evaluation(path, rng, name, step=step, completions=step * batch * 12, level=level)
                )
    metrics.append({"step": steps, "train_runtime": 30.0, "epoch": steps / 5})
    write_lines(path / "metrics.jsonl", metrics)
    if guided:
        alarm = {"step": steps // 2, "alarm": "entropy", "message": "Entropy fell below a third of its first value."}
        write_lines(path / "alarms.jsonl", [alarm])
    return path


def _completion(rng: random.Random, right: bool) -> tuple[str, str]:
    lines = []
    for _ in range(4):
        digits = " ".join(str(rng.randrange(10)) for _ in range(4))
        lines.append(f"{rng.choice(OPERATIONS)} {digits}")
    answer = "3 1 4 2" if right else " ".join(str(rng.randrange(10)) for _ in range(4))
    return " ; ".join(lines) + f" = {answer}", answer


def _rollouts(
    rng: random.Random, step: int, id_: str, ability: float, level: float, guided: bool
) -> list[dict[str, Any]]:
    problem = "mirror twist climb fold | 4 2 1 3"
    rows = []
    groups = [("autonomous", 8), ("guided", 4)] if guided else [("autonomous", 12)]
    for group, count in groups:
        chance = min(0.97, ability + level) if group == "autonomous" else 0.93
        for _ in range(count):
            right = rng.random() < chance
            text, answer = _completion(random.Random(id_) if right else rng, right)
            verdict = "correct" if right else rng.choices(("wrong", "unparsed", "timeout"), (20, 3, 0.2))[0]
            rows.append(
                {
                    "step": step,
                    "problem_id": id_,
                    "subject": id_.split("-")[0],
                    "group": group,
                    "prompt": f"{problem} solve"
                    if group == "autonomous"
                    else f"clues : reverse ; rotate ; prefix ; swap | {problem} solve",
                    "completion": text,
                    "tokens": len(text.split()),
                    "truncated": verdict == "unparsed",
                    "verdict": verdict,
                    "extracted": answer if verdict != "unparsed" else None,
                    "reward": float(right),
                    "strategy_id": id_ if group == "guided" else None,
                }
            )
    return rows


def _target(rng: random.Random, step: int, id_: str, level: float) -> dict[str, Any]:
    tokens: list[str] = []
    divergences: list[float] = []
    for index in range(4):
        operation = rng.choice(OPERATIONS)
        tokens.append(operation if index == 0 else f" {operation}")
        divergences.append(rng.expovariate(0.35) * (1.1 - level))
        for _ in range(4):
            tokens.append(f" {rng.randrange(10)}")
            divergences.append(rng.expovariate(40))
        tokens.append(" ;")
        divergences.append(rng.expovariate(200))
    return {
        "step": step,
        "problem_id": id_,
        "strategy_id": id_,
        "weight": max(0.0, 0.8 - level),
        "guided_pass_rate": 1.0,
        "autonomous_pass_rate": 0.25,
        "prompt": "mirror twist climb fold | 4 2 1 3 solve",
        "tokens": tokens,
        "divergences": divergences,
        "kl_clip": 1.0,
    }


def _metrics(rng: random.Random, step: int, steps: int, level: float, guided: bool) -> dict[str, Any]:
    def noisy(value: float, spread: float = 0.05) -> float:
        return max(0.0, value + rng.gauss(0, spread))

    row = {
        "step": step,
        "epoch": step / 5,
        "loss": noisy(0.4 - 0.2 * level),
        "loss/policy": rng.gauss(0, 0.02),
        "pass_rate/autonomous": min(1.0, noisy(0.25 + level)),
        "groups/all_fail": noisy(0.6 - 0.8 * level),
        "groups/all_pass": noisy(0.05 + 0.4 * level),
        "entropy": noisy(0.5 - 0.3 * level, 0.02),
        "completion_length/autonomous": noisy(24 + 3 * level, 0.5),
        "truncated/autonomous": noisy(0.03, 0.01),
        "distinct_answers": noisy(5 - 4 * level, 0.3),
        "verdicts/correct": round(96 * (0.25 + level)),
        "verdicts/unparsed": rng.randrange(6),
        "verdicts/timeout": rng.randrange(2),
        "tokens_per_second": noisy(9000, 500),
        "grad_norm": noisy(0.8, 0.2),
        "learning_rate": 1e-4 * (1 - step / steps),
        "time/generate": noisy(0.21, 0.02),
        "time/verify": noisy(0.02, 0.005),
        "time/score": noisy(0.05, 0.01),
        "time/train": noisy(0.16, 0.02),
    }
    if guided:
        row |= {
            "loss/distill": noisy(0.3 - 0.3 * level, 0.02),
            "pass_rate/guided": min(1.0, noisy(0.93, 0.02)),
            "targets/fraction": min(1.0, noisy(0.95, 0.02)),
            "distill_weight": noisy(0.6 - 0.5 * level, 0.03),
            "divergence/mean": noisy(0.5 - 0.5 * level, 0.05),
            "divergence/clipped_mean": noisy(0.1 - 0.1 * level, 0.01),
            "divergence/clipped_fraction": noisy(0.06 - 0.06 * level, 0.01),
            "completion_length/guided": noisy(25, 0.4),
            "truncated/guided": noisy(0.01, 0.005),
        }
    return row


def _write_evaluation(
    path: Path, rng: random.Random, name: str, *, step: int, completions: int, level: float
) -> dict[str, Any]:
    samples = {}
    rows = []
    fixed = random.Random(7)
    for number in range(60):
        chance = min(0.97, fixed.betavariate(0.5, 1.5) + level)
        id_ = f"{name}-{number}"
        samples[id_] = ["correct" if rng.random() < chance else "wrong" for _ in range(4)]
        for index, verdict in enumerate(samples[id_]):
            text, answer = _completion(rng, verdict == "correct")
            rows.append(
                {
                    "problem_id": id_,
                    "sample": index,
                    "prompt": "mirror twist climb fold | 4 2 1 3 solve",
                    "completion": text,
                    "tokens": 24,
                    "truncated": False,
                    "verdict": verdict,
                    "extracted": answer,
                }
            )
    rates = [kinds.count("correct") / 4 for kinds in samples.values()]
    mean = sum(rates) / len(rates)
    spread = 1.96 * (sum((rate - mean) ** 2 for rate in rates) / 59 / 60) ** 0.5
    any_right = sum(rate > 0 for rate in rates) / len(rates)

    def score(value: float) -> dict[str, float]:
        return {"mean": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread)}

    verdicts = {
        kind: sum(kinds.count(kind) for kinds in samples.values())
        for kind in ("correct", "wrong", "unparsed", "timeout")
    }
    evaluation = {
        "name": name,
        "step": step,
        "completions": completions,
        "problems": 60,
        "k": 4,
        "avg@4": score(mean),
        "pass@1": score(mean),
        "pass@4": score(any_right),
        "maj@4": score(min(1.0, mean + 0.03)),
        "verdicts": verdicts,
        "samples": samples,
    }
    stem = path / "eval" / f"{name}-step-{step:06d}"
    stem.parent.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(evaluation), encoding="utf-8")
    write_lines(stem.with_suffix(".jsonl"), rows)
    return {"step": step, "eval/avg@4": mean}
