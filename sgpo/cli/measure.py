"""`sgpo strategies measure`: what strategies do for a model, before it is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sgpo.cli.common import (
    KIND_HELP,
    AsJson,
    PromptsFrom,
    check_new,
    find_prompts,
    one_line_errors,
    print_json,
    say_prompts,
    work_on_stderr,
)
from sgpo.cli.evaluate import SHOWN_FAILURES, EngineName, ShownSource, completion_source, with_chat
from sgpo.errors import InputError
from sgpo.io import counted, holding, write_jsonl

if TYPE_CHECKING:
    from sgpo.problems import Problem
    from sgpo.prompts import SavedPrompts
    from sgpo.training.measure import Selection
    from sgpo.training.recipe import Recipe


class Candidates(StrEnum):
    active = "active"
    all = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """Under what is measured: what training will use, unless an option says otherwise."""

    model: str
    prompts: SavedPrompts
    temperature: float
    max_tokens: int
    policy: Literal["lenient", "strict"]


@one_line_errors
def measure(
    bank: Annotated[Path | None, typer.Option("--bank", metavar="BANK.db", help="The bank.")] = None,
    problems: Annotated[
        Path | None, typer.Option("--problems", metavar="FILE", help="The problems that its strategies are for.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help=KIND_HELP)] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model: a path, hub id or run directory; with openai, its served name."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="Take from a recipe what no option says: bank, problems, model, prompts."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem, without and with a strategy.")] = 4,
    candidates: Annotated[
        Candidates, typer.Option(help="Try active strategies, or all candidates as well.")
    ] = Candidates.active,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N problems.")] = None,
    select: Annotated[
        bool, typer.Option("--select", help="Make better candidates active, and set aside what harms.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the problems whose autonomous pass rate is --between.")
    ] = None,
    between: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="The lowest and highest pass rate of --keep.")
    ] = (0.0, 0.9),
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 1 if nothing says else.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cut completions off at this many tokens.")] = None,
    prompt_style: Annotated[str | None, typer.Option(help="Prompt style, from sgpo/prompts.py.")] = None,
    prompts_from: PromptsFrom = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling and of the intervals.")] = 0,
    engine: Annotated[
        EngineName, typer.Option(help="hf and vllm load the model here; openai asks an endpoint.")
    ] = EngineName.hf,
    base_url: Annotated[str | None, typer.Option(help="The endpoint's address for openai.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Completions that are sampled at once.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to openai under way at once.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Keep every completion in this directory, and resume what is there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See whether strategies help a model before training it: sample each problem without and with its strategy.

    SGPO learns from problems that the model fails without its strategy and solves with it. What is measured is stored
    in the bank, for this model, these prompts and this reward.

    \b
    Examples:
    sgpo strategies measure --recipe recipes/quickstart.yaml --limit 100
    sgpo strategies measure --recipe recipe.yaml --candidates all --select --out runs/measure
    sgpo strategies measure --bank bank.db --problems train.jsonl --model runs/mine/checkpoints/warmup
    """
    with work_on_stderr() as output:
        from sgpo.endpoint import address_of
        from sgpo.evaluation.store import digest_of
        from sgpo.rollouts.engine import Sampling
        from sgpo.rollouts.models import model_revision
        from sgpo.strategies.bank import StrategyBank
        from sgpo.strategies.strategy import Condition
        from sgpo.training import measure as measuring
        from sgpo.training.rewards import correct_function
        from sgpo.verifier import Verifier

        check_new(keep, "--keep")
        if not 0 <= between[0] <= between[1] <= 1:
            raise InputError(f"--between {between[0]} {between[1]}: two pass rates in order, from 0 to 1")
        given = _recipe(recipe, bank=bank, problems=problems, model=model, kind=kind)
        loaded = _problems(given, problems, kind)[:limit]
        path = bank or (Path(given.bank) if given and given.bank else None)
        if path is None:
            raise InputError("no bank: give --bank BANK.db, or a recipe that names one")
        setting = _setting(given, loaded, model, engine, temperature, max_tokens, prompt_style, prompts_from)
        style, chat = setting.prompts.style, setting.prompts.chat or {}
        if engine is EngineName.openai and given and any(chat.values()):
            print("warning: the server's own chat template is used, not the recipe's", file=sys.stderr)
        sampling = Sampling(max_tokens=setting.max_tokens, temperature=setting.temperature)
        build_source = completion_source(engine, setting.model, base_url, batch_size, concurrency, {})
        if given or prompts_from is not None:
            build_source = with_chat(build_source, setting.prompts)
        revision = setting.model if engine is EngineName.openai else model_revision(setting.model)
        correct = correct_function(given.correct) if given else None
        reward = measuring.judge_name(correct, setting.policy)
        condition = Condition(model=revision, prompts=style.title, reward=reward)
        told = {
            **asdict(condition), "engine": engine.value, "base_url": base_url and address_of(base_url), "seed": seed,
            "temperature": setting.temperature, "max_tokens": setting.max_tokens, "problems": digest_of(loaded),
        }  # fmt: skip
        judge = nullcontext(correct) if correct else Verifier(policy=setting.policy)
        with StrategyBank(path, create=False) as opened, holding(out) if out else nullcontext(), judge as verifier:
            if isinstance(verifier, Verifier):
                verifier.check_problems(loaded)
            strategies = measuring.strategies_to_measure(opened, loaded, candidates=candidates is Candidates.all)
            kept = measuring.open_measurement(out, told) if out else None
            source = build_source()
            say_prompts(setting.prompts, setting.max_tokens)
            measured = measuring.measure_strategies(
                strategies, loaded, ShownSource(source, "measure"), verifier, sampling,
                samples=samples, style=style, seed=seed, kept=kept,
            )  # fmt: skip
            measuring.store_effects(opened, measured, condition)
            chosen = measuring.select(measured) if select else None
            for strategy in chosen.activate if chosen else ():
                opened.add(strategy)
            for strategy in chosen.set_aside if chosen else ():
                opened.set_aside(strategy.id)
        low, high = between
        rates = measured.rates()
        between_them = [p for p in loaded if p.id in rates and low <= rates[p.id][0] <= high]
        if keep is not None:
            write_jsonl(keep, (problem.to_json() for problem in between_them))
    summary = measured.summary()
    if chosen is not None:
        summary["selected"] = {name: len(getattr(chosen, name)) for name in ("activate", "set_aside", "kept")}
    if keep is not None:
        summary["keep"] = {"problems": len(between_them), "out": str(keep)}
    for failure in measured.failures[:SHOWN_FAILURES]:
        print(f"failed: {failure}", file=sys.stderr)
    print_json(summary, output) if as_json else _show(summary, chosen, title=f"{path} for {setting.model}")
    if measured.missing:
        again = f"; the same command with --out {out} asks for them again" if out else ""
        print(
            f"error: incomplete, missing answers: {counted(len(measured.missing), 'problem')}{again}", file=sys.stderr
        )
        raise typer.Exit(1)


