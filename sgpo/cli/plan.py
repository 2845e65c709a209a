"""`sgpo train --dry-run`: a plan on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from sgpo.io import counted

GIB = 1 << 30
Line = tuple[str, str]


def show_plan(plan: Mapping[str, Any], output: TextIO) -> None:
    """Print what `plan_recipe` returns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=output)
    table = Table("what", "how much", title=Text(f"{plan['model']} to {plan['out']}, {plan['stage']}"))
    lines = [] if plan["warmup"] is None else list(_warmup_lines(plan["warmup"]))
    if reinforces := "problems" in plan:
        lines += [*_problem_lines(plan), *_length_lines(plan), *_memory_lines(plan["memory"], plan["free_memory"])]
    for name, value in lines:
        table.add_row(name, Text(value))
    console.print(table)
    if not reinforces:
        return
    prompts = plan["prompts"]
    for group in ("autonomous", "guided"):
        if prompts[group] is not None:
            console.print(f"[bold]{group} prompt of problem[/bold]", Text(str(prompts["problem_id"])))
            console.print(Text(prompts[group]), soft_wrap=True)
    if plan["free_memory"] is not None and plan["memory"]["total"] > plan["free_memory"]:
        console.print(
            "[bold]More memory than is free.[/bold] In this order: activation_checkpointing=true, a smaller "
            "max_tokens_per_batch, a smaller generation_batch_size or vllm_gpu_memory_utilization, lora"
        )


def _warmup_lines(warmup: Mapping[str, Any]) -> Iterator[Line]:
    names = ("without_solution", "wrong_solution", "too_long")
    yield "warm-up: problems", f"{warmup['problems']:,}; left out: {_counts(warmup, names)}"
    rows, epochs = counted(warmup["rows"], "row"), f"{warmup['epochs']:g} epochs"
    yield "warm-up: length", f"{rows}, {warmup['guided']:,} guided, {epochs}"
    yield "warm-up: tokens of a row", _percentiles(warmup["row_tokens"])


def _problem_lines(plan: Mapping[str, Any]) -> Iterator[Line]:
    problems, tokens, strategies = plan["problems"], plan["prompt_tokens"], plan["strategies"]
    yield "problems to train on", f"{problems['train']:,}, {problems['global_batch']:,} in a step"
    yield "left out", _counts(problems, ("too_long", "without_solution"))
    if strategies is not None:
        shown = _counts(strategies, ("own", "retrieved", "other_guidance"))
        yield "with a guided prompt", f"{plan['guided_fraction']:.0%}: {shown}"
        yield "without", _counts(strategies, ("without_strategy", "guided_prompt_too_long", "leaking"))
    for group in ("autonomous", "guided"):
        if tokens[group] is not None:
            yield f"tokens, {group} prompts", f"{_percentiles(tokens[group])}; at most {tokens['limit']:,}"


def _length_lines(plan: Mapping[str, Any]) -> Iterator[Line]:
    epochs = "" if plan["epochs"] is None else f", {plan['epochs']:g} epochs"
    yield "length", f"{counted(plan['steps'], 'step')}{epochs}"
    yield "completions", f"at most {plan['completions']:,}, and {plan['max_completion_tokens']:,} tokens"
    yield "rollouts/ on the disk", f"at most {_size(plan['rollout_bytes'])}"
    yield "reward", plan["reward"]


def _memory_lines(memory: Mapping[str, int], free: int | None) -> Iterator[Line]:
    yield "parameters", f"{memory['parameters']:,}; trained: {memory['trained']:,}"
    for name in ("weights", "gradients", "optimizer", "reference", "generation", "copies", "activations"):
        if memory[name]:
            yield f"memory: {name}", _size(memory[name])
    known = "" if free is None else f"; {_size(free)} are free"
    yield "memory, computed", f"about {_size(memory['total'])}{known}"


def _counts(counts: Mapping[str, int], names: tuple[str, ...]) -> str:
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names if name in counts)


def _percentiles(found: Mapping[str, int]) -> str:
    return f"median {found['p50']:,}, 95 % {found['p95']:,}, longest {found['max']:,}"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
