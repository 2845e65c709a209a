"""Strategies from a strong model: problems and solutions in, a bank of strategies out.

Per problem: its solution is judged (and sampled where it has none that is correct); candidates are written from it,
ranked, and put through the leak gate; the best without a leak becomes active, all are stored. Every reply is in the
bank before it is used, so the next run resumes where one was killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sgpo.endpoint import EndpointUsage, RequestError
from sgpo.errors import BudgetError, EndpointError, InputError
from sgpo.io import counted
from sgpo.problems import Problem
from sgpo.prompts import OURS, ExtractionPrompts, autonomous_prompt, extract_prompt, rank_prompt
from sgpo.strategies.bank import Outcome, StrategyBank
from sgpo.strategies.leak.gate import GATE_VERSION, find_leaks
from sgpo.strategies.replies import (
    ChatOptions,
    JSONSchema,
    StrongModel,
    UsableReply,
    WrittenScores,
    WrittenStrategy,
    all_or_first_error,
    ask_until_usable,
    read_object,
)
from sgpo.strategies.solutions import clean_solution, cut_solution
from sgpo.strategies.strategy import Scores, Strategy, current_time
from sgpo.verifier import Verifier

CANDIDATE_OPTIONS = ChatOptions(temperature=0.8, top_p=0.95)
RANK_OPTIONS = ChatOptions(temperature=0.0)
SOLVE_OPTIONS = ChatOptions(temperature=0.6, top_p=0.95, max_tokens=32_768)


def _schema(name: str, properties: dict[str, Any]) -> JSONSchema:
    required = {"required": list(properties), "additionalProperties": False}
    return JSONSchema(name=name, schema={"type": "object", "properties": properties, **required})


_TEXT = {"type": "string"}
_SCORE = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
STRATEGY_SCHEMA = _schema(
    "strategy",
    {
        "problem_type": _TEXT,
        "approach": _TEXT,
        "steps": {"type": "array", "items": _TEXT},
        "when_to_use": _TEXT,
    },
)
SCORES_SCHEMA = _schema("scores", dict.fromkeys(("faithful", "general", "actionable", "leak_free"), _SCORE))


@dataclass(slots=True)
class Extraction:
    """What a run of `extract_strategies` did, problem by problem.

    `earlier`: finished by a run before, of them `earlier_failed` and `earlier_unsolved`; `active` (has a strategy now),
    `leaking` (every candidate leaks), `failed` (nothing usable came) and `unsolved` (no correct solution) are how the
    others ended; `unfinished`: left for the next run. `reasons` has one problem's reason, the last, for `failed`,
    `unsolved` and `unfinished`. `wrong_solutions` had another answer than the gold one, `no_solution` counts problems
    without any; `cut` solutions were longer than what is shown.
    """

    problems: int
    earlier: int = 0
    earlier_failed: int = 0
    earlier_unsolved: int = 0
    active: int = 0
    leaking: int = 0
    failed: int = 0
    unsolved: int = 0
    unfinished: int = 0
    wrong_solutions: int = 0
    no_solution: int = 0
    cut: int = 0
    candidates: int = 0
    leaking_candidates: int = 0
    unranked_candidates: int = 0
    unusable_answers: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None

    @property
    def done(self) -> int:
        return self.earlier + self.active + self.leaking + self.failed + self.unsolved

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def extract_strategies(
    problems: Sequence[Problem],
    bank: StrategyBank,
    model: StrongModel,
    verifier: Verifier,
    *,
    candidates: int = 5,
    solve: bool = False,
    max_tokens: int | None = None,
    retry_failed: bool = False,
    prompts: ExtractionPrompts = OURS,
    on_progress: Callable[[Extraction], None] | None = None,
) -> Extraction:
    """Extract strategies of problems into a bank, as many at a time as `model.concurrency`.

    Args:
        problems: The problems, with solutions where they are known.
        bank: Where strategies, replies and outcomes are stored.
        model: The strong model; its cache should be the bank.
        verifier: Judges the solutions.
        candidates: Strategies to write per problem.
        solve: Ask the strong model for a solution where there is no correct one, up to `candidates` times.
        max_tokens: The limit of every reply, in place of that of `CANDIDATE_OPTIONS` and the others. It is no reason to
            do a finished problem again.
        retry_failed: Ask again for the problems that an earlier run counts as failed.
        prompts: What the strong model is asked.
        on_progress: Told the report after every problem.

    Returns:
        The report; `stopped` says why a run ended early because its budget is spent.

    Raises:
        InputError: No candidates, or no problem with a solution (without `solve`).
        EndpointError: The endpoint is of no use.
        BankError: The bank cannot be written.
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, got {candidates}")
    if not solve and not any(problem.solution for problem in problems):
        raise InputError("no problem has a solution to extract from; name the field that holds it, or pass --solve")
    run = _Run(
        bank,
        model,
        verifier,
        candidates=candidates,
        solve=solve,
        max_tokens=max_tokens,
        retry_failed=retry_failed,
        prompts=prompts,
        report=Extraction(problems=len(problems)),
    )
    waiting = iter(problems)

    async def work() -> None:
        for problem in waiting:
            try:
                await run.problem(problem)
            except Exception as failure:
                model.stop(failure)
                raise
            if on_progress:
                on_progress(run.report)

    workers = [asyncio.create_task(work()) for _ in range(min(model.concurrency, len(problems)))]
    try:
        await all_or_first_error(workers)
    except BudgetError as reason:
        run.report.stopped = str(reason)
    run.report.unfinished = len(problems) - run.report.done
    return run.report


