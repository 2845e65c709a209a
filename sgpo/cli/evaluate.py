"""The commands `sgpo eval` and `sgpo score`. Heavy imports are inside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sgpo.cli.common import (
    KIND_HELP,
    AsJson,
    PromptsFrom,
    find_prompts,
    known_benchmarks,
    one_line_errors,
    print_json,
    say_prompts,
    work_on_stderr,
)
from sgpo.errors import EndpointError, InputError
from sgpo.io import counted, holding

if TYPE_CHECKING:
    from rich.console import Console

    from sgpo.evaluation.evaluate import Keep, Request, SampledCompletion, Source
    from sgpo.evaluation.scores import EvaluationResult
    from sgpo.evaluation.store import EvaluationSettings
    from sgpo.problems import Problem
    from sgpo.prompts import SavedPrompts
    from sgpo.rollouts.engine import Sampling

SAMPLES, MAX_TOKENS = 4, 2048  # for a problem file; a benchmark brings its own
# vLLM batches for itself and is busy as long as more completions wait than it can hold (1,024 by its largest default);
# what is handed to it at once is kept at once, so a killed run loses no more than that.
BATCH_SIZES = {"hf": 64, "vllm": 4096}
SHOWN_FAILURES = 3


class EngineName(StrEnum):
    hf = "hf"
    vllm = "vllm"
    openai = "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """Problems under the name of their benchmark or file, each to be completed `samples` times."""

    name: str
    problems: Sequence[Problem]
    samples: int


@one_line_errors
def eval_(
    model: Annotated[
        str, typer.Option(help="The model: a path, hub id or run directory; with openai, the name it is served by.")
    ],
    problems: Annotated[Path | None, typer.Option(help="The problem file to evaluate on.")] = None,
    kind: Annotated[str | None, typer.Option(help=KIND_HELP)] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="The benchmarks to evaluate on in place of a file, separated by commas: math500, amc23, "
            "olympiadbench, aime24, aime25, minerva, gsm8k, strategies."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder with the benchmarks' files; without it they come from the hub.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Completions per problem, the k of avg@k; 4 for a file, each benchmark's own k otherwise."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.6,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that hold this probability together.")
    ] = 0.95,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cut completions off at this many tokens; a model that was trained here brings its limit, for others "
            "it is 2048 for a file, 32768 for benchmarks.",
        ),
    ] = None,
    prompt_style: Annotated[
        str | None,
        typer.Option(help="Prompt style, from sgpo/prompts.py; models trained here bring their own, others get math."),
    ] = None,
    prompts_from: PromptsFrom = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling and of the intervals.")] = 0,
    engine: Annotated[
        EngineName, typer.Option(help="hf and vllm load the model here; openai asks an endpoint.")
    ] = EngineName.hf,
    base_url: Annotated[
        str | None, typer.Option(help="The endpoint's address for openai, such as http://localhost:8000/v1.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Completions that are sampled, then kept, at once; 64 for hf, 4096 for vllm. It changes memory and "
            "speed, not the result.",
        ),
    ] = None,
    vllm_gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Fraction of a GPU's memory that vllm takes; vLLM's default if not given.")
    ] = None,
    vllm_tensor_parallel_size: Annotated[
        int | None,
        typer.Option(min=1, help="Spread one copy of the model over this many GPUs with vllm; 1 if not given."),
    ] = None,
    vllm_max_model_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Let prompt and completion together have this many tokens with vllm; the model's context "
            "if not given.",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Keep this many requests to openai under way at once.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep every completion and the scores in this directory, and resume what is there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a problem file or on benchmarks: several samples from autonomous prompts, with 95 % intervals.

    With --out a killed evaluation resumes: the same command samples only what is missing.

    Where an endpoint fails for some problems, the others are scored, and the exit code is 1.

    \b
    Examples:
    sgpo eval --model runs/quickstart/sgpo --problems runs/quickstart/fresh.jsonl
    sgpo eval --model Qwen/Qwen2.5-1.5B --benchmarks math500,amc23 --data-dir DIR --out runs/eval-1.5b
    """
    with work_on_stderr() as output:
        from sgpo.endpoint import address_of
        from sgpo.evaluation.benchmarks import MAX_TOKENS as BENCHMARK_TOKENS
        from sgpo.evaluation.store import EvaluationSettings
        from sgpo.rollouts.models import model_revision

        sets = problem_sets(problems, benchmarks, data_dir, samples, kind)
        served = engine is EngineName.openai
        prompts = find_prompts(None if served else model, prompts_from, prompt_style)
        settings = EvaluationSettings(
            model=model,
            engine=engine.value,
            base_url=base_url and address_of(base_url),
            prompt=prompts.style.title,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens or prompts.max_completion_length or (BENCHMARK_TOKENS if benchmarks else MAX_TOKENS),
            seed=seed,
            chat=None if served else prompts.chat,  # a server has a template of its own
        )
        vllm = {
            "gpu_memory_utilization": vllm_gpu_memory_utilization,
            "tensor_parallel_size": vllm_tensor_parallel_size,
            "max_model_len": vllm_max_model_length,
        }
        vllm_options = {name: value for name, value in vllm.items() if value is not None}
        build_source = completion_source(engine, model, base_url, batch_size, concurrency, vllm_options)
        if prompts_from is not None:
            build_source = with_chat(build_source, prompts)
        if out is not None and not served:
            settings = replace(settings, revision=model_revision(model))
        if temperature == 0 and (most := max(each.samples for each in sets)) > 1:
            print(
                f"warning: --temperature 0 makes {most} copies of one completion; --samples 1 says as much",
                file=sys.stderr,
            )
        with holding(out) if out is not None else nullcontext():
            results, failures = _evaluate_sets(build_source, sets, settings, prompts, out=out)
    for failure in failures[:SHOWN_FAILURES]:
        print(f"failed: {failure}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"failed: {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)
    if as_json:
        documents = {name: each.summary() for name, each in results.items()}
        print_json(documents if len(sets) > 1 else next(iter(documents.values())), output)
    else:
        for name, each in results.items():
            _show(each, title=f"{model} on {problems or name}")
    missing = sum(len(results[each.name].missing if each.name in results else each.problems) for each in sets)
    if missing:
        again = f"; the same command with --out {out} asks for them again" if out else ""
        print(f"error: incomplete, missing an answer: {counted(missing, 'problem')}{again}", file=sys.stderr)
        raise typer.Exit(1)


@one_line_errors
def score(
    completions: Annotated[
        Path, typer.Option(help="JSON Lines with `id` and `completion`; several rows of one id are its samples.")
    ],
    problems: Annotated[Path, typer.Option(help="The problem file that they answer.")],
    kind: Annotated[str, typer.Option(help=KIND_HELP)] = "math",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Score this many samples of each problem, the first ones; without it all must have as many."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Judge and score completions that exist already, from any model or program.

    Where problems of the file have no completions, the others are scored, and the exit code is 1.

    \b
    Example:
    sgpo score --completions runs/quickstart/sgpo/eval/fresh-step-000120.jsonl --problems runs/quickstart/fresh.jsonl
    """
    with work_on_stderr() as output:
        from sgpo.evaluation.evaluate import score_file

        result = score_file(completions, problems, samples=samples, seed=seed, kind=kind)
    print_json(result.summary(), output) if as_json else _show(result, title=f"{completions} on {problems}")
    if missing := len(result.missing):
        print(f"error: incomplete, without its completions: {counted(missing, 'problem')}", file=sys.stderr)
        raise typer.Exit(1)


def problem_sets(
    problems: Path | None, benchmarks: str | None, data_dir: Path | None, samples: int | None, kind: str | None = None
) -> list[ProblemSet]:
    """The problem file, or the benchmarks.

    Raises:
        InputError: Both or neither are given.
    """
    from sgpo.evaluation.benchmarks import benchmark_names, load_benchmark
    from sgpo.problems import load_problems

    if (problems is None) == (benchmarks is None):
        raise InputError("give either --problems FILE or --benchmarks NAMES")
    if benchmarks is not None and kind is not None:
        raise InputError("--kind is for --problems alone; benchmarks have theirs")
    if benchmarks is not None:
        known = known_benchmarks()
        return [
            ProblemSet(name=name, problems=load_benchmark(name, data_dir), samples=samples or known[name].k)
            for name in benchmark_names(benchmarks)
        ]
    assert problems is not None
    return [
        ProblemSet(
            name=problems.stem, problems=load_problems(problems, kind=kind or "math"), samples=samples or SAMPLES
        )
    ]


def completion_source(
    engine: EngineName,
    model: str,
    base_url: str | None,
    batch_size: int | None,
    concurrency: int,
    vllm_options: dict[str, Any],
) -> Callable[[], Source]:
    """Where completions come from; the model is loaded when it is called, after every check of the options."""
    if (engine is EngineName.openai) != (base_url is not None):
        raise InputError("--engine openai needs --base-url, and no other engine takes it")
    if vllm_options and engine is not EngineName.vllm:
        raise InputError("the options --vllm-... are for --engine vllm alone")
    if base_url is not None:
        from sgpo.evaluation.endpoint import EndpointSource

        return partial(EndpointSource, base_url, model, concurrency=concurrency)
    from sgpo.evaluation.evaluate import load_source

    if engine is EngineName.vllm:
        from sgpo.rollouts.vllm import check_vllm

        check_vllm()
    name: Literal["hf", "vllm"] = "vllm" if engine is EngineName.vllm else "hf"
    return partial(
        load_source, model, engine=name, batch_size=batch_size or BATCH_SIZES[name], vllm_options=vllm_options
    )


def with_chat(build_source: Callable[[], Source], prompts: SavedPrompts) -> Callable[[], Source]:
    """A source whose chat template gets the system prompt and the variables of `prompts`; a server keeps its own.

    Raises:
        InputError: As `shape_chat_template`, when it is called.
    """

    def build() -> Source:
        from sgpo.evaluation.evaluate import EngineSource
        from sgpo.rollouts.models import shape_chat_template

        source = build_source()
        if isinstance(source, EngineSource):
            shape_chat_template(
                source.tokenizer, template_kwargs=prompts.chat_template_kwargs, system_prompt=prompts.system_prompt
            )
        return source

    return build


def _evaluate_sets(
    build_source: Callable[[], Source],
    sets: Sequence[ProblemSet],
    settings: EvaluationSettings,
    prompts: SavedPrompts,
    *,
    out: Path | None,
) -> tuple[dict[str, EvaluationResult], list[str]]:
    """The result of each set that was answered, and what went wrong with single completions."""
    from sgpo.evaluation.evaluate import evaluate
    from sgpo.evaluation.store import EvaluationStore
    from sgpo.verifier import Verifier

    store = EvaluationStore(out, settings, {each.name: each.problems for each in sets}, prompts.style)
    results: dict[str, EvaluationResult] = {}
    failures: list[str] = []
    with Verifier() as verifier:
        for each in sets:
            verifier.check_problems(each.problems)
        source = build_source()
        say_prompts(prompts, settings.max_tokens)
        for each in sets:
            try:
                result = evaluate(
                    each.problems,
                    ShownSource(source, each.name),
                    verifier,
                    settings.sampling(),
                    samples=each.samples,
                    style=prompts.style,
                    seed=settings.seed,
                    kept=store.completions(each.name),
                )
            except EndpointError as error:
                if not results:
                    raise EndpointError(f"{each.name}: {error}") from None
                failures.append(f"{each.name}: {error}")  # the scores of the other sets are shown
                continue
            results[each.name] = result
            failures += result.failures
            header = {"name": each.name, "step": 0, "completions": 0, "max_tokens": result.max_tokens}
            store.write_scores(each.name, {**header, **result.summary(), "samples": result.samples})
    return results, failures


@dataclass(frozen=True, slots=True)
class ShownSource:
    """A source whose progress is shown on standard error."""

    source: Source
    name: str

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        return self.source.token_limit(prompts, max_tokens)

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(self.name, total=len(requests))

            def keep_and_show(sampled: Sequence[SampledCompletion]) -> None:
                keep(sampled)
                progress.advance(task, len(sampled))

            return self.source.sample(requests, sampling, keep_and_show)


def _show(result: EvaluationResult, *, title: str) -> None:
    """Print tables. A score that lacks problems says so in the title and in every line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, scores, missing = Console(), result.scores, len(result.missing)
    total = scores["problems"] + missing
    whole = "" if not missing else f"\nINCOMPLETE: {missing} of {counted(total, 'problem')} missing"
    table = Table("score", "mean", "95 % interval", title=escape(title) + whole)
    of = f" of {scores['problems']}/{total}" if missing else ""
    for name, value in scores.items():
        if isinstance(value, dict) and "mean" in value:
            table.add_row(name + of, f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    console.print(table)
    for part in ("subjects", "levels"):
        if len(result.details[part]) > 1:
            _show_parts(result.details[part], part, console)
    verdicts = ", ".join(f"{count} {kind}" for kind, count in scores["verdicts"].items())
    console.print(f"{counted(scores['problems'], 'problem')}, {counted(scores['k'], 'sample')} each: {verdicts}")
    length, truncated = result.details["length"], result.details["truncated"]
    cut = "" if truncated is None else f"; {truncated:.1%} cut off"
    console.print(
        f"{length['unit']}: mean {length['mean']:,.0f}, median {length['median']:,.0f}, max {length['max']:,}{cut}"
    )
    if left := result.details.get("left_to_server"):
        console.print(f"left to the server, which refused to be told: {' and '.join(left)}")


def _show_parts(parts: Mapping[str, Any], title: str, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title.removesuffix("s"), "problems", "avg", "95 % interval")
    for name, part in parts.items():
        score = part["avg"]
        interval_ = f"{score['low']:.3f} to {score['high']:.3f}"
        table.add_row(escape(name), str(part["problems"]), f"{score['mean']:.3f}", interval_)
    console.print(table)
