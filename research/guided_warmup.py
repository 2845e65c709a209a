"""What guided rows in the warm-up do: the quickstart's warm-up with and without them, then `measure_strategies`.

    python -m research.guided_warmup --out runs/guided-warmup --seeds 0,1,2

Writes research/results/guided_warmup.json: pass rates without and with a strategy over 100 training puzzles, 4 samples,
with the commit and the command.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sgpo.evaluation.evaluate import load_source
from sgpo.io import write_json
from sgpo.problems import load_problems
from sgpo.puzzles import RETENTION_FAMILY, select_families
from sgpo.puzzles.base import warmup_rows
from sgpo.puzzles.policy import build_policy, build_tokenizer
from sgpo.puzzles.quickstart import DEFAULT_FAMILIES, make_puzzles, warmup_options
from sgpo.rollouts.engine import Sampling
from sgpo.strategies.bank import StrategyBank
from sgpo.training.measure import measure_strategies, strategies_to_measure
from sgpo.training.run_directory import RunDirectory, provenance
from sgpo.training.warmup import run_warmup, tokenized_row
from sgpo.verifier import Verifier

RESULTS = Path(__file__).parent / "results" / "guided_warmup.json"
ROWS, PUZZLES, SAMPLES, MAX_TOKENS = 28_800, 100, 4, 48


def measure_warmup(out: Path, *, guided: bool, seed: int) -> dict[str, Any]:
    """Warm a policy up on the quickstart's rows, with a third of them guided or none, and measure it."""
    make_puzzles(out, DEFAULT_FAMILIES, seed=seed)
    taught, tokenizer = select_families([*DEFAULT_FAMILIES, RETENTION_FAMILY]), build_tokenizer()
    # As many rows in both: without guided ones, more of the two other sorts.
    rows = warmup_rows(taught, ROWS if guided else ROWS * 3 // 2, seed=seed)
    kept = [row for row in rows if guided or "|" not in row["prompt"]]
    if not RunDirectory(out).warm_model.exists():  # a second start resumes
        run_warmup(
            build_policy(tokenizer, seed=seed),
            tokenizer,
            [tokenized_row(row["prompt"], row["completion"], tokenizer) for row in kept],
            warmup_options() | {"seed": seed, "disable_tqdm": True},
            RunDirectory(out),
        )
    problems = load_problems(out / "problems.jsonl", limit=PUZZLES)
    source = load_source(str(RunDirectory(out).warm_model), engine="hf", batch_size=64, vllm_options={})
    with StrategyBank(out / "bank.db") as bank, Verifier() as verifier:
        strategies = strategies_to_measure(bank, problems, candidates=False)
        measured = measure_strategies(
            strategies, problems, source, verifier, Sampling(max_tokens=MAX_TOKENS), samples=SAMPLES, style="compact",
            seed=seed,
        )  # fmt: skip
    return {"seed": seed, "guided_rows": guided, "rows": len(kept), **measured.summary()}


def main() -> None:
    """Run what the arguments say and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    results = [
        measure_warmup(options.out / f"{'guided' if guided else 'autonomous'}-{seed}", guided=guided, seed=int(seed))
        for seed in options.seeds.split(",")
        for guided in (True, False)
    ]
    write_json(RESULTS, {**provenance(), "results": results})
    for row in results:
        print(row["seed"], row["guided_rows"], row["autonomous"], row["guided"], row["all_fail"], row["rescued"])


if __name__ == "__main__":
    main()
