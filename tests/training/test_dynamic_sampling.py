"""Dynamic sampling: which groups give way to which, by hand and in training."""

from __future__ import annotations

import pytest

from sgpo.algorithms import TrainingRow
from sgpo.rollouts.groups import PromptIds, RolloutGroup
from sgpo.training.data import replace_groups_without_gradient, reserve_problems
from tests.training.building import (
    bank_of,
    build_trainer,
    largest_difference,
    metrics_of,
    number_of,
    read_lines,
    some_problems,
    weights_of,
)

PROBLEMS = some_problems(12)
SOLVABLE = {"q1", "q4", "q7", "q10"}


def collect(problems):
    """Groups of two completions; only those of solvable problems have a gradient."""
    groups = [RolloutGroup(problem, PromptIds(problem.problem, [1])) for problem in problems]
    rows = [
        TrainingRow(
            problem_index=i, prompt=group.prompt, completion_ids=[i], advantage=sign * (group.problem.id in SOLVABLE)
        )
        for i, group in enumerate(groups)
        for sign in (1.0, -1.0)
    ]
    return groups, rows


def alone(count):
    return 0, count


def replaced(problems, reserve, *, rounds, offset_and_total=alone):
    return replace_groups_without_gradient(
        *collect(problems), iter(reserve), collect, rounds=rounds, offset_and_total=offset_and_total
    )


def ids(groups):
    return [group.problem.id for group in groups]


def advantages(groups, rows):
    """The advantages of each problem's rows."""
    found = {}
    for row in rows:
        found.setdefault(groups[row.problem_index].problem.id, []).append(row.advantage)
    return found


def test_worked_by_hand():
    # q0 and q2 have no gradient. The first round draws q3 and q4, of which q4 takes the place of q0; the second draws
    # q5 for q2, in vain; the third q7, which takes it.
    batch, reserve = PROBLEMS[:3], [PROBLEMS[i] for i in (3, 4, 5, 7, 10)]
    groups, rows, extra = replaced(batch, reserve, rounds=5)
    assert ids(groups) == ["q4", "q1", "q7"]
    assert ids(extra) == ["q3", "q4", "q5", "q7"]
    assert advantages(groups, rows) == {id_: [1.0, -1.0] for id_ in ("q4", "q1", "q7")}


def test_what_two_draws_bring_at_once_goes_to_two_places():
    groups, rows, _ = replaced([PROBLEMS[0], PROBLEMS[2], PROBLEMS[1]], [PROBLEMS[4], PROBLEMS[7]], rounds=1)
    assert ids(groups) == ["q4", "q7", "q1"]
    assert advantages(groups, rows) == {id_: [1.0, -1.0] for id_ in ("q4", "q7", "q1")}
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("rounds", "reserve", "expected", "sampled"),
    [
        (0, [4, 7], ["q0", "q1", "q2"], 0),  # off
        (1, [3, 4, 7], ["q4", "q1", "q2"], 2),  # the limit: q2 stays
        (9, [3, 5], ["q0", "q1", "q2"], 2),  # nothing left to draw on
    ],
)
def test_it_has_a_limit(rounds, reserve, expected, sampled):
    groups, rows, extra = replaced(PROBLEMS[:3], [PROBLEMS[i] for i in reserve], rounds=rounds)
    assert ids(groups) == expected
    assert len(extra) == sampled
    assert len(rows) == 6


def test_processes_draw_on_with_each_other():
    """This process has nothing to replace, then q0 after two that the first process replaces, then nothing."""
    calls = []

    def record(problems):
        calls.append([problem.id for problem in problems])
        return collect(problems)

    counts = iter([(1, 1), (2, 3), (0, 0)])
    reserve = [PROBLEMS[i] for i in (2, 3, 4, 7, 10)]
    batch = collect([PROBLEMS[1]])
    groups, _, _ = replace_groups_without_gradient(
        *batch, iter(reserve), record, rounds=1, offset_and_total=lambda count: next(counts)
    )
    assert (ids(groups), calls) == (["q1"], [[]])
    batch = collect([PROBLEMS[0]])
    groups, _, _ = replace_groups_without_gradient(
        *batch, iter(reserve), record, rounds=9, offset_and_total=lambda count: next(counts)
    )
    assert (ids(groups), calls) == (["q4"], [[], ["q4"]])


