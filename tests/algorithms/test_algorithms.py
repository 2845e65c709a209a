"""What the algorithms choose from rollouts made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sgpo import Problem
from sgpo.algorithms import GRPO, SGPO, algorithm_class, build_algorithm
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup
from sgpo.verifier import Verdict

DICE = torch.Generator().manual_seed(0)


def rollout(reward, name, *, truncated=False):
    """A completion whose single token tells it from the others."""
    return Rollout("", [], [name], str(name), [], truncated, Verdict("correct"), reward)


def group(autonomous, guided=(), *, truncated=()):
    """Rewards of both groups; guided completions are named 100, 101, ..., those in `truncated` were cut off."""
    made = RolloutGroup(Problem(id="p", problem="?", answer="1"), PromptIds("?", [7]), "s-1", PromptIds("s ?", [8, 7]))
    made.autonomous = [rollout(reward, i, truncated=i in truncated) for i, reward in enumerate(autonomous)]
    made.guided = [rollout(reward, 100 + i, truncated=100 + i in truncated) for i, reward in enumerate(guided)]
    return made


class Score:
    """Log-probabilities by token, and what was asked for."""

    def __init__(self, values=None):
        self.values, self.asked = values or {}, []

    def __call__(self, items):
        self.asked.append([(prompt.ids, rollout.completion_ids[0]) for prompt, rollout in items])
        return [torch.tensor([self.values[rollout.completion_ids[0]]]) for _, rollout in items]


def targets_of(rows):
    return {row.problem_index: (row.completion_ids[0], row.target.weight) for row in rows if row.target is not None}


def test_grpo_takes_the_autonomous_rows_with_their_advantages():
    groups = [group([1.0, 0.0, 0.0, 1.0], [1.0, 1.0]), group([1.0, 1.0, 1.0, 1.0])]
    score = Score()
    rows = GRPO(num_autonomous=4).training_rows(groups, score, generator=DICE)
    assert score.asked == []
    assert [row.problem_index for row in rows] == [0] * 4 + [1] * 4
    assert [row.prompt.ids for row in rows] == [[7]] * 8
    # mean 1/2, unbiased standard deviation sqrt(1/3): 0.5 / (0.57735 + 0.0001) = 0.86588
    assert [row.advantage for row in rows] == pytest.approx(
        [0.86588, -0.86588, -0.86588, 0.86588, 0, 0, 0, 0], abs=1e-5
    )
    assert [row.has_gradient for row in rows] == [True] * 4 + [False] * 4
    assert all(row.target is None and row.cross_entropy == 0 for row in rows)


def test_advantages_without_the_standard_deviation():
    rows = GRPO(scale_advantages=False).training_rows([group([1.0, 0.0, 0.0, 0.0])], Score(), generator=DICE)
    assert [row.advantage for row in rows] == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_a_masked_truncated_completion_counts_in_its_group_but_has_no_part_in_the_loss():
    cut = group([1.0, 0.0, 0.0, 1.0], truncated={1})
    rows = GRPO(mask_truncated_completions=True).training_rows([cut], Score(), generator=DICE)
    assert rows[1].advantage is None
    assert not rows[1].has_gradient
    assert rows[0].advantage == pytest.approx(0.86588, abs=1e-5)
    kept = GRPO().training_rows([cut], Score(), generator=DICE)
    assert kept[1].advantage == pytest.approx(-0.86588, abs=1e-5)


def test_a_completion_without_a_reward_is_left_out_of_its_group():
    rows = GRPO().training_rows([group([1.0, math.nan, 0.0])], Score(), generator=DICE)
    # mean 1/2, unbiased standard deviation 0.70711 over two: 0.5 / 0.70721 = 0.70701
    assert [row.advantage for row in rows] == pytest.approx([0.70701, 0.0, -0.70701], abs=1e-5)


def test_sgpo_adds_the_likeliest_correct_guided_completion():
    groups = [group([0.0, 0.0], [1.0, 0.0, 1.0, 1.0])]
    score = Score({100: -2.0, 102: -0.5, 103: -1.0})
    rows = SGPO().training_rows(groups, score, generator=DICE)
    assert score.asked == [[([7], 100), ([7], 102), ([7], 103)]]  # after the unguided prompt, in one call
    assert len(rows) == 3
    target = rows[2]
    assert (target.prompt.ids, target.completion_ids, target.advantage) == ([7], [102], None)
    assert target.has_gradient
    assert (target.target.guided_prompt.ids, target.target.strategy_id) == ([8, 7], "s-1")
    assert (target.target.guided_pass_rate, target.target.autonomous_pass_rate) == (0.75, 0.0)
    assert target.target.weight == 0.8  # 0.5 * 0.75 / 0.1 = 3.75, at most 0.8


@pytest.mark.parametrize(
    ("autonomous", "guided", "weight"),
    [
        ([0.0, 1.0, 1.0, 1.0], [1.0] * 4, 0.5 * 0.25 / 0.85),
        ([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], 0.5 * 0.25 / 0.6),
        ([0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], None),  # guidance brings nothing
        ([1.0, 1.0], [1.0, 0.0], None),  # guidance harms
        ([0.0, math.nan, 1.0, math.nan], [1.0, math.nan], 0.5 * 0.5 / 0.6),  # of those that were judged
        ([math.nan, math.nan], [1.0, 1.0], None),  # nothing was judged: nothing says that guidance is needed
    ],
)
def test_the_weight_follows_from_the_two_pass_rates(autonomous, guided, weight):
    score = Score(dict.fromkeys(range(100, 104), -1.0))
    targets = targets_of(SGPO().training_rows([group(autonomous, guided)], score, generator=DICE))
    assert targets == ({0: (100, pytest.approx(weight))} if weight else {})
    assert score.asked in ([], [[]]) if weight is None else True  # nothing is scored for a target of no weight


def test_the_constants_of_the_weight_are_options():
    made = group([0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    score = Score(dict.fromkeys(range(100, 104), -1.0))
    options = {"distill_weight_base": 0.2, "distill_weight_smoothing": 0.25, "distill_weight_max": 0.9}
    assert targets_of(SGPO(**options).training_rows([made], score, generator=DICE)) == {0: (100, pytest.approx(0.3))}
    constant = SGPO(distill_weight="constant", distill_weight_base=0.37)
    assert targets_of(constant.training_rows([made], score, generator=DICE)) == {0: (100, 0.37)}
    assert targets_of(constant.training_rows([group([1.0], [1.0])], score, generator=DICE)) == {0: (100, 0.37)}


def test_only_where_there_is_a_choice_is_anything_scored():
    """One candidate; none that is correct; several of which all but one were cut off; a real choice."""
    groups = [
        group([0.0, 0.0], [0.0, 1.0]),
        group([0.0, 0.0], [0.0, 0.0]),
        group([0.0, 0.0], [1.0, 1.0, 1.0], truncated={100, 102}),
        group([0.0, 0.0], [1.0, 1.0]),
        group([0.0, 0.0]),
    ]
    score = Score({100: -3.0, 101: -2.0})
    targets = targets_of(SGPO().training_rows(groups, score, generator=DICE))
    assert score.asked == [[([7], 100), ([7], 101)]]
    assert {p: name for p, (name, _) in targets.items()} == {0: 101, 2: 101, 3: 101}


def test_a_completion_that_was_cut_off_is_no_target_but_counts_as_passed():
    rows = SGPO().training_rows([group([0.0, 1.0], [1.0, 1.0], truncated={100, 101})], Score(), generator=DICE)
    assert targets_of(rows) == {}
    rows = SGPO().training_rows([group([0.0, 1.0], [1.0, 0.0, 1.0], truncated={100})], Score(), generator=DICE)
    assert targets_of(rows) == {0: (102, pytest.approx(0.5 * (2 / 3 - 0.5) / 0.6))}


def test_a_random_target_is_correct_and_follows_from_the_generator():
    made = group([0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], truncated={105})
    score = Score()
    algorithm = SGPO(target_selection="random")
    drawn = [
        targets_of(algorithm.training_rows([made], score, generator=torch.Generator().manual_seed(seed)))[0][0]
        for seed in range(40)
    ]
    again = [
        targets_of(algorithm.training_rows([made], score, generator=torch.Generator().manual_seed(seed)))[0][0]
        for seed in range(40)
    ]
    assert set(drawn) == {100, 102, 103}
    assert drawn == again
    assert not any(score.asked)


def test_without_guided_rollouts_sgpo_is_grpo():
    groups = [group([1.0, 0.0, 0.0]), group([0.0, 0.0, 1.0])]
    ours = SGPO().training_rows(groups, Score(), generator=DICE)
    theirs = GRPO().training_rows(groups, Score(), generator=DICE)
    assert ours == theirs


def test_an_algorithm_is_built_from_the_options_that_bear_its_fields_names():
    options = {
        "num_autonomous": 12, "num_guided": 3, "scale_advantages": False, "mask_truncated_completions": True,
        "target_selection": "random",
        "distill_weight": "constant", "distill_weight_base": 0.1,
        "distill_weight_smoothing": 0.2, "distill_weight_max": 0.3, "learning_rate": 1.0,
    }  # fmt: skip
    sgpo = build_algorithm("sgpo", options)
    assert (sgpo.num_autonomous, sgpo.num_guided, sgpo.distill_weight_max) == (12, 3, 0.3)
    grpo = build_algorithm("grpo", options)
    assert (grpo.num_autonomous, grpo.num_guided, grpo.scale_advantages) == (12, 0, False)
    with pytest.raises(ValueError, match="unknown algorithm 'ppo'; there are: sgpo, grpo, sft"):
        build_algorithm("ppo", options)


@pytest.mark.parametrize("name", ["sgpo", "grpo", "sft", "guided_sft", "luffy", "hpt", "opsd"])
def test_a_process_without_problems_has_no_rows(name):
    """Dynamic sampling may draw nothing for it, while the others go on."""
    algorithm = algorithm_class(name)()
    assert algorithm.training_rows([], Score(), generator=DICE) == []


def test_a_row_is_as_long_as_its_longer_forward():
    longer = group([0.0, 0.0], [1.0, 0.0])
    target = [row for row in SGPO().training_rows([longer], Score(), generator=DICE) if row.target is not None]
    assert [row.length for row in target] == [2 + 1]  # the guided prompt and the completion
    longer.prompt = PromptIds("? ? ?", [7, 7, 7])
    target = [row for row in SGPO().training_rows([longer], Score(), generator=DICE) if row.target is not None]
    assert [row.length for row in target] == [3 + 1]
