"""Run the quickstart on several seeds, each with a warm-up of its own: GRPO, SGPO, the paper's SGPO (without the
target's cross-entropy), and SFT on guided completions.

    python -m research.quickstart_seeds tune         # learning rates, on validation puzzles
    python -m research.quickstart_seeds seed 0       # one seed -> research/results/quickstart/seed-0.json
    python -m research.quickstart_seeds page         # all of these -> docs/results/quickstart.md

A seed takes about two and a half times as long as `sgpo quickstart`. Set OMP_NUM_THREADS=1 to run two at once on two
cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from sgpo.evaluation.compare import compare_runs, read_curves
from sgpo.evaluation.scores import mean_over_replicates
from sgpo.io import read_json, write_json, write_text
from sgpo.problems import save_problems
from sgpo.puzzles import DEFAULT_FAMILIES, mix_puzzles, select_families
from sgpo.puzzles.quickstart import RECIPES, make_puzzles, run_quickstart, train_run, warm_up
from sgpo.training.run_directory import RunDirectory, provenance

RESULTS = Path("research/results/quickstart")
PAGE = Path("docs/results/quickstart.md")
STEPS = 120
# SFT on the policy's own correct completions of guided prompts, as many completions as the others: at their learning
# rate, and at the rate of the grid that is best for it.
GUIDED_SFT = Path("recipes/baselines/guided_sft_12.yaml")
MORE_RUNS: dict[str, tuple[Path, list[str]]] = {
    "sgpo_paper": (Path("recipes/paper.yaml"), []),
    "guided_sft": (GUIDED_SFT, []),
    "guided_sft_slow": (GUIDED_SFT, ["learning_rate=3e-4"]),
}
LABELS = {
    "grpo": "GRPO",
    "sgpo": "SGPO",
    "sgpo_paper": "the paper's SGPO",
    "guided_sft": "guided SFT",
    "guided_sft_slow": "guided SFT, 3e-4",
}
RATES = (1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3)
TUNING_SEED = 100
TABLES = "<!-- below: python -m research.quickstart_seeds page -->"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m research.quickstart_seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("tune", "seed", "page"))
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-seeds"))
    options = parser.parse_args()
    if options.what == "tune":
        tune(options.out / "tune")
    elif options.what == "seed":
        run_seed(options.out / f"seed-{options.seed}", options.seed)
    else:
        write_seeds_page()


def tune(home: Path) -> None:
    """Train at every rate of the grids from one warm-up, on puzzles that no test uses. Finished runs are kept."""
    if not RunDirectory(home).warm_model.exists():
        make_puzzles(home, DEFAULT_FAMILIES, seed=TUNING_SEED)
        validation = mix_puzzles(select_families(DEFAULT_FAMILIES), 200, split="validation", seed=TUNING_SEED)
        save_problems([puzzle.to_problem() for puzzle in validation], home / "validation.jsonl")
        warm_up(home, DEFAULT_FAMILIES, seed=TUNING_SEED)
    grids = {"grpo": (RECIPES["grpo"], RATES), "guided_sft": (GUIDED_SFT, RATES[:4])}
    scores = {
        name: {f"{rate:g}": _tuning_run(home, f"{name}-{rate:g}", recipe, rate) for rate in rates}
        for name, (recipe, rates) in grids.items()
    }
    write_json(RESULTS / "tuning.json", {"seed": TUNING_SEED, **scores, **provenance()})


def _tuning_run(home: Path, name: str, recipe: Path, rate: float) -> Row:
    """Train at that rate. Returns curves [completions, avg@4] on validation puzzles and on those never trained on."""
    run = RunDirectory(home / name)
    if not run.final_model.exists():
        settings = [f"learning_rate={rate}"]
        train_run(home, name, recipe, settings, steps=STEPS, seed=TUNING_SEED, evaluated=["validation", "untouched"])
    return {name: [[p.completions, _mean(p.scores)] for p in points] for name, points in read_curves(run.path).items()}


def run_seed(home: Path, seed: int) -> None:
    """Run the quickstart of this seed and the other methods from the same warm-up; write all that the page shows.

    Finished runs are kept.
    """
    if not (home / "quickstart.json").exists():
        run_quickstart(home, steps=STEPS, seed=seed)
    for name, (recipe, settings) in MORE_RUNS.items():
        if not RunDirectory(home / name).final_model.exists():
            train_run(home, name, recipe, settings, steps=STEPS, seed=seed)
    result = read_json(home / "quickstart.json")
    comparison = compare_runs([home / name for name in LABELS])
    content = {
        "seed": seed,
        "steps": STEPS,
        "probe": {key: result[key] for key in ("autonomous_pass_rate", "guided_pass_rate", "all_fail_share")},
        "rescued_share": result["rescued_share"],
        "runs": {name: _describe_run(home / name) for name in LABELS},
        "comparison": {
            evaluation.name: {
                f"{difference.run} - {difference.baseline}": {
                    "curve": difference.curve.to_json() if difference.curve else None,
                    "final": difference.final.to_json(),
                }
                for difference in evaluation.differences
            }
            for evaluation in comparison.evaluations
        },
        "seconds": result["seconds"],
        **provenance(),
    }
    write_json(RESULTS / f"seed-{seed}.json", content)


def _describe_run(run: Path) -> Row:
    """What the page shows of a run.

    Returns:
        Curves [completions, value] of avg@4 on both problem sets and of the puzzles that fail all four times; the pass
        rate of guided completions in training, its mean over the first and over the last ten steps.
    """
    curves = {name: [[p.completions, _mean(p.scores)] for p in _curve(run, name)] for name in ("fresh", "untouched")}
    failed = [
        [point.completions, sum(score == 0 for score in point.scores.values()) / len(point.scores)]
        for point in _curve(run, "fresh")
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    guided = [row["pass_rate/guided"] for row in rows if "pass_rate/guided" in row]
    ends = [round(statistics.fmean(part), 4) for part in (guided[:10], guided[-10:]) if part]
    return {**curves, "all_fail": failed, "guided": ends}


def _curve(run: Path, name: str) -> list[Any]:
    return read_curves(run)[name]


def _mean(scores: dict[str, float]) -> float:
    return round(statistics.fmean(scores.values()), 4)


# ------------------------------------------------------------------------------------------------------ the page


def write_seeds_page() -> None:
    """Write the tables of the page from the result files; the text above them stays."""
    seeds = [read_json(path) for path in sorted(RESULTS.glob("seed-*.json"))]
    parts = [
        PAGE.read_text(encoding="utf-8").partition(TABLES)[0].strip() + f"\n\n{TABLES}",
        _conditions(seeds),
        "## Each seed\n\n" + _seed_table(seeds),
        "## Over the seeds\n\n" + _summary(seeds),
        "## Whole curves: avg@4 on 200 fresh puzzles\n\n" + _curve_table(seeds, "fresh"),
        "## All-fail fractions: fresh puzzles that fail all four times\n\n" + _curve_table(seeds, "all_fail"),
        "## Retention: avg@4 on 50 puzzles of the family that is never trained\n\n" + _curve_table(seeds, "untouched"),
        "## The guided skill: pass rate of guided completions in training, first and last ten steps\n\n"
        + _guided_table(seeds),
        "## The learning rate\n\n" + _tuning(read_json(RESULTS / "tuning.json")),
    ]
    write_text(PAGE, "\n\n".join(parts) + "\n")


def _conditions(seeds: Sequence[Row]) -> str:
    first = seeds[0]
    commits = sorted({row["git_commit"][:7] + "+" * row["git_commit"].endswith("+") for row in seeds})
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("torch", "transformers", "trl"))
    return f"""\
