"""What training logged: learning curves over completions sampled, metrics over steps, and alarms, each kind once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sgpo.report.plots import PAGE, STROKES, Curve, curves_figure, short_number, thin, to_svg
from sgpo.report.read import EvaluationRecord, Measurement, RunRecord, count_of, number_of, series, text_of

WIDE, NARROW, SMALL = (720.0, 340.0), (340.0, 270.0), (340.0, 210.0)  # width and height in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A plot of one to three metrics over the steps, drawn solid, dashed and dotted (`STROKES`).

    `keys` are pairs of a metric and its label. Metrics of the warm-up come from its own file.
    """

    title: str
    caption: str
    keys: Sequence[tuple[str, str]]
    percent: bool = False
    of_warmup: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn plot.

    `narrow` is a second drawing for small screens; `lines` are `(label, stroke)` of a plot with several kinds of lines.
    """

    title: str
    caption: str
    svg: Markup
    narrow: Markup | None = None
    lines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSummary:
    """A kind of alarm: what it said when it was first raised, how often it was raised, and when last.

    `numbers` is the value that raised it and its threshold, as far as the run says them: `value 0.02, threshold 0.1`.
    """

    kind: str
    message: str
    numbers: str
    count: int
    first_step: int | None
    last_step: int | None


SECTIONS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "What the policy solves",
        (
            Panel(
                title="Pass rates",
                caption="Fraction of right completions per step, autonomous and with the strategy in the prompt. "
                "The gap between the two is what there is to learn.",
                keys=(("pass_rate/autonomous", "autonomous"), ("pass_rate/guided", "guided")),
                percent=True,
            ),
            Panel(
                title="Groups without a gradient",
                caption="Fraction of problems whose autonomous completions all failed, or all passed: "
                "either way their advantages are zero.",
                keys=(("groups/all_fail", "all fail"), ("groups/all_pass", "all pass")),
                percent=True,
            ),
            Panel(
                title="Problems with a target",
                caption="Fraction of problems with a correct guided completion to learn from.",
                keys=(("targets/fraction", "fraction"),),
                percent=True,
            ),
            Panel(
                title="Distillation weight",
                caption="Mean weight over problems; it falls as the autonomous pass rate rises.",
                keys=(("distill_weight", "weight"),),
            ),
        ),
    ),
    (
        "How far guidance reaches",
        (
            Panel(
                title="Divergence",
                caption="Mean over target tokens of KL(guided ‖ unguided) in nats, after and before clipping.",
                keys=(("divergence/clipped_mean", "after clipping"), ("divergence/mean", "before")),
            ),
            Panel(
                title="Clipped tokens",
                caption="Fraction of target tokens above the clip: the decisions that the strategy is about.",
                keys=(("divergence/clipped_fraction", "fraction"),),
                percent=True,
            ),
            Panel(
                title="Loss",
                caption="By component, before its coefficient.",
                keys=(
                    ("loss/policy", "policy"),
                    ("loss/distill", "divergence"),
                    ("loss/cross_entropy", "cross-entropy"),
                ),
            ),
        ),
    ),
    (
        "Health",
        (
            Panel(
                title="Entropy",
                caption="Mean entropy per token in nats. A sudden fall is a collapse.",
                keys=(("entropy", "entropy"),),
            ),
            Panel(
                title="Completion length",
                caption="Mean tokens per completion.",
                keys=(("completion_length/autonomous", "autonomous"), ("completion_length/guided", "guided")),
            ),
            Panel(
                title="Cut off",
                caption="Fraction of completions that reached the length limit.",
                keys=(("truncated/autonomous", "autonomous"), ("truncated/guided", "guided")),
                percent=True,
            ),
            Panel(
                title="Distinct answers",
                caption="Mean number of different answers within a group: what is left of exploration.",
                keys=(("distinct_answers", "answers"),),
            ),
            Panel(
                title="Not judged",
                caption="Completions without a readable answer, and those whose judging timed out.",
                keys=(("verdicts/unparsed", "unparsed"), ("verdicts/timeout", "timeout")),
            ),
            Panel(
                title="Clipped ratios",
                caption="Fraction of tokens whose probability had moved beyond the clip range since they were sampled.",
                keys=(("clipped_fraction", "fraction"),),
                percent=True,
            ),
            Panel(
                title="Gradient norm",
                caption="Before clipping.",
                keys=(("grad_norm", "norm"),),
            ),
            Panel(
                title="Learning rate",
                caption="As scheduled.",
                keys=(("learning_rate", "rate"),),
            ),
            Panel(
                title="Throughput",
                caption="Tokens sampled per second.",
                keys=(("tokens_per_second", "tokens/s"),),
            ),
        ),
    ),
    (
        "Warm-up",
        (
            Panel(
                title="Warm-up loss",
                caption="Mean cross-entropy per token of the solutions, in nats.",
                keys=(("loss", "loss"),),
                of_warmup=True,
            ),
            Panel(
                title="Token accuracy",
                caption="Fraction of the solutions' tokens that the policy finds most likely.",
                keys=(("mean_token_accuracy", "fraction"),),
                percent=True,
                of_warmup=True,
            ),
        ),
    ),
)


def training_sections(runs: Sequence[RunRecord]) -> tuple[list[tuple[str, list[Plot]]], list[str], list[str]]:
    """Draw the plots of every section.

    Returns:
        sections: `(title, plots)` of those that have a plot.
        zero: the titles of plots that would show nothing but zeros.
        missing: the titles of plots for which no run logged a metric. Plots of the warm-up do not count (many runs have
            none), nor does any plot while no run has logged a row.
    """
    sections, zero, missing = [], [], []
    trained = any(run.metrics for run in runs)
    for title, panels in SECTIONS:
        plots = []
        for panel in panels:
            curves = _panel_curves(panel, runs)
            # A plot is drawn where anything happened; the page names the others in a line.
            if any(value.mean for curve in curves for _, value in curve.points):
                plots.append(_draw_panel(panel, curves))
            elif curves:
                zero.append(panel.title)
            elif trained and not panel.of_warmup:
                missing.append(panel.title)
        if plots:
            sections.append((title, plots))
    return sections, zero, missing


def learning_curve(runs: Sequence[RunRecord], name: str, metric: str, *, large: bool) -> Plot | None:
    """Draw `score_curves`, None where there are none; a large plot has a second drawing for small screens."""
    curves, x_label = score_curves(runs, name, metric)
    if not curves:
        return None

    def draw(size: tuple[float, float], suffix: str) -> Markup:
        figure = curves_figure(curves, palette=PAGE, size=size, x_label=x_label, percent=True)
        label = f"{metric} on {name} over {x_label}"
        return Markup(to_svg(figure, name=f"{name}-{metric}-{suffix}", label=label, curves=curves, percent=True))

    return Plot(
        title=metric,
        caption="",
        svg=draw(WIDE if large else SMALL, "wide"),
        narrow=draw(NARROW, "narrow") if large else None,
    )


def score_curves(runs: Sequence[RunRecord], name: str, metric: str) -> tuple[list[Curve], str]:
    """The learning curves of one score, and what their axis counts.

    Args:
        runs: the runs.
        name: the problem set that they were evaluated on.
        metric: the score, such as `avg@4`.

    Returns:
        curves: one for each run with such an evaluation, over the completions that training had sampled by then.
        x_label: what the axis counts: steps, where an evaluation does not say how many completions there were.
    """
    having = [[one for one in run.evaluations if one.name == name and metric in one.scores] for run in runs]
    over_steps = any(one.completions is None for evaluations in having for one in evaluations)
    curves = [
        Curve(
            run=index,
            points=[(_x(one, over_steps), one.scores[metric]) for one in evaluations],
            markers=True,
            label=runs[index].name,
        )
        for index, evaluations in enumerate(having)
        if evaluations
    ]
    return curves, "steps" if over_steps else "completions sampled"


def list_scores(runs: Iterable[RunRecord], name: str) -> list[str]:
    """The score keys of the evaluations `name` in the order avg, pass, maj and by k; without pass@1, which is avg@k."""
    keys = {
        key for run in runs for evaluation in run.evaluations if evaluation.name == name for key in evaluation.scores
    }
    if any(key.startswith("avg@") for key in keys):
        keys.discard("pass@1")
    order = ("avg", "pass", "maj")
    return sorted(keys, key=lambda key: (order.index(key.split("@")[0]), int(key.split("@")[1])))


def gather_alarms(run: RunRecord) -> list[AlarmSummary]:
    """Summarize the alarms of a run by kind, in the order in which they were first raised."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in run.alarms:
        by_kind.setdefault(text_of(row, "alarm") or "alarm", []).append(row)
    return [
        AlarmSummary(
            kind=kind,
            message=text_of(rows[0], "message"),
            numbers=", ".join(
                f"{key} {short_number(number)}"
                for key in ("value", "threshold")
                if (number := number_of(rows[0], key)) is not None
            ),
            count=len(rows),
            first_step=count_of(rows[0], "step"),
            last_step=count_of(rows[-1], "step"),
        )
        for kind, rows in by_kind.items()
    ]


