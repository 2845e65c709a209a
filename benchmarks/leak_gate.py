"""Precision and recall of the leak gate on the labelled strategies (tests/strategies/data/leak_labels.jsonl).

python benchmarks/leak_gate.py --split dev --errors
python benchmarks/leak_gate.py --others    clean strategies against problems that they were not written from
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sgpo.problems import Problem, load_problems
from sgpo.strategies.leak.gate import find_leaks
from sgpo.strategies.strategy import strategy_from_json

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OTHERS = ("train/gsm8k_train", "benchmarks/math500", "train/aime_1983_2023", "traces/long_traces")
LABELS = Path(__file__).parent.parent / "tests" / "strategies" / "data" / "leak_labels.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--split", choices=("dev", "heldout"))
    what.add_argument("--others", action="store_true", help="20 clean strategies for each of 60 problems of 4 files")
    parser.add_argument("--errors", action="store_true", help="list them; leave the held-out ones unseen while tuning")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    if arguments.others:
        judge_others([row for row in rows if not row["leaks"]])
        return
    rows = [row for row in rows if row["split"] == arguments.split]
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    started = time.perf_counter()
    for row in rows:
        outcome, found = judge(row)
        counts[outcome] += 1
        if outcome == "missed":
            missed[row["leak_kind"]] += 1
        if arguments.errors and outcome in ("missed", "false alarm"):
            wanted = f"{row['leak_kind']} {row['leak_text']!r} in {row['leak_where']}" if row["leaks"] else "clean"
            print(f"{outcome}: {row['id']} (answer {row['answer']!r}): {wanted}; found {found}")
    seconds = time.perf_counter() - started
    caught, alarms = counts["caught"], counts["false alarm"]
    print(f"{arguments.split}: {len(rows)} strategies, {dict(counts)}, missed {dict(missed)}")
    print(f"precision {caught / (caught + alarms):.3f}, recall {caught / (caught + counts['missed']):.3f}")
    print(f"{1000 * seconds / len(rows):.1f} ms per strategy")


def judge_others(clean: list[dict[str, Any]]) -> None:
    """How often the gate finds something in a strategy that cannot have it from the problem: by accident only."""
    rng = random.Random(0)
    strategies = [strategy_from_json({**row["strategy"], "problem_id": row["id"]}) for row in clean]
    for name in OTHERS:
        found: Counter[str] = Counter()
        problems = rng.sample(load_problems(DATA / f"{name}.jsonl"), 60)
        for problem in problems:
            for strategy in rng.sample(strategies, 20):
                kinds = {leak.kind for leak in find_leaks(strategy, problem)}
                found.update({"any": 1} if kinds else {}, **dict.fromkeys(kinds, 1))
        print(f"{name}: {100 * found['any'] / (20 * len(problems)):.1f} %, {dict(found)}")


def judge(row: dict[str, Any]) -> tuple[str, list[str]]:
    """Whether the gate agrees with the label, and what it found."""
    problem = Problem(id=row["id"], problem=row["problem"], answer=row["answer"], solution=row.get("solution"))
    strategy = strategy_from_json({**row.get("strategy", row), "problem_id": row["id"], "id": row["id"], "leaks": None})
    leaks = find_leaks(strategy, problem)
    found = [f"{leak.kind} {leak.text!r} in {leak.where}" for leak in leaks]
    if row["leaks"]:
        return ("caught" if leaks else "missed"), found
    return ("false alarm" if leaks else "passed"), found


if __name__ == "__main__":
    main()