def run_extraction(
    problems: Sequence[Problem],
    bank: Path,
    *,
    candidates: int,
    solve: bool,
    max_tokens: int | None,
    retry_failed: bool,
    prompts: ExtractionPrompts,
    token_budget: int | None,
    on_progress: Callable[[Extraction, EndpointUsage], None],
    on_interrupt: Callable[[], None],
    **endpoint: Any,
) -> dict[str, Any]:
    """Run `extract_strategies` into the bank at a path, which is made if it does not exist.

    The first Ctrl-C sends nothing more and waits for the answers under way, which are paid for; the second one raises
    KeyboardInterrupt.

    Args:
        problems: The problems, with solutions where they are known.
        bank: The bank's file.
        candidates: Strategies to write per problem.
        solve: Ask for a solution where there is no correct one.
        max_tokens: The limit of every reply, see `extract_strategies`.
        retry_failed: Ask again for the problems that failed.
        prompts: What the strong model is asked.
        token_budget: Stop after this many tokens in all.
        on_progress: Told the report, and what was sent and got, after every problem.
        on_interrupt: Told at the first Ctrl-C.
        endpoint: The other fields of `StrongModel`.

    Returns:
        The report and what it took, as a JSON object; `interrupted` says whether there was a Ctrl-C.

    Raises:
        InputError: A problem's kind names nothing that can judge.
        EndpointError: The endpoint is of no use; what is finished is in the bank.
    """
    started = time.monotonic()
    interrupted = False

    async def run(opened: StrategyBank) -> dict[str, Any]:
        async with StrongModel(cache=opened, max_tokens=token_budget, **endpoint) as model:
            loop = asyncio.get_running_loop()

            def drain() -> None:
                nonlocal interrupted
                interrupted = True
                loop.remove_signal_handler(signal.SIGINT)  # so the second one is Python's own
                model.stop(BudgetError("interrupted"))
                on_interrupt()

            if threading.current_thread() is threading.main_thread():
                loop.add_signal_handler(signal.SIGINT, drain)
            with Verifier() as verifier:
                verifier.check_problems(problems)
                report = await extract_strategies(
                    problems,
                    opened,
                    model,
                    verifier,
                    candidates=candidates,
                    solve=solve,
                    max_tokens=max_tokens,
                    retry_failed=retry_failed,
                    prompts=prompts,
                    on_progress=lambda report: on_progress(report, model.usage),
                )
            took = {"tokens": model.usage.tokens, "seconds": round(time.monotonic() - started, 3)}
            return {**report.to_json(), **asdict(model.usage), **took, "interrupted": interrupted}

    with StrategyBank(bank) as opened:
        try:
            return asyncio.run(run(opened))
        except EndpointError as failure:
            held = f"{bank} has strategies for {counted(len(opened), 'problem')}"
            raise EndpointError(f"{failure}; {held}, nothing is lost") from None


