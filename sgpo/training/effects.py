"""What a run's rollouts say of the strategies, and how a bank gets to know it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgpo.strategies.bank import StrategyBank

logger = logging.getLogger("sgpo")


def strategy_effects(rows: Iterable[Mapping[str, Any]], strategy_ids: Mapping[str, str]) -> dict[str, list[int]]:
    """What each strategy did in a run: guided passes and completions, autonomous passes and completions.

    `rows` are those of `rollouts/`; `strategy_ids` says which strategy a problem had. Autonomous completions of a
    problem count for its strategy, as what it is compared with. A completion without a reward (a time-out) counts
    nowhere.
    """
    effects: dict[str, list[int]] = {}
    for row in rows:
        strategy_id = strategy_ids.get(row["problem_id"])
        if strategy_id is None or row["reward"] is None:
            continue
        counts = effects.setdefault(strategy_id, [0, 0, 0, 0])
        place = 0 if row["group"] == "guided" else 2
        counts[place] += row["reward"] > 0.5
        counts[place + 1] += 1
    return effects


def record_effects(bank: Path, run: str, effects: Mapping[str, Sequence[int]]) -> None:
    """Keep what a run has measured in its bank, which only here has to be writable; warns where it is not."""
    try:
        with StrategyBank(bank, create=False) as writable:
            writable.record_run(run, effects)
    except ValueError as error:
        logger.warning("the bank was not told what its strategies did in this run: %s", error)
