"""A person's hand on strategies: the text to edit, what becomes of it, and acceptance."""

from __future__ import annotations

import json
from dataclasses import replace

from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.ledger import now
from sgpo.strategies.strategy import Strategy, strategy_from_json


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
    `leaks`; the decision is the person's. Raises ValueError where the text is no strategy; nothing is stored then.
    """
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"line {error.lineno} of the edited text: not JSON ({error.msg}); nothing was changed"
        ) from None
    if not isinstance(row, dict):
        raise ValueError("the edited text is no JSON object; nothing was changed")
    written = strategy_from_json({**row, "problem_id": strategy.problem_id})
    if written.text == strategy.text:
        return strategy
    problem = bank.problem(strategy.problem_id)
    leaks = None
    if problem is not None:
        from sgpo.strategies.leak import find_leaks
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
