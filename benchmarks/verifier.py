"""Compare the verifier with math-verify alone and with TRL's accuracy_reward: wrong verdicts, and speed.

    python benchmarks/verifier.py accuracy [--data ../shared/data/verifier]
    python benchmarks/verifier.py speed    [--data ../shared/data/verifier] [--rounds 3]
    python benchmarks/verifier.py golds    [--data ../shared/data/verifier]

`golds` reads the gold answers of the benchmarks and training files beside that folder. The verifier must recognise each
in five forms, and must not recognise it with one character changed.

math-verify runs "at its best": both sides are wrapped in dollars where they hold no delimiter. Its verdicts on the
model outputs are those stored in the file; its speed is measured on the last 4,000 characters, as there. Needs no GPU;
set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import logging
import re
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sgpo.io import read_rows
from sgpo.problems import Problem
from sgpo.verifier import Verifier

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed", "golds"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/verifier"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    if options.what == "accuracy":
        _print_accuracy(options.data)
    elif options.what == "golds":
        _print_golds(options.data.parent)
    else:
        _print_speed(_read(options.data / "model_outputs.jsonl"), options.rounds)


def _read(path: Path) -> list[Row]:
    return [dict(row) for _, row in read_rows(path)]


def _ask_math_verify(gold: str, found: str) -> bool:
    import math_verify

    sides = [math_verify.parse(text if _delimited(text) else f"${text}$") for text in (gold, found)]
    return bool(math_verify.verify(*sides))


def _delimited(text: str) -> bool:
    return any(delimiter in text for delimiter in ("$", "\\boxed", "\\[", "\\("))


def _ask_trl(gold: str, found: str) -> bool:
    from trl.rewards import accuracy_reward

    return accuracy_reward([[{"content": found}]], [gold])[0] == 1.0


def _print_accuracy(data: Path) -> None:
    triples = [row for row in _read(data / "triples.jsonl") if not row["conflict"]]
    _print_errors(
        "triples.jsonl",
        triples,
        label=lambda row: row["expected"],
        group=lambda row: f"{row['source'].partition(' ')[0]}, {row['kind']}",
        gold_and_found=("gold", "prediction"),
        kind=lambda row: "choice" if row["kind"] == "choice" else "math",
        stored=None,
    )
    outputs = [row for row in _read(data / "model_outputs.jsonl") if "odyssey" not in row["benchmark"]]
    _print_errors(
        "model_outputs.jsonl",
        outputs,
        label=lambda row: row["reported_correct"] if row["adjudicated"] is None else row["adjudicated"],
        group=lambda row: f"{row['benchmark']}, {row['prediction_kind']}",
        gold_and_found=("gold", "prediction"),
        kind=lambda row: "math",
        stored="math_verify",
    )


def _print_errors(
    name: str,
    rows: Sequence[Row],
    *,
    label: Callable[[Row], bool],
    group: Callable[[Row], str],
    gold_and_found: tuple[str, str],
    kind: Callable[[Row], str],
    stored: str | None,
) -> None:
    """Print the errors of each verifier, in all and per group, as Markdown."""
    gold, found = gold_and_found
    verdicts: dict[str, list[bool]] = {
        "math-verify": [row[stored] if stored else _ask_math_verify(row[gold], row[found]) for row in rows],
        "TRL": [_ask_trl(row[gold], row[found]) for row in rows],
    }
    for policy in ("lenient", "strict"):
        with Verifier(workers=2, policy=policy) as verifier:  # type: ignore[arg-type]
            problems = [Problem(id="-", problem="-", answer=row[gold], kind=kind(row)) for row in rows]
            pairs = [(row[found], problem) for row, problem in zip(rows, problems, strict=True)]
            verdicts[f"sgpo {policy}"] = [verdict.correct for verdict in verifier.verify_many(pairs)]
    print(f"\n## {name}: {len(rows)} rows\n\n| verifier | accuracy | errors | false positives | false negatives |")
    print("|---|---|---|---|---|")
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for verifier_name, said in verdicts.items():
        positives = sum(v and not label(row) for v, row in zip(said, rows, strict=True))
        negatives = sum(label(row) and not v for v, row in zip(said, rows, strict=True))
        errors = positives + negatives
        print(f"| {verifier_name} | {1 - errors / len(rows):.4f} | {errors} | {positives} | {negatives} |")
        for v, row in zip(said, rows, strict=True):
            by_group[group(row)][verifier_name] += v != label(row)
            by_group[group(row)]["rows"] += 1
    print(f"\n| group | rows | {' | '.join(verdicts)} |\n|---|---|{'---|' * len(verdicts)}")
    for name, counts in sorted(by_group.items()):
        print(f"| {name} | {counts['rows'] // len(verdicts)} | {' | '.join(str(counts[key]) for key in verdicts)} |")


FORMS: tuple[Callable[[str], str], ...] = (
    lambda gold: f"So it is \\boxed{{{gold}}}.",
    lambda gold: f"Adding up, the answer is ${gold}$.",
    lambda gold: f"We have shown enough. Therefore the value is ${gold}$.",
    lambda gold: "\\boxed{" + gold.replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)") + "}",
    lambda gold: gold,
)
SLIPS = (
    (r"(\d)", lambda match: str((int(match[1]) + 1) % 10)), (r"-", lambda match: "+"), (r"\+", lambda match: "-"),
    (r"\[", lambda match: "("), (r"\\leq?(?![a-z])", lambda match: "<"), (r"\\sin", lambda match: "\\cos"),
    (r"([a-z])$", lambda match: "k" if match[1] != "k" else "j"),
)  # fmt: skip


def _print_golds(data: Path) -> None:
    """Print which gold answers are missed in another form, and which pass with one character changed."""
    rows = [row for file in (*data.glob("benchmarks/*.jsonl"), *data.glob("train/*.jsonl")) for row in _read(file)]
    every = {str(row["answer"]).strip() for row in rows if row.get("answer")}
    golds = sorted(gold for gold in every if not re.fullmatch(r"-?\d{1,3}", gold))
    right = [(form(gold), gold) for gold in golds for form in FORMS]
    slips = {(re.sub(pattern, slip, gold, count=1), gold) for gold in golds for pattern, slip in SLIPS}
    wrong = [(f"\\boxed{{{slip}}}", gold) for slip, gold in sorted(slips) if slip != gold]
    with Verifier(workers=2) as verifier:
        missed = [pair for pair, said in zip(right, verifier.verify_many(right), strict=True) if not said.correct]
        passed = [pair for pair, said in zip(wrong, verifier.verify_many(wrong), strict=True) if said.correct]
    print(f"{len(golds)} gold answers of {len(every)}; in other forms {len(right)}, not recognised {len(missed)}:")
    for completion, gold in missed:
        print(f"  {gold!r}: {completion!r}")
    print(f"with one character changed {len(wrong)}, called equal {len(passed)}:")
    for completion, gold in passed:
        print(f"  {gold!r}: {completion!r}")


def _print_speed(rows: Sequence[Row], rounds: int) -> None:
    pairs = [(row["prediction"], row["gold"]) for row in rows]
    start = time.perf_counter()
    with Verifier(workers=2) as verifier:
        verifier.verify("\\boxed{2}", "2")
        print(f"start-up to the first verdict: {time.perf_counter() - start:.2f} s")
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for workers in (2, 1):
            name, before = f"sgpo, {workers} worker{'s' if workers > 1 else ''}", _cpu_of_children()
            with Verifier(workers=workers) as verifier:
                verifier.verify_many([("\\boxed{2}", "2"), ("\\boxed{3}", "2")])
                rates[name].append(_rate(lambda verifier=verifier: verifier.verify_many(pairs), len(pairs)))
            print(f"{name}: {(_cpu_of_children() - before) / workers:.1f} s of CPU each, start included")
        rates["math-verify, one process"].append(
            _rate(lambda: [_ask_math_verify(gold, found[-4000:]) for found, gold in pairs], len(pairs))
        )
    for name, each in rates.items():
        print(f"{name}: {statistics.median(each):.0f} answers/s (median of {rounds}: {[round(rate) for rate in each]})")


def _cpu_of_children() -> float:
    """Seconds of CPU that this process's ended children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _rate(run: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
