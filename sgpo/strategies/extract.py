"""Strategies from a strong model: problems and solutions in, a bank of strategies out.

Per problem: its solution is judged (and sampled where it has none that is correct); candidates are written from it,
ranked, and put through the leak gate; the best without a leak is kept, all are stored. Every answer is in the bank
before it is used, so a run that is killed goes on where it was.

A question to the strong model whose answers must be usable: what is not is asked again, at most twice.

The ranking of a strategy by the strong model: four whole numbers from 1 to 5, in a request of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from sgpo.errors import InputError
from sgpo.problems import Problem, without_calculator_marks
from sgpo.prompts import EXTRACT_VERSION, RANK_VERSION, ask_again_prompt, autonomous_prompt, extract_prompt, rank_prompt
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.leak.gate import GATE_VERSION, find_leaks
from sgpo.strategies.ledger import Ledger, Outcome, now
from sgpo.strategies.replies import ScoresAnswer, StrategyAnswer, UnusableAnswerError, read_answer, without_reasoning
from sgpo.strategies.strategy import Scores, Strategy
from sgpo.strategies.strong_model import (
    BudgetSpent,
    RequestFailed,
    Sampling,
    Schema,
    StrongModel,
    all_or_first_error,
)
from sgpo.strategies.wire import Answer
from sgpo.verifier import Verifier

T = TypeVar("T")

TIMES = 3


@dataclass(frozen=True, slots=True)
class Usable(Generic[T]):
    """What an answer says, and the answer."""

    value: T
    answer: Answer


@dataclass(frozen=True, slots=True)
class Replies(Generic[T]):
    """The answers that can be used, and of those that could not: how many, why the last one, and its text."""

    usable: list[Usable[T]]
    unusable: int
    error: str | None
    raw: str | None


async def ask(
    model: StrongModel,
    prompt: str,
    n: int,
    *,
    sampling: Sampling,
    schema: Schema | None,
    read: Callable[[str], T],
) -> Replies[T]:
    """Up to `n` usable answers. `read` raises UnusableAnswerError for others, which are asked for again, saying why.

    Raises what `StrongModel.sample` raises.
    """
    usable: list[Usable[T]] = []
    unusable, error, raw = 0, None, None
    question = prompt
    for time in range(TIMES):
        missing = n - len(usable)
        for answer in await model.sample(question, missing, sampling=sampling, schema=schema, draw=time * n):
            try:
                usable.append(Usable(read(answer.text), answer))
            except UnusableAnswerError as failure:
                unusable, error, raw = unusable + 1, str(failure), answer.text
        if len(usable) >= n:
            break
        question = ask_again_prompt(prompt, error or "it was empty")
    return Replies(usable, unusable, error, raw)


SAMPLING = Sampling(temperature=0.0)

_SCORE = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
_CRITERIA = ("faithful", "general", "actionable", "leak_free")
RANK_SCHEMA = Schema(
    name="scores",
    schema={
        "type": "object",
        "properties": dict.fromkeys(_CRITERIA, _SCORE),
        "required": list(_CRITERIA),
        "additionalProperties": False,
    },
)


async def rank(model: StrongModel, problem: str, solution: str, strategy: Strategy) -> Usable[Scores] | None:
    """The scores of a strategy; None where the model gave none that could be used."""
    replies = await ask(
        model, rank_prompt(problem, solution, strategy), 1, sampling=SAMPLING, schema=RANK_SCHEMA, read=_read
    )
    return replies.usable[0] if replies.usable else None


def best(strategies: Sequence[Strategy]) -> Strategy | None:
    """The strategy with the highest total among those without a leak, without a floor; the first of equals.

    One that could not be ranked comes after all that could.
    """
    clean = [strategy for strategy in strategies if strategy.leaks == ()]
    return max(clean, key=lambda strategy: strategy.scores.total if strategy.scores else 0, default=None)


def _read(text: str) -> Scores:
    return Scores(**read_answer(text, ScoresAnswer).model_dump())


MAX_SOLUTION_CHARS = 32_000  # about 10,000 tokens; see `cut_solution`
CUT_MARK = "\n\n[... {count:,} characters left out ...]\n\n"

CANDIDATE_SAMPLING = Sampling(temperature=0.8, top_p=0.95)
SOLVE_SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=32_768)

_TEXT = {"type": "string"}
SCHEMA = Schema(
    name="strategy",
    schema={
        "type": "object",
        "properties": {
            "problem_type": _TEXT,
            "approach": _TEXT,
            "steps": {"type": "array", "items": _TEXT},
            "when_to_use": _TEXT,
        },
        "required": ["problem_type", "approach", "steps", "when_to_use"],
        "additionalProperties": False,
    },
)


@dataclass(slots=True)
class Extraction:
    """What a run of `extract_strategies` did, problem by problem.

    `earlier`: finished by a run before; `kept`, `leaking` (every candidate leaks), `failed` (nothing usable came) and
    `unsolved` (no correct solution) are how the others ended; `unfinished`: left for the next run. `wrong_solutions`
    had another answer than the gold one, `no_solution` none at all; `cut` solutions were longer than what is shown.
    """

    problems: int
    earlier: int = 0
    kept: int = 0
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
    stopped: str | None = None

    @property
    def done(self) -> int:
        return self.earlier + self.kept + self.leaking + self.failed + self.unsolved

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
    on_progress: Callable[[Extraction], None] | None = None,
) -> Extraction:
    """Extract strategies of problems into a bank, as many at a time as `model.concurrency`.

    `solve`: where a problem has no correct solution, the strong model is asked for one, up to `candidates` times.
    Ends early, with `stopped` set, where the budget is spent. Raises EndpointFailed where the endpoint is of no use;
    ValueError for no candidates, problems none of which has a solution (without `solve`), a bank that is not writable.
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, got {candidates}")
    if not solve and not any(problem.solution for problem in problems):
        raise InputError("no problem has a solution to extract from; name the field that holds it, or pass --solve")
    run = _Run(bank, model, verifier, candidates, solve, Extraction(problems=len(problems)))
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
    except BudgetSpent as reason:
        run.report.stopped = str(reason)
    run.report.unfinished = len(problems) - run.report.done
    return run.report