def _recipe(
    file: Path | None, *, bank: Path | None, problems: Path | None, model: str | None, kind: str | None
) -> Recipe | None:
    if file is None:
        lacking = {"--bank": bank, "--problems": problems, "--model": model}
        missing = [name for name, value in lacking.items() if value is None]
        if missing:
            raise InputError(f"give {', '.join(missing)}, or a recipe that names them (--recipe)")
        return None
    from sgpo.training.recipe import load_recipe

    return load_recipe(file, problems=problems, kind=kind)


def _problems(given: Recipe | None, file: Path | None, kind: str | None) -> list[Problem]:
    from sgpo.problems import load_problems

    if given is not None:
        return given.problems.load()
    assert file is not None
    return load_problems(file, kind=kind or "math")


def _setting(
    given: Recipe | None,
    loaded: list[Problem],
    model: str | None,
    engine: EngineName,
    temperature: float | None,
    max_tokens: int | None,
    prompt_style: str | None,
    prompts_from: Path | None,
) -> _Setting:
    from sgpo.problems import system_prompt_for
    from sgpo.prompts import prompt_style as style_named
    from sgpo.training.checkpoints import saved_prompts
    from sgpo.training.config import SGPOConfig
    from sgpo.training.run_directory import RunDirectory

    args = SGPOConfig(output_dir="", **(given.train if given else {}))
    if given is not None:
        args.system_prompt = system_prompt_for(loaded, args.system_prompt)
    if model is None:
        assert given is not None
        warm = RunDirectory(given.out).warm_model  # what training begins with, where it is there already
        model = str(warm) if given.warmup is not None and warm.exists() else given.model
    if given is not None and prompts_from is None:  # training takes the recipe's, whatever the model was trained with
        prompts = saved_prompts(args)
        prompts = prompts if prompt_style is None else replace(prompts, style=style_named(prompt_style))
    else:
        prompts = find_prompts(None if engine is EngineName.openai else model, prompts_from, prompt_style)
    temperatures = (temperature, prompts.temperature, args.temperature)
    return _Setting(
        model=model,
        prompts=prompts,
        temperature=next(value for value in temperatures if value is not None),
        max_tokens=max_tokens or prompts.max_completion_length or args.max_completion_length,
        policy=args.verifier_policy,
    )


def _show(summary: Mapping[str, Any], chosen: Selection | None, *, title: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "without", "with its strategy", title=f"{escape(title)}; 95 % over problems")
    rows = {
        "pass rate": [_estimate(summary[group]) for group in ("autonomous", "guided")],
        "tokens": [_number(summary["tokens"][group], "{:,.0f}") for group in ("autonomous", "guided")],
        "cut off": [_number(summary["truncated"][group], "{:.1%}") for group in ("autonomous", "guided")],
        "mention the strategy": ["", f"{summary['mentions']:.1%}"],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    uplift = summary["uplift"]
    console.print(
        f"{counted(summary['problems'], 'problem')}, {counted(summary['samples'], 'sample')} each; uplift "
        f"{uplift['mean']:+.3f} ({uplift['low']:+.3f} to {uplift['high']:+.3f})"
    )
    rescued = f"; strategies rescue {_estimate(summary['rescued'])} of these" if summary["rescued"] else ""
    console.print(f"{summary['all_fail']:.1%} of the problems fail every time without a strategy{rescued}")
    if chosen is not None:
        console.print(
            f"{counted(len(chosen.activate), 'candidate')} made active, {len(chosen.set_aside)} set aside, "
            f"{len(chosen.kept)} kept that a person accepted"
        )
    if "keep" in summary:
        console.print(f"{escape(summary['keep']['out'])}: {counted(summary['keep']['problems'], 'problem')}")
    console.print(f"[bold]{escape(summary['advice'])}[/bold]")


def _estimate(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
