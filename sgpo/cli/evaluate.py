"""The commands `sgpo eval` and `sgpo score`. Heavy imports are inside them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sgpo.cli.common import AsJson, one_line_errors, print_json, work_on_stderr
from sgpo.errors import InputError
from sgpo.io import counted

if TYPE_CHECKING:
    from sgpo.evaluation.command import ProblemSet
    from sgpo.evaluation.output import EvalOutput
    from sgpo.evaluation.sampling import Source


SAMPLES, MAX_TOKENS = 4, 2048  # for a problem file; a benchmark brings its own
# vLLM batches for itself and is busy as long as more completions wait than it can hold (1,024 by its largest default);
# what is handed to it at once is kept at once, so a killed run loses no more than that.
BATCH_SIZES = {"hf": 64, "vllm": 4096}
SHOWN_FAILURES = 3


class EngineName(StrEnum):
    hf = "hf"
    vllm = "vllm"
    openai = "openai"


@one_line_errors
def eval_(
    model: Annotated[str, typer.Option(help="A model's path, hub id or run directory; a served model's name.")],
    problems: Annotated[Path | None, typer.Option(help="A problem file.")] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="In place of a file, one or several with commas between: math500, amc23, olympiadbench, aime24, "
            "aime25, minerva, gsm8k, strategies."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="A local folder with the benchmarks' files; else they come from the hub.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Completions per problem: the k of avg@k. 4, or what the benchmark's papers use."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 is greedy.")] = 0.6,
    top_p: Annotated[float, typer.Option(help="Nucleus of sampling.")] = 0.95,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per completion; 2048, for benchmarks 32768.")
    ] = None,
    prompt_style: Annotated[
        str | None, typer.Option(help="A style of sgpo/prompts.py; a run directory brings its own, else `math`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    engine: Annotated[
        EngineName, typer.Option(help="hf or vllm load the model here; openai asks an endpoint.")
    ] = EngineName.hf,
    base_url: Annotated[
        str | None, typer.Option(help="The endpoint's address, such as http://localhost:8000/v1.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Completions that are sampled, then kept, at once: 64, with vllm 4096. Changes memory and speed, not "
            "the result.",
        ),
    ] = None,
    vllm_gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="The share of a GPU's memory that vllm takes; vLLM's default, if not given.")
    ] = None,
    vllm_tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="GPUs that share one copy of the model in vllm; 1, if not given.")
    ] = None,
    vllm_max_model_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompt and completion together in vllm; the model's context.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that openai has under way at once.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep every completion and the scores in this directory; resumes what was interrupted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a problem file or on benchmarks: several samples from plain prompts, with 95 % intervals.

    With --out nothing is lost when it is killed: the same command samples only what is missing. Ends with exit code 1
    where problems are missing, because an endpoint failed for them; their number is said, and the rest is scored.

    Examples: sgpo eval --model runs/quickstart/sgpo --problems runs/quickstart/fresh.jsonl --samples 4 --max-tokens 48;
    sgpo eval --model Qwen/Qwen2.5-1.5B --benchmarks math500,amc23 --data-dir benchmarks --out runs/eval-1.5b
    """
    with work_on_stderr() as output:
        from sgpo.evaluation.benchmarks import MAX_TOKENS as BENCHMARK_TOKENS
        from sgpo.evaluation.command import EvalSettings, evaluate_sets, style_of
        from sgpo.prompts import prompt_style as style_named
        from sgpo.rollouts.models import model_revision

        sets = problem_sets(problems, benchmarks, data_dir, samples)
        style = style_of("" if engine is EngineName.openai else model, prompt_style)
        settings = EvalSettings(
            model=model,
            engine=engine.value,
            base_url=base_url,
            prompt=f"{style} {style_named(style).version}",
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens or (BENCHMARK_TOKENS if benchmarks else MAX_TOKENS),
            seed=seed,
        )
        vllm = {
            "gpu_memory_utilization": vllm_gpu_memory_utilization,
            "tensor_parallel_size": vllm_tensor_parallel_size,
            "max_model_len": vllm_max_model_length,
        }
        vllm_options = {name: value for name, value in vllm.items() if value is not None}
        build_source = _source(engine, model, base_url, batch_size, concurrency, vllm_options)
        if out is not None and engine is not EngineName.openai:
            settings = replace(settings, revision=model_revision(model))
        outputs, failures = evaluate_sets(build_source, sets, settings, style=style, out=out)
    for failure in failures[:SHOWN_FAILURES]:
        print(f"failed: {failure}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"failed: {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)
    if as_json:
        documents = {name: each.to_json() for name, each in outputs.items()}
        print_json(documents if len(sets) > 1 else next(iter(documents.values())), output)
    else:
        for name, each in outputs.items():
            _show(each, title=f"{model} on {problems or name}")
    missing = sum(len(outputs[each.name].missing if each.name in outputs else each.problems) for each in sets)
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
    samples: Annotated[
        int | None, typer.Option(min=1, help="Score the first so many of each problem; else all must have the same.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Judge and score completions that exist already, from sgpo or from anyone; problems without any are counted.

    Example: sgpo score --completions runs/quickstart/sgpo/eval/fresh-step-000120.jsonl
    --problems runs/quickstart/fresh.jsonl
    """
    with work_on_stderr() as output:
        from sgpo.evaluation.score_file import score_file

        result = score_file(completions, problems, samples=samples, seed=seed)
    print_json(result.to_json(), output) if as_json else _show(result, title=f"{completions} on {problems}")


def problem_sets(
    problems: Path | None, benchmarks: str | None, data_dir: Path | None, samples: int | None
) -> list[ProblemSet]:
    """The problem file, or the benchmarks. Raises InputError where both or neither are given."""
    from sgpo.evaluation.benchmarks import ALL_BENCHMARKS, benchmark_names, load_benchmark
    from sgpo.evaluation.command import ProblemSet
    from sgpo.problems import load_problems

    if (problems is None) == (benchmarks is None):
        raise InputError("give either --problems FILE or --benchmarks NAMES")
    if benchmarks is not None:
        return [
            ProblemSet(name=name, problems=load_benchmark(name, data_dir), samples=samples or ALL_BENCHMARKS[name].k)
            for name in benchmark_names(benchmarks)
        ]
    assert problems is not None
    return [ProblemSet(name=problems.stem, problems=load_problems(problems), samples=samples or SAMPLES)]


def _source(
    engine: EngineName,
    model: str,
    base_url: str | None,
    batch_size: int | None,
    concurrency: int,
    vllm_options: dict[str, Any],
) -> Callable[[], Source]:
    if (engine is EngineName.openai) != (base_url is not None):
        raise InputError("--engine openai needs --base-url, and no other engine takes it")
    if vllm_options and engine is not EngineName.vllm:
        raise InputError("the options --vllm-... are for --engine vllm alone")
    if base_url is not None:
        from sgpo.evaluation.endpoint import Endpoint

        return partial(Endpoint, base_url, model, concurrency=concurrency)
    from sgpo.evaluation.sampling import LoadedModel

    if engine is EngineName.vllm:
        from sgpo.rollouts.vllm import check_vllm

        check_vllm()
    name: Literal["hf", "vllm"] = "vllm" if engine is EngineName.vllm else "hf"
    batch_size = batch_size or BATCH_SIZES[name]
    return partial(LoadedModel, model, batch_size=batch_size, engine=name, vllm_options=vllm_options)


def _show(output: EvalOutput, *, title: str) -> None:
    from rich.console import Console

    from sgpo.evaluation.output import show_output

    show_output(output, title=title, console=Console())
