"""`sgpo train --dry-run`: a plan on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from sgpo.io import counted

GIB = 1 << 30


def show_plan(plan: Mapping[str, Any], output: TextIO) -> None:
    """Print what `plan_recipe` returns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=output)
    table = Table("what", "how much", title=Text(f"{plan['model']} to {plan['out']}, {plan['algorithm']}"))
    for name, value in _lines(plan):
        table.add_row(name, Text(value))
    console.print(table)
    prompts = plan["prompts"]
    for group in ("autonomous", "guided"):
        if prompts[group] is not None:
            console.print(f"[bold]{group} prompt of problem[/bold]", Text(str(prompts["problem_id"])))
            console.print(Text(prompts[group]))
    if plan["memory"]["total"] > plan["free_memory"]:
        console.print(
            "[bold]More memory than is free[/bold]: lower max_tokens_per_batch or generation_batch_size, or lora"
        )


def _lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, tokens, memory = plan["problems"], plan["prompt_tokens"], plan["memory"]
    left_out = {name: counts[name] for name in ("too_long", "without_strategy", "guided_prompt_too_long", "leaking")}
    lines = [("problems to train on", f"{counts['train']:,}, {counts['global_batch']} in a step")]
    if plan["warmup"] is not None:
        warmup = plan["warmup"]
        lines.append(("problems of the warm-up", f"{warmup['problems']:,}, {warmup['guided']} of them guided"))
    lines.append(("counted", ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in left_out.items())))
    if plan["guided_fraction"] is not None:
        lines.append(("with a guided prompt", f"{plan['guided_fraction']:.0%}"))
    for group in ("autonomous", "guided"):
        if found := tokens[group]:
            lengths = f"median {found['p50']:,}, 95 % {found['p95']:,}, longest {found['max']:,}"
            lines.append((f"tokens, {group} prompts", f"{lengths}; at most {tokens['limit']:,}"))
    epochs = "" if plan["epochs"] is None else f", {plan['epochs']} epochs"
    lines += [
        ("length", f"{counted(plan['steps'], 'step')}{epochs}"),
        ("completions", f"{plan['completions']:,}, at most {plan['max_completion_tokens']:,} tokens"),
        ("rollouts/ on the disk", f"at most {plan['rollout_bytes'] / GIB:.2f} GiB"),
        ("parameters", f"{memory['parameters']:,}, {memory['trained']:,} of them trained"),
    ]
    lines += [
        (f"memory: {name}", f"{memory[name] / GIB:.2f} GiB")
        for name in ("weights", "copies", "activations", "cache")
        if memory[name]
    ]
    free = f"{plan['free_memory'] / GIB:.2f} GiB are free"
    return [*lines, ("memory, computed", f"{memory['total'] / GIB:.2f} GiB; {free}"), ("reward", plan["reward"])]
