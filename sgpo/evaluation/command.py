"""What `sgpo eval` does: a model or an endpoint, problem sets, every completion kept, scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.evaluation.output import EvalOutput, completion_row, score_rows
from sgpo.evaluation.sampling import Answer, Request, Source, build_requests
from sgpo.evaluation.store import EvaluationStore
from sgpo.problems import Problem
from sgpo.prompts import prompt_style
from sgpo.rollouts.engine import Sampling
from sgpo.verifier import Verdict, Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """Problems under a name (of the benchmark or the file), each to be answered `samples` times."""

    name: str
    problems: Sequence[Problem]
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """What two evaluations must share for one to go on with the other's completions."""

    model: str
    engine: str
    base_url: str | None
    prompt: str  # name and version of the style
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    revision: str | None = None  # of the model, as `model_revision` gives it; an endpoint does not tell

    def __post_init__(self) -> None:
        self.sampling(self.max_tokens)

    def sampling(self, max_tokens: int) -> Sampling:
        """Raises InputError for an option out of its range."""
        return Sampling(max_tokens=max_tokens, temperature=self.temperature, top_p=self.top_p)


def evaluate_sets(
    build_source: Callable[[], Source],
    sets: Sequence[ProblemSet],
    settings: EvalSettings,
    *,
    style: str,
    out: Path | None,
) -> tuple[dict[str, EvalOutput], list[str]]:
    """Sample what is missing, judge and score; with `out`, keep everything there as it comes.

    Returns the output of each set that has answers, and what went wrong with single completions. Raises InputError for
    an `out` that holds something else, for a source that answers nothing, and where no problem has all its samples.
    """
    problems = {each.name: each.problems for each in sets}
    store = EvaluationStore(out, asdict(settings), problems) if out is not None else None
    source = build_source()
    outputs: dict[str, EvalOutput] = {}
    failures: list[str] = []
    with Verifier() as verifier:
        for each in sets:
            rows = store.rows(each.name) if store else []
            requests = build_requests(each.problems, samples=each.samples, style=style, seed=settings.seed)
            limit = source.token_limit([request.prompt for request in requests], settings.max_tokens)
            there = {(row["problem_id"], row["sample"]) for row in rows}
            missing = [request for request in requests if (request.problem.id, request.number) not in there]
            failures += _sample(source, missing, settings.sampling(limit), verifier, rows, store, each.name)
            if failures and not rows:
                if outputs:
                    continue  # what the other sets have is shown
                raise InputError(f"{each.name}: nothing was answered; {failures[0]}")
            output = score_rows(each.problems, rows, verifier, samples=each.samples, seed=settings.seed)
            outputs[each.name] = output
            if store:
                header = {"name": each.name, "step": 0, "completions": 0, "max_tokens": _limit(rows, limit)}
                store.write_scores(each.name, {**header, **output.to_json(), "samples": output.samples})
    return outputs, failures


def style_of(model: str, given: str | None) -> str:
    """The prompt style: the one given, else that which a run directory was trained with, else `math`.

    Raises InputError for an unknown style.
    """
    return prompt_style(given or _style_of_run(model) or "math").name


def _sample(
    source: Source,
    missing: Sequence[Request],
    sampling: Sampling,
    verifier: Verifier,
    rows: list[dict[str, Any]],
    store: EvaluationStore | None,
    name: str,
) -> list[str]:
    """Add the judged answers to `rows` and to the store, as they come."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=len(missing))

        def keep(answers: Sequence[Answer]) -> None:
            verdicts = verifier.verify_many([(answer.text, answer.request.problem) for answer in answers])
            judged = [_row(answer, verdict) for answer, verdict in zip(answers, verdicts, strict=True)]
            rows.extend(judged)
            if store:
                store.append(name, judged)
            progress.advance(task, len(answers))

        return source.sample(missing, sampling, keep) if missing else []


def _row(answer: Answer, verdict: Verdict) -> dict[str, Any]:
    row = completion_row(
        answer.request.problem,
        answer.request.number,
        verdict,
        prompt=answer.request.prompt,
        completion=answer.text,
        tokens=answer.tokens,
        truncated=answer.truncated,
    )
    return {**row, "max_tokens": answer.max_tokens, "left_to_server": answer.left_to_server}


def _limit(rows: Sequence[Mapping[str, Any]], asked: int) -> int | None:
    """The most tokens that any completion was allowed; None where one was asked for without a limit."""
    limits = [row.get("max_tokens", asked) for row in rows]
    return None if None in limits else max(limits)


def _style_of_run(model: str) -> str | None:
    """The prompt style that a run directory was trained with."""
    file = Path(model) / "config.json"
    config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    prompts = config.get("prompts")
    return prompts["style"] if isinstance(prompts, dict) else None
