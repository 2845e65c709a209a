"""Run directories -> one HTML file that needs nothing else: no network, no other file, no font."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sgpo.errors import InputError
from sgpo.io import counted, write_text
from sgpo.report.compare import (
    choose_headline,
    compare,
    evaluation_names,
    final_scores,
    forest,
    lede,
    part_tables,
    points,
    title,
)
from sgpo.report.completions import (
    MAX_BYTES,
    MAX_PROBLEMS,
    VERDICTS,
    Completions,
    encode_cards,
    read_completions,
    read_evaluation_cards,
)
from sgpo.report.facts import commands, duration, options_table, origin_facts, phases, run_facts
from sgpo.report.plots import Estimate
from sgpo.report.read import Run, read_runs
from sgpo.report.strategies import Uplift, measure_uplift
from sgpo.report.targets import read_targets
from sgpo.report.training import gather_alarms, learning_curve, metrics_of, training_sections

MAX_STRATEGIES = 100


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of one or several run directories (the first is what the others are compared with) to `out`.

    Raises InputError where a path is no run directory, or `out` is a folder. `out` is written whole or not at all.
    """
    if out.is_dir():
        raise InputError(f"{out}: a folder; name the HTML file to write, such as {out / 'report.html'}")
    html = render_report(read_runs(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
    return out


def render_report(runs: Sequence[Run]) -> str:
    """The page of runs that were read. Reads their completions and targets."""
    completions = [read_completions(run) for run in runs]
    targets = [read_targets(run) for run in runs]
    headline = choose_headline(runs)
    names = evaluation_names(runs, headline)
    curved = [name for name in names if any(final.first is not final.evaluation for final in final_scores(runs, name))]
    sections, zero, missing = training_sections(runs)
    compared = compare(runs)
    timed = [(index, rows) for index, run in enumerate(runs) if (rows := phases(run))]
    timed_phases = dict.fromkeys(phase for _, rows in timed for phase, _, _ in rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sgpo.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": points, "duration": duration, "counted": counted}
    script = _asset("report.js")
    return environment.get_template("report.html").render(
        runs=runs,
        title=title(runs),
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        headline=headline,
        scores=[_score_table(runs, name) for name in names],
        curves=[_curves(runs, name) for name in curved],
        compared=compared,
        lede=lede(runs, headline, compared.get(headline.name) if headline else None),
        contents=_contents(curved, sections),
        facts=run_facts(runs),
        origin=origin_facts(runs),
        options=options_table(runs),
        sections=sections,
        zero=zero,
        missing=missing,
        phases=timed,
        phase_colours={phase: number % 6 + 1 for number, phase in enumerate(timed_phases)},
        alarmed=[(index, alarms) for index, run in enumerate(runs) if (alarms := gather_alarms(run))],
        verdicts=[_verdict_rows(run, found) for run, found in zip(runs, completions, strict=True)],
        targets=targets,
        scale_clip=next((target.kl_clip for found in targets for target in found.shown), 1.0),
        uplift=[_uplift(run, found) for run, found in zip(runs, completions, strict=True)],
        commands=commands(runs),
        **_browser(runs, completions, names),
    )


def _contents(curved: Sequence[str], sections: Sequence[Any]) -> list[tuple[str, str]]:
    entries = [("overview", "Overview")]
    if curved:
        entries.append(("curves", "Learning curves"))
    if sections:
        entries.append(("training", "Training"))
    return [
        *entries,
        ("time", "Time and verdicts"),
        ("targets", "Selected targets"),
        ("completions", "Completions"),
        ("strategies", "Strategies"),
        ("reproduce", "Reproduce"),
    ]


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _safe(text: str) -> str:
    """JSON text that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _score_table(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """The last scores of every run on one problem set, and a forest plot of the first score."""
    finals, metrics = final_scores(runs, name), metrics_of(runs, name)
    estimates = [
        Estimate(label=runs[final.run].name, run=final.run, value=final.evaluation.scores[metrics[0]])
        for final in finals
        if metrics[0] in final.evaluation.scores
    ]
    label = f"Last {metrics[0]} on {name}, with 95 % intervals"
    plot = None
    if len(estimates) > 1:
        plot = forest(estimates, name=f"forest-{name}", label=label, x_label=f"{metrics[0]}, percent", zero=False)
    return {"name": name, "metrics": metrics, "finals": finals, "forest": plot, "parts": part_tables(finals)}


def _curves(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """The learning curves of one problem set: the first score large, the others small."""
    first, *others = metrics_of(runs, name)
    plots = [learning_curve(runs, name, metric, large=False) for metric in others]
    return {
        "name": name,
        "metric": first,
        "large": learning_curve(runs, name, first, large=True),
        "small": [plot for plot in plots if plot is not None],
        "rows": [
            (index, evaluation)
            for index, run in enumerate(runs)
            for evaluation in run.evaluations
            if evaluation.name == name
        ],
    }


def _verdict_rows(run: Run, found: Completions) -> list[dict[str, Any]]:
    """Verdict counts of training, by group, and of the last evaluations: `{"what", "total", "counts": [(kind, n)]}`."""
    counted = [(f"training, {group}", dict(found.verdicts[group])) for group in sorted(found.verdicts)]
    last = {evaluation.name: evaluation for evaluation in run.evaluations}
    counted += [(f"{name}, step {evaluation.step}", dict(evaluation.verdicts)) for name, evaluation in last.items()]
    rows = []
    for what, counts in counted:
        kinds = [*VERDICTS, *sorted(set(counts) - set(VERDICTS))]
        total = sum(counts.values())
        if total:
            rows.append({"what": what, "total": total, "counts": [(kind, counts.get(kind, 0)) for kind in kinds]})
    return rows


def _uplift(run: Run, found: Completions) -> dict[str, Any]:
    """The families' uplift and that of the best and worst strategies, with the prompt that shows each."""
    rows = measure_uplift(found.strategies)
    half = MAX_STRATEGIES // 2
    shown = rows if len(rows) <= MAX_STRATEGIES else rows[:half] + rows[-half:]
    families: list[Uplift] = measure_uplift(found.families)
    return {
        "families": families,
        "rows": shown,
        "left_out": len(rows) - len(shown),
        "total": len(rows),
        "prompts": found.prompts,
        "strategies": run.strategies,
    }


def _browser(runs: Sequence[Run], completions: Sequence[Completions], names: Sequence[str]) -> dict[str, Any]:
    """The completions to read, as the JSON that the page's script draws, and what was left out of them."""
    labels, sources, totals = [], [], []
    for index, (run, found) in enumerate(zip(runs, completions, strict=True)):
        labels.append((index, "training"))
        sources.append(found.cards)
        totals.append(found.problems)
        for name in names:
            cards = read_evaluation_cards(run, name)
            labels.append((index, name))
            sources.append(cards)
            totals.append(len(cards))
    kept = encode_cards(sources)
    parts, notes = [], []
    for (index, source), texts, total in zip(labels, kept, totals, strict=True):
        if not texts:
            continue
        parts.append(f'{{"run":{index},"source":{_json(source)},"cards":[{",".join(texts)}]}}')
        if len(texts) < total:
            notes.append(f"{runs[index].name}, {source}: {len(texts):,} of {counted(total, 'problem')} held here")
    return {
        "browser": Markup(_safe("[" + ",".join(parts) + "]")) if parts else None,
        "browser_notes": notes,
        "limits": {"problems": MAX_PROBLEMS, "megabytes": MAX_BYTES / 1e6},
    }
