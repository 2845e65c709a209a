"""What the baselines choose from rollouts and solutions made by hand."""

from __future__ import annotations

import math

import pytest

from sgpo.algorithms import HPT, LUFFY, OPSD, SFT, GuidedSFT, build_algorithm
from tests.algorithms.test_algorithms import DICE, Score, group

SOLUTION = [50, 51, 1]


def with_solution(autonomous=(), guided=(), *, truncated=()):
    made = group(list(autonomous), guided, truncated=truncated)
    made.solution_ids = SOLUTION
    return made


def chosen(algorithm, groups):
    """(problem, completion, advantage, cross-entropy, shaping) of each row; nothing is scored by any baseline."""
    score = Score()
    rows = algorithm.training_rows(groups, score, generator=DICE)
    assert score.asked == []
    assert all(row.prompt.ids == [7] for row in rows)  # learned after the plain prompt
    return [(row.problem_index, row.completion_ids, row.advantage, row.cross_entropy, row.shaping) for row in rows]


def test_sft_imitates_the_solutions_that_there_are():
    assert chosen(SFT(), [with_solution(), group([]), with_solution()]) == [
        (0, SOLUTION, None, 1.0, None),
        (2, SOLUTION, None, 1.0, None),
    ]
    assert (SFT().num_autonomous, SFT().num_guided, SFT().needs.solutions) == (0, 0, True)


def test_guided_sft_imitates_correct_whole_guided_completions():
    groups = [
        group([], [0.0, 1.0, 1.0, 1.0, 1.0], truncated={101}),
        group([], [0.0, 0.0]),
        group([], [1.0]),
    ]
    assert chosen(GuidedSFT(num_targets=2), groups) == [
        (0, [102], None, 1.0, None),
        (0, [103], None, 1.0, None),
        (2, [100], None, 1.0, None),
    ]
    assert [row[1] for row in chosen(GuidedSFT(num_targets=12), groups)] == [[102], [103], [104], [100]]
    assert (GuidedSFT(num_guided=12).num_autonomous, GuidedSFT(num_guided=12).num_guided) == (0, 12)


def test_luffy_adds_the_solution_to_its_group():
    # Rewards 0, 0, 1 and the solution's 1: mean 1/2, no division by the standard deviation.
    assert chosen(LUFFY(), [with_solution([0.0, 0.0, 1.0])]) == [
        (0, [0], -0.5, 0.0, None),
        (0, [1], -0.5, 0.0, None),
        (0, [2], 0.5, 0.0, None),
        (0, SOLUTION, 0.5, 0.0, 0.1),
    ]


def test_luffy_where_all_fail_the_solution_is_the_only_way_up_and_where_all_pass_it_adds_nothing():
    rows = chosen(LUFFY(off_policy_shaping=0.3), [with_solution([0.0, 0.0, 0.0]), with_solution([1.0, 1.0])])
    assert [row[2] for row in rows] == pytest.approx([-0.25, -0.25, -0.25, 0.75, 0.0, 0.0, 0.0])
    assert rows[3] == (0, SOLUTION, pytest.approx(0.75), 0.0, 0.3)


def test_luffy_without_a_solution_without_a_reward_and_with_a_cut_completion():
    groups = [group([0.0, 1.0]), with_solution([math.nan, 0.0], truncated={1})]
    rows = chosen(LUFFY(mask_truncated_completions=True), groups)
    assert [row[2] for row in rows] == [-0.5, 0.5, 0.0, None, 0.5]


def test_luffy_knows_what_the_engine_gave_for_its_own_completions():
    made = with_solution([0.0, 1.0])
    made.autonomous[0].logprobs = [-0.1]
    rows = LUFFY().training_rows([made], Score(), generator=DICE)
    assert [row.sampling_logprobs for row in rows] == [[-0.1], None, None]


def test_hpt_imitates_nothing_where_nothing_was_judged():
    assert chosen(HPT(), [with_solution([math.nan, math.nan])]) == [(0, [0], 0.0, 0.0, None), (0, [1], 0.0, 0.0, None)]


def test_hpt_imitates_only_where_every_completion_failed():
    groups = [with_solution([0.0, 0.0]), with_solution([1.0, 0.0]), with_solution([1.0, 1.0])]
    assert chosen(HPT(), groups) == [
        (1, [0], 0.5, 0.0, None),
        (1, [1], -0.5, 0.0, None),
        (2, [0], 0.0, 0.0, None),
        (2, [1], 0.0, 0.0, None),
        (0, SOLUTION, None, 1.0, None),
    ]


def test_hpt_threshold_and_a_problem_without_a_solution():
    groups = [with_solution([1.0, 0.0]), group([0.0, 0.0])]
    rows = chosen(HPT(imitation_threshold=0.5), groups)
    assert rows == [(1, [0], 0.0, 0.0, None), (1, [1], 0.0, 0.0, None), (0, SOLUTION, None, 1.0, None)]
    assert len(chosen(HPT(imitation_threshold=0.49), groups)) == 4


def test_opsd_corrects_every_own_completion_right_or_wrong():
    rows = OPSD().training_rows([group([1.0, 0.0, 0.0, 0.0])], Score(), generator=DICE)
    assert [row.completion_ids for row in rows] == [[0], [1], [2], [3]]
    assert [row.target.weight for row in rows] == [0.25] * 4  # the mean over a problem's completions
    assert all(row.advantage is None and row.cross_entropy == 0 for row in rows)
    assert rows[0].target.guided_prompt.ids == [8, 7]
    assert (rows[0].target.guided_pass_rate, rows[0].target.autonomous_pass_rate) == (None, 0.25)
    assert OPSD().needs.frozen_guided_model


def test_opsd_without_a_solution_to_read_and_with_cut_completions():
    bare = group([1.0, 0.0])
    bare.guided_prompt = None
    cut = group([1.0, 0.0], truncated={0})
    rows = OPSD(mask_truncated_completions=True).training_rows([bare, cut], Score(), generator=DICE)
    assert [(row.problem_index, row.completion_ids) for row in rows] == [(1, [1])]
    assert len(OPSD().training_rows([cut], Score(), generator=DICE)) == 2


def test_opsd_reads_the_solution_and_nothing_else():
    options = {"num_autonomous": 8, "mask_truncated_completions": False, "strategy_content": "own"}
    with pytest.raises(ValueError, match="set strategy_content to 'solution', not 'own'"):
        build_algorithm("opsd", options)
    assert build_algorithm("opsd", options | {"strategy_content": "solution"}).num_guided == 0
