"""The training rows in use, as a checkpoint between two updates on one batch of rollouts keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sgpo.algorithms import Target, TrainingRow
from sgpo.rollouts.groups import PromptIds
from sgpo.training.loss import Totals


def save_rows(path: Path, problem_ids: Sequence[str], rows: Sequence[TrainingRow], totals: Totals) -> None:
    """Write the rows of a process, the problems that their `problem_index` points to, and the totals of the batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"problems": list(problem_ids), "rows": [asdict(row) for row in rows], "totals": asdict(totals)}, path)


def load_rows(path: Path) -> tuple[list[str], list[TrainingRow], Totals]:
    """What `save_rows` wrote: problem ids, rows, totals."""
    content = torch.load(path, weights_only=True)
    return content["problems"], [_row(fields) for fields in content["rows"]], Totals(**content["totals"])


def _row(fields: dict[str, Any]) -> TrainingRow:
    target = fields["target"]
    if target is not None:
        target = Target(**{**target, "guided_prompt": PromptIds(**target["guided_prompt"])})
    return TrainingRow(**{**fields, "prompt": PromptIds(**fields["prompt"]), "target": target})
