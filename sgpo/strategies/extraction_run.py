"""An extraction as the command line runs it: with a progress bar, and errors that say what is kept."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.problems import Problem
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import Extraction, extract_strategies
from sgpo.strategies.ledger import Ledger
from sgpo.strategies.strong_model import EndpointFailed, StrongModel
from sgpo.strategies.wire import Prices
from sgpo.verifier import Verifier


def run_extraction(
    problems: Sequence[Problem],
    bank: Path,
    *,
    base_url: str,
    model: str,
    candidates: int,
    solve: bool,
    concurrency: int,
    timeout: float,
    max_requests: int | None,
    max_tokens: int | None,
    prices: Prices | None,
) -> dict[str, Any]:
    """Extract into the bank at `bank`; the report with what it took, as a JSON object.

    Raises InputError in one line, an endpoint that is of no use included; what is finished is in the bank then.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    started = time.monotonic()

    async def run(opened: StrategyBank) -> dict[str, Any]:
        async with StrongModel(
            base_url=base_url,
            model=model,
            key=key,
            cache=Ledger(opened),
            concurrency=concurrency,
            timeout=timeout,
            max_requests=max_requests,
            max_tokens=max_tokens,
            prices=prices,
        ) as strong_model:
            with Verifier() as verifier, _progress() as progress:
                task = progress.add_task("strategies", total=len(problems), paid="", rate="")

                def show(report: Extraction) -> None:
                    usage = strong_model.usage
                    rate = f"{(report.done - report.earlier) / (time.monotonic() - started):.1f}/s"
                    paid = f"{usage.tokens:,} tokens" + ("" if usage.cost is None else f", cost {usage.cost:.4g}")
                    progress.update(task, completed=report.done, rate=rate, paid=paid)

                report = await extract_strategies(
                    problems, opened, strong_model, verifier, candidates=candidates, solve=solve, on_progress=show
                )
            usage = strong_model.usage
            seconds = round(time.monotonic() - started, 3)
            return {**report.to_json(), **asdict(usage), "tokens": usage.tokens, "seconds": seconds}

    with StrategyBank(bank) as opened:
        try:
            return asyncio.run(run(opened))
        except EndpointFailed as failure:
            kept = f"{bank} has strategies for {counted(len(opened), 'problem')}"
            raise InputError(f"{failure}; {kept}, nothing is lost") from None


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[paid]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