def _x(evaluation: EvaluationRecord, over_steps: bool) -> float:
    return float(evaluation.step if over_steps or evaluation.completions is None else evaluation.completions)


def _panel_curves(panel: Panel, runs: Sequence[RunRecord]) -> list[Curve]:
    """One curve for each metric of the panel and each run that logged it."""
    curves = []
    for (key, label), stroke in zip(panel.keys, STROKES, strict=False):
        for index, run in enumerate(runs):
            if points := series(run.warmup if panel.of_warmup else run.metrics, key):
                intervals = [(x, Measurement(value, math.nan, math.nan)) for x, value in thin(points)]
                named = f"{run.name}, {label}" if len(runs) > 1 else label
                curves.append(Curve(run=index, points=intervals, stroke=stroke, label=named))
    return curves


def _draw_panel(panel: Panel, curves: Sequence[Curve]) -> Plot:
    strokes = {curve.stroke for curve in curves}
    lines = [(label, stroke) for (_, label), stroke in zip(panel.keys, STROKES, strict=False) if stroke in strokes]
    figure = curves_figure(curves, palette=PAGE, size=SMALL, x_label="step", percent=panel.percent)
    label = f"{panel.title} over steps: {', '.join(label for label, _ in lines)}"
    svg = Markup(to_svg(figure, name=panel.title, label=label, curves=curves, percent=panel.percent))
    return Plot(title=panel.title, caption=panel.caption, svg=svg, lines=lines if len(panel.keys) > 1 else ())