def test_the_order_of_the_reserve_follows_from_seed_and_step():
    def draw(seed=0, step=1):
        return [problem.id for problem in reserve_problems(PROBLEMS, {"q0", "q1"}, seed=seed, step=step)]

    assert sorted(draw()) == sorted(f"q{i}" for i in range(2, 12))
    assert draw() == draw() != sorted(draw())
    assert len({tuple(draw(seed, step)) for seed in (0, 1) for step in (1, 2)}) == 4


# -- in training


MIXED = {problem.id for problem in PROBLEMS[1::2]}  # half of their completions pass; of the others none


def mixed_reward(completion, problem):
    return float(problem.id in MIXED and number_of(completion, problem.id) < 0.5)


def build(out, tokenizer, **options):
    defaults = {"problems": PROBLEMS, "verifier": mixed_reward, "algorithm": "grpo", "dynamic_sampling": 9,
                "per_device_train_batch_size": 3, "learning_rate": 0.1, "max_steps": 2}  # fmt: skip
    return build_trainer(out, tokenizer, **(defaults | options))


def test_the_batch_fills_up_and_every_completion_counts(tmp_path, tokenizer):
    trainer = build(tmp_path / "run", tokenizer)
    trainer.train()
    assert set(trainer.pending.group_ids) <= MIXED
    rows = metrics_of(trainer)
    files = [read_lines(tmp_path / "run" / "rollouts" / f"step-{step:06d}.jsonl") for step in (1, 2)]
    for row, sampled, before in zip(rows, files, ([], files[0]), strict=True):
        problems = {each["problem_id"] for each in sampled}
        assert len(sampled) == 4 * len(problems)
        assert row["groups/extra"] == len(problems) - 3 > 0
        assert row["completions"] == len(sampled) + len(before)
        failed = problems - MIXED
        assert failed
        assert row["groups/all_fail"] >= len(failed) / len(problems)
    assert trainer.pending.totals.policy_sequences == 3 * 4


def test_a_group_with_a_target_has_a_gradient(tmp_path, tokenizer):
    """All fail alone and all pass with a strategy: GRPO has nothing to learn, SGPO a target everywhere."""
    guided = {f" sum : do {problem.id} ; ! | {problem.problem}" for problem in PROBLEMS}
    texts = set()
    trainer = build(
        tmp_path / "run",
        tokenizer,
        algorithm="sgpo",
        verifier=lambda completion, problem: float(completion in texts),
        bank=bank_of(tmp_path / "b.db", PROBLEMS),
        max_steps=1,
        max_completion_length=16,
    )
    generate = trainer.engine.generate

    def remember(prompts, sampling, *, seeds):
        completions = generate(prompts, sampling, seeds=seeds)
        for prompt, completion in zip(prompts, completions, strict=True):
            if tokenizer.decode(prompt) in guided and completion.finished:
                texts.add(tokenizer.decode(completion.token_ids, skip_special_tokens=True))
        return completions

    trainer.engine.generate = remember
    trainer.train()
    (row,) = metrics_of(trainer)
    assert row["pass_rate/guided"] > 0
    targets = read_lines(tmp_path / "run" / "targets" / "step-000001.jsonl")
    assert {target["problem_id"] for target in targets} == set(trainer.pending.group_ids)


def test_a_resumed_run_draws_the_same_problems(tmp_path, tokenizer):
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = build(tmp_path / "whole", tokenizer, **options)
    whole.train()
    build(tmp_path / "run", tokenizer, max_steps=1, **options).train()
    resumed = build(tmp_path / "run", tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    name = "rollouts/step-000002.jsonl"
    assert read_lines(tmp_path / "run" / name) == read_lines(tmp_path / "whole" / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_iterations": 2}, "dynamic_sampling=9 needs num_iterations=1, got 2"),
        ({"dynamic_sampling": -1}, "dynamic_sampling must be at least 0, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "run", tokenizer, **options)
