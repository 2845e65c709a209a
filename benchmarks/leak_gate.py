"""Precision and recall of the leak gate on the labelled strategies (tests/strategies/data/leak_labels.jsonl).

python benchmarks/leak_gate.py --split dev --errors
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sgpo.problems import Problem
from sgpo.strategies.leak import find_leaks
from sgpo.strategies.strategy import strategy_from_json
from sgpo.verifier import Verifier

LABELS = Path(__file__).parent.parent / "tests" / "strategies" / "data" / "leak_labels.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("dev", "heldout"), required=True)
    parser.add_argument("--errors", action="store_true", help="list them; leave the held-out ones unseen while tuning")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == arguments.split]
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    with Verifier(workers=2) as verifier:
        verifier.verify("\\boxed{1}", "1")
        started = time.perf_counter()
        for row in rows:
            outcome, found = judge(row, verifier)
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


def judge(row: dict[str, Any], verifier: Verifier) -> tuple[str, list[str]]:
    """Whether the gate agrees with the label, and what it found."""
    problem = Problem(id=row["id"], problem=row["problem"], answer=row["answer"], solution=row.get("solution"))
    strategy = strategy_from_json({**row.get("strategy", row), "problem_id": row["id"], "id": row["id"], "leaks": None})
    leaks = find_leaks(strategy, problem, verifier=verifier)
    found = [f"{leak.kind} {leak.text!r} in {leak.where}" for leak in leaks]
    if row["leaks"]:
        return ("caught" if leaks else "missed"), found
    return ("false alarm" if leaks else "passed"), found


if __name__ == "__main__":
    main()
