"""What a run's rollouts say of the strategies, and how the bank learns it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sgpo.strategies.bank import StrategyBank
from sgpo.training.run_directory import RunDirectory, read_json, write_json


def record_effects(run: RunDirectory, bank: StrategyBank, strategy_ids: Mapping[str, str]) -> None:
    """Add what the run measured of each strategy to the bank; a run that goes on later adds only what is new.

    `strategy_ids` says which strategy a problem had. `effects.json` keeps what was added.
    """
    effects = strategy_effects(run.read_rows("rollouts"), strategy_ids)
    file = run.path / "effects.json"
    recorded = read_json(file) if file.exists() else {}
    for strategy_id, counts in effects.items():
        old = recorded.get(strategy_id, [0, 0, 0, 0])
        if counts != old and bank.by_id(strategy_id) is not None:  # someone may have dropped it meanwhile
            bank.record_effect(strategy_id, *new_counts(counts, old))
    write_json(file, effects)


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


def new_counts(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """What came to the counts of `strategy_effects` since `before`.

    A run resumed from an early checkpoint makes steps anew that were counted already: they add nothing, so never more
    passes than completions.
    """
    guided, guided_total, autonomous, autonomous_total = (
        max(new - old, 0) for new, old in zip(now, before, strict=True)
    )
    return [min(guided, guided_total), guided_total, min(autonomous, autonomous_total), autonomous_total]