`python -m research.quickstart_seeds tune`, then `... seed N` for each seed, then `... page`, which writes these
tables from `research/results/quickstart/*.json`. Commit {", ".join(commits)}; {first["started"][:10]};
{first["machine"]["cpus"]} shared CPU cores, one thread a run, other work beside it, so the seconds say little;
{versions}.

Each seed has puzzles, warm-up and training of its own. Within a seed all runs start from the same warmed-up policy,
see the same problems in the same order and sample 12 completions per problem and step: GRPO 12 autonomous ones, SGPO 8
autonomous and 4 guided ("the paper's SGPO": without the target's cross-entropy), guided SFT 12 guided ones
(cross-entropy on all that are correct, after the autonomous prompt), at the others' learning rate and at 3e-4, the best
of the grid for it. {first["steps"]} steps of 16 problems. Evaluation never shows a strategy. Intervals are 95 %: of a
seed over its 200 puzzles, paired; over the seeds Student's t."""


def _seed_table(seeds: Sequence[Row]) -> str:
    head = ["seed", "warm-up", "guided", "all-fail of 8", "rescued", *LABELS.values()]
    head += ["SGPO - GRPO, over the curve", "seconds of the quickstart"]
    rows = []
    for row in seeds:
        runs = row["runs"]
        rows.append(
            [
                row["seed"],
                f"{runs['sgpo']['fresh'][0][1]:.2f}",
                f"{row['probe']['guided_pass_rate']:.2f}",
                f"{row['probe']['all_fail_share']:.2f}",
                f"{row['rescued_share']:.2f}",
                *(f"{runs[name]['fresh'][-1][1]:.2f}" for name in LABELS),
                _interval(row["comparison"]["fresh"]["sgpo - grpo"]["curve"]),
                f"{row['seconds']:.0f}",
            ]
        )
    return _table(head, rows)


def _summary(seeds: Sequence[Row]) -> str:
    rows = []
    for first, second in combinations(LABELS, 2):
        key = f"{second} - {first}"
        cells: list[str] = [f"{LABELS[second]} - {LABELS[first]}"]
        for name, kind in (("fresh", "curve"), ("fresh", "final"), ("untouched", "final")):
            values = [row["comparison"][name][key][kind]["mean"] for row in seeds]
            cells.append(_interval(_over_seeds(values)))
        above = sum(row["comparison"]["fresh"][key]["curve"]["low"] > 0 for row in seeds)
        below = sum(row["comparison"]["fresh"][key]["curve"]["high"] < 0 for row in seeds)
        rows.append([*cells, f"{above} above 0, {below} below, {len(seeds) - above - below} neither"])
    head = ["difference", "fresh, over the curve", "fresh, at the end", "untouched, at the end"]
    return _table([*head, "seeds whose own interval lies"], rows)


def _curve_table(seeds: Sequence[Row], kind: str) -> str:
    points = [completions for completions, _ in seeds[0]["runs"]["sgpo"][kind]]
    rows = [
        [row["seed"], label, *(f"{value:.3f}" for _, value in row["runs"][name][kind])]
        for row in seeds
        for name, label in LABELS.items()
    ]
    for name, label in LABELS.items():
        curves = [[value for _, value in row["runs"][name][kind]] for row in seeds]
        rows.append(["mean", label, *(f"**{statistics.fmean(values):.3f}**" for values in zip(*curves, strict=True))])
    return _table(["seed", "completions:", *(f"{point:,}" for point in points)], rows)


def _guided_table(seeds: Sequence[Row]) -> str:
    guided = [name for name in LABELS if name != "grpo"]
    rows = [
        [row["seed"], *("{:.2f} to {:.2f}".format(*row["runs"][name]["guided"]) for name in guided)] for row in seeds
    ]
    return _table(["seed", *(LABELS[name] for name in guided)], rows)


def _tuning(tuning: Row) -> str:
    """The grids, each rate with its mean over the curve and its end."""
    rows = [
        [
            LABELS[name],
            rate,
            f"{statistics.fmean(value for _, value in curves['validation']):.3f}",
            f"{curves['validation'][-1][1]:.3f}",
            f"{curves['untouched'][-1][1]:.3f}" if "untouched" in curves else "",
        ]
        for name in ("grpo", "guided_sft")
        for rate, curves in tuning[name].items()
    ]
    return (
        f"Chosen by the mean over the curve, from one more warm-up (seed {tuning['seed']}), on 200 validation puzzles "
        "that no test uses. SGPO takes GRPO's rate.\n\n"
        + _table(["run", "constant rate", "mean over the curve", "at the end", "untouched, at the end"], rows)
    )


def _over_seeds(values: Sequence[float]) -> Row:
    over_seeds = mean_over_replicates(values)
    return {"mean": over_seeds.mean, "low": over_seeds.low, "high": over_seeds.high}


def _interval(row: Row) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
