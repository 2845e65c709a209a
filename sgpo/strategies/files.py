"""Strategies in JSON Lines files."""

from __future__ import annotations

import json
from pathlib import Path

from sgpo.strategies.strategy import Effect, Strategy, effect_from_json, strategy_from_json


def read_strategy_file(path: Path) -> list[tuple[Strategy, bool, Effect | None]]:
    """The strategies of a JSON Lines file, with whether each is kept and what was measured of it, if the file says.

    Raises ValueError that names the file and row: no such file, no rows, not JSON, a field that is missing or wrong,
    two strategies with one id or two kept for one problem.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    rows: list[tuple[Strategy, bool, Effect | None]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            strategy, kept, effect = _read_row(line)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}; nothing was imported") from None
        for key in [("strategy id", strategy.id)] + [("kept strategy for problem", strategy.problem_id)] * kept:
            if key in seen:
                raise ValueError(
                    f"{path}, row {number}: a second {key[0]} {key[1]!r}, the first is in row {seen[key]}; "
                    f"nothing was imported"
                )
            seen[key] = number
        rows.append((strategy, kept, effect))
    if not rows:
        raise ValueError(f"{path}: no strategies in it; expected one JSON object per line")
    return rows


def _read_row(line: str) -> tuple[Strategy, bool, Effect | None]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    kept, effect = row.get("kept", True), row.get("effect")
    if not isinstance(kept, bool):
        raise ValueError("'kept' must be true or false")
    strategy = strategy_from_json(row, also=("kept", "effect"))
    return strategy, kept, None if effect is None else effect_from_json(effect)
