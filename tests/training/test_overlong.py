"""`soft_punish_cache`: what a completion's length takes off its reward (DAPO, eq. 13), and what it leaves alone."""

from __future__ import annotations

import pytest

from sgpo import SGPOConfig
from sgpo.algorithms import GRPO, LUFFY
from sgpo.errors import InputError
from sgpo.objective import soft_overlong_punishment
from sgpo.problems import Problem
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup, pass_rate, punish_overlong
from tests.training.building import build_trainer, metrics_of, read_lines


def test_worked_by_hand():
    # A limit of 100 tokens, the last 20 punished: none at 80, half at 90, all at 100.
    lengths = {1: 0.0, 80: 0.0, 81: -0.05, 90: -0.5, 100: -1.0}
    assert {n: soft_overlong_punishment(n, limit=100, cache=20) for n in lengths} == pytest.approx(lengths)


def test_it_is_that_of_trl():
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=50, soft_punish_cache=16)([[1] * n for n in range(1, 51)])
    assert [soft_overlong_punishment(n, limit=50, cache=16) for n in range(1, 51)] == pytest.approx(theirs)
    assert len(set(theirs)) == 17


def group_of(lengths, rewards):
    group = RolloutGroup(Problem(id="q", problem="?", answer="1"), PromptIds("", [1]), solution_ids=[1, 2])
    for length, reward in zip(lengths, rewards, strict=True):
        group.autonomous.append(Rollout("", [1], [5] * length, "", [], truncated=False, reward=reward))
        group.guided.append(Rollout("", [1], [5] * length, "", [], truncated=False, reward=reward))
    return group


def test_it_counts_in_advantages_and_nowhere_else():
    # Rewards 1, 1, 0, 0 with punishments 0, -0.5, 0, -1: totals 1, 0.5, 0, -1, their mean 0.125.
    group = group_of([6, 9, 8, 10], [1.0, 1.0, 0.0, 0.0])
    punish_overlong([group], limit=10, cache=2)
    rows = GRPO(num_autonomous=4, scale_advantages=False).rows([group])
    assert [row.advantage for row in rows] == pytest.approx([0.875, 0.375, -0.125, -1.125])
    assert [rollout.reward for rollout in group.autonomous] == [1.0, 1.0, 0.0, 0.0]
    assert [rollout.correct for rollout in group.autonomous] == [True, True, False, False]
    assert pass_rate(group.autonomous) == 0.5
    assert {rollout.punishment for rollout in group.guided} == {None}
    # In LUFFY's union the solution has reward 1, and no punishment: the mean is 0.3.
    rows = LUFFY(num_autonomous=4).rows([group])
    assert [row.advantage for row in rows] == pytest.approx([0.7, 0.2, -0.3, -1.3, 0.7])


def test_a_correct_completion_that_is_punished_stays_correct(tmp_path, tokenizer):
    """Every completion is right: only lengths differ, and they alone give the groups a gradient."""
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=lambda completion, problem: 1.0, soft_punish_cache=10)
    trainer.train()
    row = metrics_of(trainer)[0]
    rows = read_lines(trainer.run.path / "rollouts/step-000001.jsonl")
    tokens = [row["tokens"] for row in rows if row["group"] == "autonomous"]
    assert row["overlong_punishment"] == pytest.approx(-sum(tokens) / len(tokens) / 10)
    assert row["groups/with_gradient"] > 0.5
    assert row["pass_rate/autonomous"] == row["groups/all_pass"] == 1.0
    assert {row["reward"] for row in rows} == {1.0}
    assert row["loss/policy"] != 0.0


def test_without_it_nothing_is_logged(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer)
    trainer.train()
    assert "overlong_punishment" not in metrics_of(trainer)[0]


def test_a_cache_longer_than_a_completion_is_refused(tmp_path):
    with pytest.raises(InputError, match="soft_punish_cache=300 is the last part of max_completion_length=256"):
        SGPOConfig(output_dir=str(tmp_path), soft_punish_cache=300, max_completion_length=256)
