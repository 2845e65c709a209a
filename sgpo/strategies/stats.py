"""What a bank holds, in numbers."""

from __future__ import annotations

from typing import Any

from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.retrieve import group_numbers


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