class _Run:
    """One run over many problems: what they share."""

    def __init__(
        self,
        bank: StrategyBank,
        model: StrongModel,
        verifier: Verifier,
        *,
        candidates: int,
        solve: bool,
        max_tokens: int | None,
        retry_failed: bool,
        prompts: ExtractionPrompts,
        report: Extraction,
    ) -> None:
        self.bank = bank
        self.model = model
        self.verifier = verifier
        self.candidates = candidates
        self.solve = solve
        self.limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        self.retry_failed = retry_failed
        self.prompts = prompts
        self.report = report

    async def problem(self, problem: Problem) -> None:
        """Bring one problem to its outcome, unless it has come to one or a request fails that may yet succeed."""
        key = self._key(problem)
        ended = self.bank.outcome(problem.id, key)
        failed_before = ended == "failed"
        if ended and not (failed_before and self.retry_failed):
            self.report.earlier += 1
            self.report.earlier_failed += failed_before
            self.report.earlier_unsolved += ended == "unsolved"
            return
        try:
            outcome = await self._extract(problem, key, retry=failed_before)
        except RequestError as failure:
            if not failure.final:
                self._reason(problem, "unfinished", str(failure))
                return
            outcome = self._without_strategy(problem, key, "failed", str(failure))
        setattr(self.report, outcome, getattr(self.report, outcome) + 1)

    def _without_strategy(
        self, problem: Problem, key: str, outcome: Outcome, message: str | None, raw: str | None = None
    ) -> Outcome:
        self._reason(problem, outcome, message)
        self.bank.record_outcome(problem, key, outcome, message=message, raw=raw)
        return outcome

    def _reason(self, problem: Problem, outcome: str, message: str | None) -> None:
        self.report.reasons[outcome] = f"problem {problem.id!r}: {message}"

    async def _extract(self, problem: Problem, key: str, *, retry: bool) -> Outcome:
        solution, why = await self._solution(problem)
        if solution is None:
            return self._without_strategy(problem, key, "unsolved", why)
        problem = replace(problem, solution=solution)
        shown = cut_solution(solution)
        self.report.cut += shown != solution
        replies = await ask_until_usable(
            self.model,
            extract_prompt(problem.problem, shown, prompts=self.prompts),
            self.candidates,
            options=replace(CANDIDATE_OPTIONS, **self.limit),
            schema=STRATEGY_SCHEMA,
            read=lambda text: read_object(text, WrittenStrategy),
            retry=retry,
        )
        self.report.unusable_answers += replies.unusable
        if not replies.usable:
            return self._without_strategy(problem, key, "failed", replies.error, replies.raw)
        # Two replies may say the same; the second is no candidate of its own.
        written = {strategy.id: strategy for strategy in (self._strategy(problem, usable) for usable in replies.usable)}
        # The gate works in a thread while the strong model ranks.
        checked, *rankings = await all_or_first_error(
            [
                asyncio.to_thread(_check_for_leaks, problem, list(written.values())),
                *(self._rank(problem, shown, strategy) for strategy in written.values()),
            ]
        )
        strategies = [_add_scores(strategy, ranking) for strategy, ranking in zip(checked, rankings, strict=True)]
        active = choose_best(strategies)
        outcome: Outcome = "active" if active else "leaking"
        self.bank.record_outcome(problem, key, outcome, candidates=strategies, active=active)
        self.report.candidates += len(strategies)
        self.report.leaking_candidates += sum(bool(strategy.leaks) for strategy in strategies)
        self.report.unranked_candidates += sum(strategy.scores is None for strategy in strategies)
        return outcome

    async def _rank(self, problem: Problem, shown: str, strategy: Strategy) -> UsableReply[Scores] | None:
        """The strong model's scores of a strategy; None where it gave none that can be used, or refuses to."""
        try:
            replies = await ask_until_usable(
                self.model,
                rank_prompt(problem.problem, shown, strategy, prompts=self.prompts),
                1,
                options=replace(RANK_OPTIONS, **self.limit),
                schema=SCORES_SCHEMA,
                read=lambda text: Scores(**read_object(text, WrittenScores).model_dump()),
            )
        except RequestError as failure:
            if failure.final:
                return None
            raise
        return replies.usable[0] if replies.usable else None

    async def _solution(self, problem: Problem) -> tuple[str | None, str]:
        """A solution whose answer is correct, the problem's own or, if allowed, the strong model's; or why not."""
        if problem.solution:
            solution = clean_solution(problem.solution)
            if await self._is_correct(solution, problem):
                return solution, ""
            self.report.wrong_solutions += 1
            why = "its solution has another answer than the gold one"
        else:
            self.report.no_solution += 1
            why = "it has no solution"
        if not self.solve:
            return None, why
        prompt, ending = autonomous_prompt(problem.problem, style=self.prompts.style), ""
        for draw in range(self.candidates):
            options = replace(SOLVE_OPTIONS, **self.limit)
            (reply,) = await self.model.sample(prompt, 1, options=options, draw=draw)
            solution, ending = clean_solution(reply.text), reply.ending
            if solution and await self._is_correct(solution, problem):
                return solution, ""
        return None, f"{why}, and no solution of {self.candidates} that were asked for has the gold answer{ending}"

    async def _is_correct(self, solution: str, problem: Problem) -> bool:
        verdict = await asyncio.to_thread(self.verifier.verify, solution, problem)
        return verdict.correct

    def _strategy(self, problem: Problem, usable: UsableReply[WrittenStrategy]) -> Strategy:
        written, reply = usable.value, usable.reply
        return Strategy(
            problem_id=problem.id,
            problem_type=written.problem_type,
            approach=written.approach,
            steps=tuple(written.steps),
            when_to_use=written.when_to_use,
            strong_model=self.model.model,
            prompt_version=self.prompts.versions[0],
            sampling=usable.sampling,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            cost=reply.cost,
            created=current_time(),
        )

    def _key(self, problem: Problem) -> str:
        """A hash of all that an outcome depends on: a problem is done again when any of it changes.

        The limit of a reply is left out: one that came whole under a lower limit is as good.
        """
        parts = [
            problem.to_json(),
            self.model.model,
            self.candidates,
            self.solve,
            [asdict(CANDIDATE_OPTIONS), asdict(SOLVE_OPTIONS)],
            [*self.prompts.versions, GATE_VERSION],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def choose_best(strategies: Sequence[Strategy]) -> Strategy | None:
    """The strategy with the highest total among those without a leak, without a floor; the first of equals.

    One that could not be ranked comes after all that could.
    """
    clean = [strategy for strategy in strategies if strategy.leaks == ()]
    return max(clean, key=lambda strategy: strategy.scores.total if strategy.scores else 0, default=None)


def _check_for_leaks(problem: Problem, strategies: Sequence[Strategy]) -> list[Strategy]:
    return [replace(strategy, leaks=tuple(find_leaks(strategy, problem))) for strategy in strategies]


def _add_scores(strategy: Strategy, ranking: UsableReply[Scores] | None) -> Strategy:
    """The strategy with its scores, and with what they cost."""
    if ranking is None:
        return strategy
    reply = ranking.reply
    return replace(
        strategy,
        scores=ranking.value,
        prompt_tokens=(strategy.prompt_tokens or 0) + reply.prompt_tokens,
        completion_tokens=(strategy.completion_tokens or 0) + reply.completion_tokens,
        cost=None if reply.cost is None else (strategy.cost or 0.0) + reply.cost,
    )
