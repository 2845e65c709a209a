"""RunRecord directories -> one HTML file that needs nothing else: no network, no other file, no font. Or a picture."""

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
    compare_on_each_set,
    draw_forest,
    find_first_and_last,
    list_evaluations,
    tabulate_parts,
)
from sgpo.report.completions import (
    MAX_BYTES,
    MAX_PROBLEMS,
    VERDICTS,
    ProblemCard,
    RolloutSummary,
    encode_cards,
    read_completions,
    read_evaluation_cards,
)
from sgpo.report.facts import format_duration, group_commands, measure_phases, origin_facts, run_facts, split_options
from sgpo.report.flips import Cards, FlipTable, find_flips
from sgpo.report.lede import format_score, write_lede, write_title
from sgpo.report.plots import LIGHT, ForestRow, curves_figure, style
from sgpo.report.read import RunRecord, read_runs, shorten
from sgpo.report.strategies import measure_uplift
from sgpo.report.targets import read_targets
from sgpo.report.training import gather_alarms, learning_curve, list_scores, score_curves, training_sections

PROMPT_HEAD, PROMPT_TAIL = 12_000, 4_000  # characters of a prompt
MAX_STRATEGIES = 100  # per run; of more, the most and the least helpful are shown
ASSETS = Path(__file__).parent / "assets"
PICTURE_SIZE = (720.0, 380.0)
PIXELS_PER_UNIT = 2.0  # sharp on dense screens


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of one or several run directories.

    Args:
        runs: the run directories; the others are compared with the first.
        out: the HTML file, which is written whole or not at all; its directory is made if need be.

    Returns:
        `out`.

    Raises:
        InputError: there is no run, or `out` is a folder.
        RunDirectoryError: one of the runs is no run directory.
        OSError: `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{out}: a folder; name the HTML file to write, such as {out / 'report.html'}")
    html = render_report(read_runs(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
    return out


def save_picture(runs: Sequence[Path], path: Path, *, name: str | None = None) -> Path:
    """Draw the learning curves (avg@k) of run directories with their intervals, for a README or a slide.

    Args:
        runs: the run directories.
        path: the picture; its suffix says the format (`.png`, `.svg`, `.pdf`).
        name: the problem set, by default the one that the report leads with.

    Returns:
        `path`.

    Raises:
        InputError: there is no run, or none was evaluated on the problem set.
        RunDirectoryError: one of the runs is no run directory.
    """
    loaded = read_runs(runs)
    headline = choose_headline(loaded, name)
    if headline is None:
        where = "on any problem set" if name is None else f"on {name!r}"
        raise InputError(f"none of the runs was evaluated {where}: there is no learning curve to draw")
    curves, x_label = score_curves(loaded, headline.name, headline.metric)
    figure = curves_figure(
        curves,
        palette=LIGHT,
        size=PICTURE_SIZE,
        x_label=x_label,
        y_label=f"{headline.metric} on {headline.name}",
        percent=True,
        names=[run.name for run in loaded],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, dpi=72 * PIXELS_PER_UNIT, facecolor=LIGHT.paper)
    return path


def render_report(runs: Sequence[RunRecord]) -> str:
    """Render the page of runs that were read; reads their completions and targets."""
    completions = [read_completions(run) for run in runs]
    targets = [read_targets(run) for run in runs]
    headline = choose_headline(runs)
    names = list_evaluations(runs, headline)
    cards = {(index, name): read_evaluation_cards(run, name) for index, run in enumerate(runs) for name in names}
    flips = [table for name in names for table in find_flips(runs, name, cards)]
    # A problem set has learning curves where a run was evaluated on it twice.
    curved = [name for name in names if any(final.first is not final.last for final in find_first_and_last(runs, name))]
    sections, zero, missing = training_sections(runs)
    compared = compare_on_each_set(runs)
    timed = [(index, rows) for index, run in enumerate(runs) if (rows := measure_phases(run))]
    # A phase has the same colour in every run.
    timed_phases = dict.fromkeys(phase for _, rows in timed for phase, _, _ in rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "duration": format_duration, "counted": counted, "shorten": shorten}
    script = _read_asset("report.js")
    return environment.get_template("report.html").render(
        runs=runs,
        title=write_title(runs),
        style=Markup(_read_asset("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        headline=headline,
        scores=[_tabulate_scores(runs, name) for name in names],
        curves=[_draw_curves(runs, name) for name in curved],
        compared=compared,
        lede=write_lede(runs, names, compared),
        flips=flips,
        prompt_limits={"head": PROMPT_HEAD, "tail": PROMPT_TAIL},
        shown_prompts=[(index, found.shown_prompts) for index, found in enumerate(completions) if found.shown_prompts],
        contents=_list_contents(curved, flips, sections),
        facts=run_facts(runs),
        origin=origin_facts(runs),
        options=split_options(runs),
        sections=sections,
        zero=zero,
        missing=missing,
        phases=timed,
        phase_colours={phase: number % 6 + 1 for number, phase in enumerate(timed_phases)},
        alarmed=[(index, alarms) for index, run in enumerate(runs) if (alarms := gather_alarms(run))],
        verdicts=[_count_verdicts(run, found) for run, found in zip(runs, completions, strict=True)],
        targets=targets,
        scale_clip=next((target.kl_clip for found in targets for target in found.shown), 1.0),
        uplift=[_choose_strategies(run, found) for run, found in zip(runs, completions, strict=True)],
        commands=group_commands(runs),
        **_embed_completions(runs, completions, names, cards),
    )


def _read_asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _list_contents(curved: Sequence[str], flips: Sequence[FlipTable], sections: Sequence[Any]) -> list[tuple[str, str]]:
    """The sections that the page has: `(id, title)`."""
    some = (("curves", "Learning curves", curved), ("flips", "What flipped", flips), ("training", "Training", sections))
    return [
        ("overview", "Overview"),
        *((id_, title) for id_, title, content in some if content),
        ("time", "Time and verdicts"),
        ("targets", "Selected targets"),
        ("completions", "Completions"),
        ("strategies", "Strategies"),
        ("reproduce", "Reproduce"),
    ]


def _tabulate_scores(runs: Sequence[RunRecord], name: str) -> dict[str, Any]:
    """The last scores of every run on one problem set, and a forest plot of the first score where two runs have it."""
    finals, metrics = find_first_and_last(runs, name), list_scores(runs, name)
    rows = [
        ForestRow(label=runs[final.run].name, run=final.run, value=final.last.scores[metrics[0]])
        for final in finals
        if metrics[0] in final.last.scores
    ]
    label = f"Last {metrics[0]} on {name}, with 95 % intervals"
    plot = None
    if len(rows) > 1:
        plot = draw_forest(rows, name=f"forest-{name}", label=label, x_label=f"{metrics[0]}, percent", zero=False)
    return {"name": name, "metrics": metrics, "finals": finals, "forest": plot, "parts": tabulate_parts(finals)}


def _draw_curves(runs: Sequence[RunRecord], name: str) -> dict[str, Any]:
    """The learning curves of one problem set: the first score large, the others small."""
    first, *others = list_scores(runs, name)
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


def _count_verdicts(run: RunRecord, found: RolloutSummary) -> list[dict[str, Any]]:
    """Verdicts of training, by group, and of the last evaluations: `{"what", "total", "counts": [(kind, n)]}`."""
    sources = [(f"training, {group}", dict(found.verdicts[group])) for group in sorted(found.verdicts)]
    last = {evaluation.name: evaluation for evaluation in run.evaluations}
    sources += [(f"{name}, step {evaluation.step}", dict(evaluation.verdicts)) for name, evaluation in last.items()]
    rows = []
    for what, counts in sources:
        kinds = [*VERDICTS, *sorted(set(counts) - set(VERDICTS))]
        total = sum(counts.values())
        if total:
            rows.append({"what": what, "total": total, "counts": [(kind, counts.get(kind, 0)) for kind in kinds]})
    return rows


def _choose_strategies(run: RunRecord, found: RolloutSummary) -> dict[str, Any]:
    """The families' uplift and that of the best and worst strategies, with the prompt that shows each."""
    rows = measure_uplift(found.strategies)
    half = MAX_STRATEGIES // 2
    shown = rows if len(rows) <= MAX_STRATEGIES else rows[:half] + rows[-half:]
    return {
        "families": measure_uplift(found.families),
        "rows": shown,
        "left_out": len(rows) - len(shown),
        "total": len(rows),
        "prompts": found.prompts,
        "strategies": run.strategies,
    }


def _embed_completions(
    runs: Sequence[RunRecord], completions: Sequence[RolloutSummary], names: Sequence[str], evaluated: Cards
) -> dict[str, Any]:
    """The completions to read, as the JSON that the page's script draws, and notes on those left out."""
    # Every run has a source for its training and one for each problem set.
    labels: list[tuple[int, str]] = []
    sources: list[Sequence[ProblemCard]] = []
    totals: list[int] = []
    for index, found in enumerate(completions):
        labels.append((index, "training"))
        sources.append(found.cards)
        totals.append(found.problems)
        for name in names:
            labels.append((index, name))
            sources.append(evaluated[index, name])
            totals.append(len(evaluated[index, name]))
    held = encode_cards(sources)
    parts, notes = [], []
    for (index, source), texts, total in zip(labels, held, totals, strict=True):
        if not texts:
            continue
        parts.append(f'{{"run":{index},"source":{json.dumps(source, ensure_ascii=False)},"cards":[{",".join(texts)}]}}')
        if len(texts) < total:
            notes.append(f"{runs[index].name}, {source}: {len(texts):,} of {counted(total, 'problem')} held here")
    return {
        "browser": Markup(_escape_json("[" + ",".join(parts) + "]")) if parts else None,
        "browser_notes": notes,
        "limits": {"problems": MAX_PROBLEMS, "megabytes": MAX_BYTES / 1e6},
    }


def _escape_json(text: str) -> str:
    """Escape JSON text so that it cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
