"""`sgpo init`: a first recipe for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sgpo.cli.common import AsJson, check_new, one_line_errors, print_json, work_on_stderr
from sgpo.io import write_text


@one_line_errors
def init(
    model: Annotated[
        str | None, typer.Option(help="The model's path or hub id; one that suits this machine if not given.")
    ] = None,
    problems: Annotated[Path, typer.Option(help="The problem file.")] = Path("problems.jsonl"),
    bank: Annotated[Path, typer.Option(help="The strategy bank.")] = Path("bank.db"),
    out: Annotated[Path, typer.Option(help="The new recipe.")] = Path("recipe.yaml"),
    as_json: AsJson = False,
) -> None:
    """Write a recipe for this machine, with the lines that matter and why.

    \b
    Examples:
    sgpo init --model Qwen/Qwen2.5-0.5B-Instruct --problems train.jsonl --bank bank.db --out recipe.yaml
    """
    with work_on_stderr() as output:
        from sgpo.rollouts.models import policy_config
        from sgpo.training.start import Machine, first_recipe

        check_new(out, "--out")
        config = policy_config(model, adapters=True) if model is not None else None
        text = first_recipe(Machine.here(), model=model, problems=str(problems), bank=str(bank), config=config)
        write_text(out, text)
    if as_json:
        print_json({"out": str(out)}, output)
    else:
        print(f"{out}: a recipe; sgpo train {out} --dry-run says what it would do")
