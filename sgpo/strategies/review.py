"""A person's hand on strategies: the text to edit, what becomes of it, and acceptance.

What a bank holds, in numbers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from sgpo.errors import InputError
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.ledger import now
from sgpo.strategies.retrieve import group_numbers
from sgpo.strategies.strategy import Strategy, strategy_from_json


def bank_stats(bank: StrategyBank) -> dict[str, Any]:
    """The counts of a bank.

    `problems`: known to it; `strategies`: problems with a kept strategy; `candidates`: all strategies, of which
    `leaking` leak and `unchecked` were never seen by the leak gate; `groups`: kept strategies that are no
    near-duplicates of each other; `failed`: problems for which the strong model gave nothing usable; `outcomes`: how
    extraction ended, per problem; `requests`, `tokens`, `cost`: answered and paid for; `measured`: strategies that
    training used; `uplift`: guided minus autonomous pass rate over all of these.
    """

    def one(query: str) -> Any:
        return bank.db.execute(query).fetchone()

    outcomes = dict(bank.db.execute("SELECT outcome, count(*) FROM outcomes GROUP BY outcome ORDER BY outcome"))
    requests, prompt_tokens, completion_tokens, cost = one(
        "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), sum(cost) "
        "FROM responses"
    )
    measured, effect = bank.total_effect()
    return {
        "problems": one(
            "SELECT count(*) FROM (SELECT problem_id FROM strategies UNION SELECT problem_id FROM outcomes)"
        )[0],
        "strategies": len(bank),
        "candidates": one("SELECT count(*) FROM strategies")[0],
        "leaking": one("SELECT count(*) FROM strategies WHERE leaks IS NOT NULL AND leaks != '[]'")[0],
        "unchecked": one("SELECT count(*) FROM strategies WHERE leaks IS NULL")[0],
        "groups": len(set(group_numbers(list(bank)))),
        "reviewed": one("SELECT count(*) FROM strategies WHERE reviewed IS NOT NULL")[0],
        "failed": outcomes.get("failed", 0),
        "outcomes": outcomes,
        "requests": requests,
        "tokens": prompt_tokens + completion_tokens,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost": cost,
        "measured": measured,
        "uplift": effect.uplift,
    }


def editable_text(strategy: Strategy) -> str:
    """The part of a strategy that a person edits, as JSON."""
    fields = {
        "problem_type": strategy.problem_type,
        "approach": strategy.approach,
        "steps": list(strategy.steps),
        "when_to_use": strategy.when_to_use,
    }
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


def edited(bank: StrategyBank, strategy: Strategy, text: str) -> Strategy:
    """Store an edited text as a new strategy, kept and accepted; the old one stays as a candidate, with its effect.

    The leak gate looks at it where the bank knows the problem (extraction stores it), and says what it finds in
    `leaks`; the decision is the person's. Raises InputError where the text is no strategy; nothing is stored then.
    """
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"line {error.lineno} of the edited text: not JSON ({error.msg}); nothing was changed"
        ) from None
    if not isinstance(row, dict):
        raise InputError("the edited text is no JSON object; nothing was changed")
    written = strategy_from_json({**row, "problem_id": strategy.problem_id})
    if written.text == strategy.text:
        return strategy
    problem = bank.problem(strategy.problem_id)
    leaks = None
    if problem is not None:
        from sgpo.strategies.leak.gate import find_leaks
        from sgpo.verifier import Verifier

        with Verifier(workers=1) as verifier:
            leaks = tuple(find_leaks(written, problem, verifier=verifier))
    moment = now()
    mended = replace(
        strategy,
        id="",
        problem_type=written.problem_type,
        approach=written.approach,
        steps=written.steps,
        when_to_use=written.when_to_use,
        scores=None,
        leaks=leaks,
        created=moment,
        reviewed=moment,
    )
    bank.add(mended)
    return mended


def accepted(bank: StrategyBank, strategy: Strategy) -> Strategy:
    """Mark a strategy as accepted by a person: no extraction replaces it from now on."""
    strategy = replace(strategy, reviewed=now())
    bank.add(strategy)
    return strategy
