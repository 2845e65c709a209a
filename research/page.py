"""Write the page about a study from its results: tables, differences with their intervals, curves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from research.figures import draw_curves
from research.plan import SPLITS, Study, Table
from research.results import RunValue, TableResults, average, best_rates, over_splits, read_results
from sgpo.evaluation.scores import ReplicateMean, difference_over_replicates
from sgpo.io import write_text

COSTS: dict[str, tuple[RunValue, str]] = {
    "completions": (lambda result: result["completions"], ",.0f"),
    "trained tokens": (lambda result: result["trained_tokens"], ",.0f"),
    "seconds": (lambda result: result["seconds"], ".0f"),
    "CPU s": (lambda result: result["cpu_seconds"], ".0f"),
}
HEALTH: dict[str, tuple[RunValue, str]] = {
    "distinct": (lambda result: result["distinct_solutions"]["fresh"], ".2f"),
    "entropy": (lambda result: result["entropy"], ".3f"),
}


def write_page(study: Study, command: str) -> Path:
    """Write the page and its figures; `command` is what the page says it is made by. Returns the page's path."""
    results = {name: read_results(study, table) for name, table in study.tables.items()}
    parts = [
        "# The study",
        "SGPO, the paper's baselines and ablations on the [benchmark for strategies](../strategy-benchmark.md), by the "
        "[protocol](protocol.md), which was written before the runs. "
        f"This page is made by `{command} --page-only` from the JSON of each run in `{study.results}/`; what is in no "
        "table, nor in a note above one, was not run.",
        _progress(study, results),
    ]
    for name, table in study.tables.items():
        if results[name].finished:
            parts.append(_rates(study, name, table, results[name]) if table.rates else _table(study, name, results))
    write_text(study.page, "\n\n".join(parts) + "\n")
    return study.page


def _progress(study: Study, results: dict[str, TableResults]) -> str:
    rows = []
    for name, found in results.items():
        runs = found.finished.values()
        commits = sorted({str(result["git_commit"])[:8] for result in runs})
        times = sorted(result["started"] for result in runs)
        rows.append(
            [
                f"`{name}`",
                f"{len(runs)} of {len(found.planned)}",
                ", ".join(commits),
                f"{times[0]} to {times[-1]}" if times else "",
            ]
        )
    return "## What has been run\n" + _grid(["table", "runs finished", "commit", "started (UTC)"], rows)


def _table(study: Study, name: str, all_results: dict[str, TableResults]) -> str:
    table, results = study.tables[name], all_results[name]
    arms = [arm for arm in table.arms if results.by_replicate(arm, over_splits)]
    parts = [f"## `{name}`", *([table.note] if table.note else []), _means(arms, results, study.samples)]
    compared = table.compared or [study.compared]
    for ours in compared:
        others = [arm for arm in arms if arm != ours]
        if ours in arms and others:
            parts.append(_differences(ours, others, results))
    label = f"{name}: avg@4 on fresh problems"
    figures = draw_curves(arms, results, study.page.with_suffix("") / name, label=label, compared=compared)
    for figure in figures:
        where = os.path.relpath(figure, study.page.parent)
        parts.append(f"![Learning curves of {name}]({where})")
    return "\n\n".join(parts)


def _means(arms: Sequence[str], results: TableResults, samples: int) -> str:
    columns: dict[str, tuple[RunValue, str]] = {
        **{split: (average(split), ".3f") for split in SPLITS},
        "all six": (over_splits, ".3f"),
        f"pass@{samples}": (lambda result: result["scores"]["fresh"][f"pass@{samples}"], ".3f"),
        **HEALTH,
        **COSTS,
    }
    rows = []
    for arm in arms:
        count = len(results.by_replicate(arm, over_splits))
        values = [(results.mean(arm, value), form) for value, form in columns.values()]
        rows.append([arm, str(count), *("" if value is None else f"{value:{form}}" for value, form in values)])
    return (
        f"Means over replicates: avg@{samples} on every split; on fresh problems pass@{samples}, distinct right "
        "solutions of a problem, and entropy per token in nats; what training cost.\n\n"
        + _grid(["arm", "runs", *columns], rows)
    )


def _differences(ours: str, others: Sequence[str], results: TableResults) -> str:
    rows, verdicts = [], Counter[str]()
    for arm in others:
        cells = []
        for value in [*map(average, SPLITS), over_splits]:
            difference = difference_over_replicates(results.by_replicate(ours, value), results.by_replicate(arm, value))
            cells.append("" if difference is None else _cell(difference))
            counted = difference is not None and value is not over_splits  # no cell of its own: the mean of six
            verdicts.update([difference.verdict] if difference is not None and counted else [])
        rows.append([arm, *cells])
    counts = ", ".join(f"{verdict} in {verdicts[verdict]}" for verdict in ("ahead", "level", "behind", "open"))
    return (
        f"**`{ours}` minus each**, paired over replicates, 95 % intervals (paired t). Of {verdicts.total()} cells it "
        f"is {counts} (`open`: fewer than three pairs).\n\n" + _grid(["minus", *SPLITS, "all six"], rows)
    )


def _cell(difference: ReplicateMean) -> str:
    if difference.verdict == "open":
        return f"{difference.mean:+.3f} open"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] {difference.verdict}"


def _rates(study: Study, name: str, table: Table, results: TableResults) -> str:
    best = best_rates(study, table)
    rows = []
    for arm in table.arms:
        scores = {rate: results.by_replicate(arm, over_splits, rate=rate) for rate in table.rates}
        cells = [f"{sum(s.values()) / len(s):.3f}" if s else "" for s in scores.values()]
        rows.append([arm, *cells, f"{best[arm]:g}" if arm in best else "", f"{study.rates.get(arm, '')}"])
    return (
        f"## `{name}`\nMean of avg@{study.samples} over all splits of the *validation* problems, which no test split "
        "has, by learning rate; the same grid for every arm.\n\n"
        + _grid(["arm", *(f"{rate:g}" for rate in table.rates), "best", "used"], rows)
    )


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