class _Run:
    """One run over many problems: what they share."""

    def __init__(
        self,
        bank: StrategyBank,
        model: StrongModel,
        verifier: Verifier,
        candidates: int,
        solve: bool,
        report: Extraction,
    ) -> None:
        self.ledger = Ledger(bank)
        self.model = model
        self.verifier = verifier
        self.candidates = candidates
        self.solve = solve
        self.report = report

    async def problem(self, problem: Problem) -> None:
        """Bring one problem to its outcome, unless it has come to one or a request fails that may yet succeed."""
        key = self._key(problem)
        if self.ledger.is_done(problem.id, key):
            self.report.earlier += 1
            return
        try:
            outcome = await self._extract(problem, key)
        except RequestFailed as failure:
            if not failure.final:
                return
            outcome = "failed"
            self.ledger.record(problem, key, outcome, message=str(failure))
        setattr(self.report, outcome, getattr(self.report, outcome) + 1)

    async def _extract(self, problem: Problem, key: str) -> Outcome:
        solution = await self._solution(problem)
        if solution is None:
            self.ledger.record(problem, key, "unsolved")
            return "unsolved"
        problem = replace(problem, solution=solution)
        shown = cut_solution(solution)
        self.report.cut += shown != solution
        replies = await ask(
            self.model,
            extract_prompt(problem.problem, shown),
            self.candidates,
            sampling=CANDIDATE_SAMPLING,
            schema=SCHEMA,
            read=lambda text: read_answer(text, StrategyAnswer),
        )
        self.report.unusable_answers += replies.unusable
        if not replies.usable:
            self.ledger.record(problem, key, "failed", message=replies.error, raw=replies.raw)
            return "failed"
        # Two answers may say the same; the second is no candidate of its own.
        written = {strategy.id: strategy for strategy in (self._strategy(problem, usable) for usable in replies.usable)}
        checked, *rankings = await all_or_first_error(
            [
                asyncio.to_thread(self._checked, problem, list(written.values())),
                *(self._rank(problem, shown, strategy) for strategy in written.values()),
            ]
        )
        strategies = [_ranked(strategy, ranking) for strategy, ranking in zip(checked, rankings, strict=True)]
        kept = best(strategies)
        outcome: Outcome = "kept" if kept else "leaking"
        self.ledger.record(problem, key, outcome, candidates=strategies, kept=kept)
        self.report.candidates += len(strategies)
        self.report.leaking_candidates += sum(bool(strategy.leaks) for strategy in strategies)
        self.report.unranked_candidates += sum(strategy.scores is None for strategy in strategies)
        return outcome

    def _checked(self, problem: Problem, strategies: Sequence[Strategy]) -> list[Strategy]:
        return [replace(s, leaks=tuple(find_leaks(s, problem, verifier=self.verifier))) for s in strategies]

    async def _rank(self, problem: Problem, shown: str, strategy: Strategy) -> Usable[Scores] | None:
        try:
            return await rank(self.model, problem.problem, shown, strategy)
        except RequestFailed as failure:
            if failure.final:
                return None
            raise

    async def _solution(self, problem: Problem) -> str | None:
        """A solution whose answer is correct: the problem's own or, if allowed, the strong model's."""
        if problem.solution:
            solution = plain_solution(problem.solution)
            if await self._is_correct(solution, problem):
                return solution
            self.report.wrong_solutions += 1
        else:
            self.report.no_solution += 1
        if self.solve:
            prompt = autonomous_prompt(problem.problem)
            for draw in range(self.candidates):
                (answer,) = await self.model.sample(prompt, 1, sampling=SOLVE_SAMPLING, draw=draw)
                solution = plain_solution(answer.text)
                if solution and await self._is_correct(solution, problem):
                    return solution
        return None

    async def _is_correct(self, solution: str, problem: Problem) -> bool:
        verdict = await asyncio.to_thread(self.verifier.verify, solution, problem)
        return verdict.correct

    def _strategy(self, problem: Problem, usable: Usable[StrategyAnswer]) -> Strategy:
        written, answer = usable.value, usable.answer
        return Strategy(
            problem_id=problem.id,
            problem_type=written.problem_type,
            approach=written.approach,
            steps=tuple(written.steps),
            when_to_use=written.when_to_use,
            strong_model=self.model.model,
            prompt_version=EXTRACT_VERSION,
            sampling=asdict(CANDIDATE_SAMPLING),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost=answer.cost,
            created=now(),
        )

    def _key(self, problem: Problem) -> str:
        """A hash of all that an outcome depends on: a problem is done again when any of it changes."""
        parts = [
            problem.to_json(),
            self.model.model,
            self.candidates,
            self.solve,
            [asdict(CANDIDATE_SAMPLING), asdict(SOLVE_SAMPLING)],
            [EXTRACT_VERSION, RANK_VERSION, GATE_VERSION],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _ranked(strategy: Strategy, ranking: Usable[Scores] | None) -> Strategy:
    """The strategy with its scores, and with what they cost."""
    if ranking is None:
        return strategy
    answer = ranking.answer
    return replace(
        strategy,
        scores=ranking.value,
        prompt_tokens=(strategy.prompt_tokens or 0) + answer.prompt_tokens,
        completion_tokens=(strategy.completion_tokens or 0) + answer.completion_tokens,
        cost=None if answer.cost is None else (strategy.cost or 0.0) + answer.cost,
    )


def plain_solution(solution: str) -> str:
    """A solution without the reasoning before it, where something follows, and without GSM8K's calculator marks."""
    return without_calculator_marks(without_reasoning(solution).strip() or solution.strip())


def cut_solution(solution: str, *, limit: int = MAX_SOLUTION_CHARS) -> str:
    """A solution as the strong model is shown it: whole up to `limit` characters, else its first quarter and its last
    three quarters of that, with a mark between them that says how much is left out. The end weighs more because that is
    where a long trace has found its way; both cuts are made between lines where there is one nearby."""
    if len(solution) <= limit:
        return solution
    end, start = limit // 4, len(solution) - (limit - limit // 4)
    end = solution.rfind("\n", end // 2, end) + 1 or end
    start = solution.find("\n", start - 1, start + limit // 4) + 1 or start
    return solution[:end] + CUT_MARK.format(count=start - end) + solution[start:]
