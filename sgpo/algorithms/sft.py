"""SFT: imitation of the strong model's solutions, the paper's first baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.algorithms.base import Algorithm, Needs, TrainingRow, solution_row
from sgpo.rollouts.groups import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class SFT(Algorithm):
    """Supervised fine-tuning on the strong model's solutions, within the trainer of all other algorithms.

    Sample: nothing. Loss: the cross-entropy of each problem's solution after its autonomous prompt, the mean over all
    solution tokens of the global batch.

    Differences: a batch is drawn as in the other algorithms (problems, not packed tokens), and logits are divided by
    the sampling temperature as everywhere here, which is 1 in every recipe. A problem without a solution, or with one
    longer than `max_completion_length`, is left out of the loss and counted.
    """

    needs = Needs(solutions=True)

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        return [solution_row(p, group) for p, group in enumerate(groups) if group.solution_ids is not None]
