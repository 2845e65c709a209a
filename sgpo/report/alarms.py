"""The alarms of a run (`alarms.jsonl`), each kind once: one that goes off at every step is one line, not a hundred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sgpo.report.plots import short_number
from sgpo.report.reading import Run, count_of, number_of, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A kind of alarm: what it said when it first went off, how often it did, and when last.

    `numbers` is the value that set it off and its threshold, as far as the run says them: `value 0.02, threshold 0.1`.
    """

    kind: str
    message: str
    numbers: str
    count: int
    first_step: int | None
    last_step: int | None


def gather_alarms(run: Run) -> list[Alarm]:
    """The alarms of a run by kind, in the order in which they first went off."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in run.alarms:
        by_kind.setdefault(text_of(row, "alarm") or "alarm", []).append(row)
    return [
        Alarm(
            kind=kind,
            message=text_of(rows[0], "message"),
            numbers=", ".join(
                f"{key} {short_number(number)}"
                for key in ("value", "threshold")
                if (number := number_of(rows[0], key)) is not None
            ),
            count=len(rows),
            first_step=count_of(rows[0], "step"),
            last_step=count_of(rows[-1], "step"),
        )
        for kind, rows in by_kind.items()
    ]
