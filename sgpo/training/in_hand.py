"""What a process has in hand between two optimizer steps, as a checkpoint keeps it.

Model, optimizer, schedule and random states are the Trainer's part of a checkpoint; this is ours: the rollouts that
more updates will use, and what was measured since the last row of metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sgpo.algorithms import Target, TrainingRow
from sgpo.rollouts.groups import PromptIds
from sgpo.training.loss import Totals
from sgpo.training.metrics import Averages


@dataclass(slots=True)
class InHand:
    """`rows` are the training rows in use: those of the batch `problem_ids`, in which `group_ids` are sampled (others
    where dynamic sampling replaced some); their `problem_index` points into both.

    `loss` is the sum of the losses since step `logged_step`, `total_loss` that of the steps before, both as the Trainer
    has them; `completions` how many training has sampled so far, all processes together. `average`: the moving average
    of the weights, where the guided branch is taken from one.
    """

    problem_ids: list[str] = field(default_factory=list)
    group_ids: list[str] = field(default_factory=list)
    rows: list[TrainingRow] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    averages: Averages = field(default_factory=Averages)
    completions: int = 0
    loss: float = 0.0
    total_loss: float = 0.0
    logged_step: int = 0
    average: dict[str, torch.Tensor] = field(default_factory=dict)

    def narrow_to(self, problem_ids: list[str]) -> bool:
        """Keep the rows of this part of the batch, and point them there; False where one of these is not in hand."""
        if not set(problem_ids) <= set(self.problem_ids):
            return False
        places = [self.problem_ids.index(id_) for id_ in problem_ids]
        new = {place: i for i, place in enumerate(places)}
        self.rows = [
            replace(row, problem_index=new[row.problem_index]) for row in self.rows if row.problem_index in new
        ]
        self.problem_ids, self.group_ids = problem_ids, [self.group_ids[place] for place in places]
        return True


def save_in_hand(checkpoint: Path, in_hand: InHand, *, process: int) -> None:
    """Write what a process has in hand into a checkpoint."""
    fields = {name: getattr(in_hand, name) for name in InHand.__slots__}
    rows = [asdict(row) for row in in_hand.rows]
    fields |= {"rows": rows, "totals": asdict(in_hand.totals), "averages": vars(in_hand.averages)}
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(fields, _file(checkpoint, process))


def load_in_hand(checkpoint: Path, *, process: int, processes: int) -> InHand:
    """What a process takes up from a checkpoint: its own, or where other processes wrote it, everyone's.

    Raises ValueError for a checkpoint without any.
    """
    saved = len(list(checkpoint.glob("in-hand-*.pt")))
    if not saved:
        raise ValueError(f"{checkpoint}: nothing in it says how the run stood (no in-hand-0.pt)")
    if saved == processes:
        return _read(_file(checkpoint, process))
    everyone = [_read(_file(checkpoint, other)) for other in range(saved)]
    # Means and sums are added up over processes when they are logged: the first takes them all, the others none.
    return _together(everyone, with_averages=process == 0)


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"in-hand-{process}.pt"


def _read(file: Path) -> InHand:
    fields: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    averages = Averages()
    vars(averages).update(fields["averages"])
    rows = [_row(row) for row in fields["rows"]]
    return InHand(**fields | {"rows": rows, "totals": Totals(**fields["totals"]), "averages": averages})


def _row(fields: dict[str, Any]) -> TrainingRow:
    target = fields["target"]
    if target is not None:
        target = Target(**{**target, "guided_prompt": PromptIds(**target["guided_prompt"])})
    return TrainingRow(**{**fields, "prompt": PromptIds(**fields["prompt"]), "target": target})


def _together(parts: Sequence[InHand], *, with_averages: bool) -> InHand:
    first = parts[0]
    together = InHand(
        totals=first.totals, completions=first.completions, logged_step=first.logged_step, average=first.average
    )
    together.averages.steps = parts[0].averages.steps
    for part in parts:
        start = len(together.problem_ids)
        together.rows += [replace(row, problem_index=start + row.problem_index) for row in part.rows]
        together.problem_ids += part.problem_ids
        together.group_ids += part.group_ids
        together.loss += part.loss / len(parts)  # the Trainer logs the mean over processes
        together.total_loss += part.total_loss / len(parts)
        if with_averages:
            together.averages.take_in(part.averages)
    return together
