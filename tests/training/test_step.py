"""What runs in one optimizer step, and that neither the split of a batch nor a part without weight changes it."""

from __future__ import annotations

import pytest
import torch

from tests.training import naive
from tests.training.building import (
    END_TOKENS,
    Recorder,
    bank_of,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    read_lines,
    some_problems,
    weights_of,
)

PROBLEMS = some_problems()


class SpyPredictor:
    """Keeps what goes through the model: (prompts, completions, whether a gradient could flow back)."""

    def __init__(self, predictor):
        self.predictor, self.calls = predictor, []

    def __call__(self, model, prompts, completions):
        predictions = self.predictor(model, prompts, completions)
        self.calls.append(([list(p) for p in prompts], list(completions), predictions.states.requires_grad))
        return predictions


def groups_of(trainer, call=0):
    return naive.read_groups(trainer.engine.calls[call], trainer._tokenizer, PROBLEMS, hash_verdict)


# -- how a batch is split


@pytest.mark.parametrize(("guided", "loss_mean"), [(6, "token"), (2, "token"), (2, "sequence")])
def test_the_split_of_a_batch_changes_nothing(tmp_path, tokenizer, guided, loss_mean):
    """Two steps, in one to six parts and by token budget; with strategies for all and for two of the problems."""
    bank = bank_of(tmp_path / "bank.db", PROBLEMS[:guided])
    ends, rows = [], []
    for size, parts, max_tokens in ((6, 1, 16384), (3, 2, 16384), (2, 3, 16384), (1, 6, 100), (6, 1, 100), (6, 1, 1)):
        trainer = build_trainer(
            tmp_path / f"run-{size}-{max_tokens}",
            tokenizer,
            bank=bank,
            max_steps=2,
            learning_rate=0.1,
            loss_mean=loss_mean,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            max_tokens_per_batch=max_tokens,
        )
        trainer.train()
        ends.append(weights_of(trainer))
        rows.append(metrics_of(trainer))
        targets = [read_lines(path) for path in sorted(trainer.run.path.glob("targets/*"))]
        assert any(targets)
    for other, other_rows in zip(ends[1:], rows[1:], strict=True):
        assert largest_difference(ends[0], other) < 1e-6
        for first, second in zip(rows[0], other_rows, strict=True):
            assert first.keys() == second.keys()
            for key in first.keys() - {key for key in first if key.startswith(("time/", "tokens_per"))}:
                assert second[key] == pytest.approx(first[key], rel=1e-4, abs=1e-5), key


def test_components_are_means_over_the_steps_of_a_row(tmp_path, tokenizer):
    every = build_trainer(tmp_path / "every", tokenizer, max_steps=2, learning_rate=0.1)
    every.train()
    second = build_trainer(tmp_path / "second", tokenizer, max_steps=2, learning_rate=0.1, logging_steps=2)
    second.train()
    (row,) = metrics_of(second)
    for key in ("loss", "loss/policy", "loss/distill"):
        assert row[key] == pytest.approx(sum(r[key] for r in metrics_of(every)) / 2, rel=1e-6), key
    assert row["loss"] == pytest.approx(row["loss/policy"] + row["loss/distill"], rel=1e-5)
    assert row["verdicts/correct"] == sum(r["verdicts/correct"] for r in metrics_of(every))


# -- what runs


def test_one_generation_call_samples_both_groups_and_only_rows_with_a_gradient_are_trained(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer, gradient_accumulation_steps=2, per_device_train_batch_size=3)
    spy = trainer.predictor = SpyPredictor(trainer.predictor)
    trainer.train()
    assert len(trainer.engine.calls) == 1
    prompts, sampling, seeds, _ = trainer.engine.calls[0]
    assert len(prompts) == 6 * (4 + 4)
    assert len(set(seeds)) == len(seeds)
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (1.0, 1.0, 10)

    groups = groups_of(trainer)
    model = naive.double(policy())
    targets = {
        group.problem.id: target
        for group in groups
        if naive.alpha(group) > 0
        for target in [naive.target_of(model, group, limit=10, ends=END_TOKENS)]
        if target is not None
    }
    trained = sorted(
        [(g.prompt, c) for g in groups if len(set(g.autonomous_rewards)) > 1 for c in g.autonomous]
        + [(g.prompt, targets[g.problem.id]) for g in groups if g.problem.id in targets]
    )
    with_gradient = sorted(
        pair for p, c, gradient in spy.calls if gradient for pair in zip(p, map(list, c), strict=True)
    )
    assert with_gradient == trained
    guided = sorted((g.guided_prompt, targets[g.problem.id]) for g in groups if g.problem.id in targets)
    seen = [pair for p, c, gradient in spy.calls if not gradient for pair in zip(p, map(list, c), strict=True)]
    guided_prompts = [group.guided_prompt for group in groups]
    assert sorted(pair for pair in seen if pair[0] in guided_prompts) == guided
    # The only other forward is the one that compares candidates, where there is a choice.
    chosen_from = [
        (g.prompt, c)
        for g in groups
        for correct in [[c for c, r in zip(g.guided, g.guided_rewards, strict=True) if r and c[-1] in END_TOKENS]]
        if g.problem.id in targets and len(correct) > 1
        for c in correct
    ]
    assert sorted(pair for pair in seen if pair[0] not in guided_prompts) == sorted(chosen_from)


def test_without_a_gradient_in_any_group_one_row_is_trained_and_nothing_moves(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=lambda completion, problem: 0.0)
    spy = trainer.predictor = SpyPredictor(trainer.predictor)
    before = weights_of(trainer)
    trainer.train()
    assert [len(completions) for _, completions, _ in spy.calls] == [1]
    assert largest_difference(before, weights_of(trainer)) == 0.0
    (row,) = metrics_of(trainer)
    assert row["loss"] == 0.0
    assert row["groups/all_fail"] == 1.0
    assert row["groups/with_gradient"] == 0.0
    assert row["targets/fraction"] == 0.0
    assert "divergence/mean" not in row


# -- parts without weight


def test_without_distillation_it_is_grpo(tmp_path, tokenizer):
    ends = {}
    empty = bank_of(tmp_path / "empty.db", [])
    for name, options in {
        "grpo": {"algorithm": "grpo"},
        "no weight": {"distill_coef": 0.0},
        "no strategies": {"bank": empty, "allow_unguided": True},
        "no bank": {"bank": None, "allow_unguided": True},
        "no guided completions": {"num_guided": 0},
    }.items():
        trainer = build_trainer(tmp_path / name, tokenizer, **options)
        before = weights_of(trainer)
        trainer.train()
        ends[name] = weights_of(trainer)
        assert largest_difference(before, ends[name]) > 1e-3
    # The same rows in the same order: not even rounding differs. With targets in the batch it may.
    for name in ("no strategies", "no bank", "no guided completions"):
        assert largest_difference(ends["grpo"], ends[name]) == 0.0, name
    assert largest_difference(ends["grpo"], ends["no weight"]) < 1e-6


def test_without_the_policy_gradient_only_the_distillation_is_left(tmp_path, tokenizer):
    recorder = Recorder()
    trainer = build_trainer(tmp_path / "run", tokenizer, policy_coef=0.0, distill_coef=2.0, callbacks=[recorder])
    trainer.train()
    model = naive.double(policy())
    loss, _ = naive.distill_loss(model, groups_of(trainer), limit=10, ends=END_TOKENS)
    expected = naive.gradients(model, 2 * loss)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale
    (row,) = metrics_of(trainer)
    assert row["loss"] == pytest.approx(2 * loss.item(), rel=1e-5)
    assert row["loss/distill"] == pytest.approx(loss.item(), rel=1e-5)  # a component is logged without its factor


# -- several updates on one batch of rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_later_updates_weigh_by_the_policy_that_sampled(tmp_path, tokenizer, temperature):
    recorder = Recorder()
    options = {"num_iterations": 2, "max_steps": 3, "learning_rate": 0.3, "temperature": temperature}
    trainer = build_trainer(tmp_path / "run", tokenizer, callbacks=[recorder], **options)
    trainer.train()
    assert len(trainer.engine.calls) == 2  # for steps 1 and 3
    groups = groups_of(trainer)
    rows = metrics_of(trainer)
    assert rows[0]["clipped_fraction"] == 0.0
    sampled_by = naive.double(policy(), recorder.weights[0])
    model = naive.double(policy(), recorder.weights[1])
    policy_part, outside = naive.policy_loss(model, groups, old=sampled_by, temperature=temperature)
    on_policy, _ = naive.policy_loss(model, groups, temperature=temperature)
    distill_part, _ = naive.distill_loss(
        model, groups, limit=10, ends=END_TOKENS, choose=sampled_by, temperature=temperature
    )
    assert abs(policy_part.item() - on_policy.item()) > 1e-3, "the case is too easy: the ratios are all 1"
    assert 0.05 < outside < 0.95
    assert rows[1]["clipped_fraction"] == pytest.approx(outside, abs=1e-6)
    assert rows[1]["loss/policy"] == pytest.approx(policy_part.item(), rel=1e-4)
    assert rows[1]["loss/distill"] == pytest.approx(distill_part.item(), rel=1e-4)
    expected = naive.gradients(model, policy_part + distill_part)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[1], expected) < 1e-4 * scale
    assert rows[1]["completions"] == rows[0]["completions"] == 48
    assert rows[2]["completions"] == 96
    assert rows[2]["clipped_fraction"] == 0.0


def test_every_global_batch_is_trained_on_as_often_as_asked(tmp_path, tokenizer):
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        algorithm="grpo",
        num_iterations=2,
        per_device_train_batch_size=2,
        max_steps=-1,
        num_train_epochs=2,
        verifier=lambda completion, problem: 0.0,
    )
    trainer.train()
    assert trainer.state.global_step == 2 * 3 * 2  # epochs, global batches, iterations
    calls = [list(dict.fromkeys(map(tuple, prompts))) for prompts, *_ in trainer.engine.calls]
    assert [len(prompts) for prompts in calls] == [2] * 6
    assert len({prompt for prompts in calls[:3] for prompt in prompts}) == 6  # each problem once an epoch
    assert len({prompt for prompts in calls[3:] for prompt in prompts}) == 6
    assert calls[:3] != calls[3:]


def test_a_step_does_not_touch_the_random_state_of_others(tmp_path, tokenizer):
    """Sampling has its own numbers: the same rollouts whatever else drew before."""
    calls = []
    for name, seed in (("a", 1), ("b", 2)):
        trainer = build_trainer(tmp_path / name, tokenizer, target_selection="random")
        torch.manual_seed(seed)
        trainer.train()
        targets = [(r["problem_id"], r["tokens"]) for r in read_lines(trainer.run.path / "targets/step-000001.jsonl")]
        calls.append(([c.token_ids for c in trainer.engine.calls[0][3]], targets))
    assert calls[0] == calls[1]


def test_a_fraction_of_the_problems_is_recorded_and_all_are_counted(tmp_path, tokenizer):
    """The same problems at every step, and fewer ones are among more."""
    ids = {}
    for fraction in (0.3, 0.6, 1.0):
        trainer = build_trainer(
            tmp_path / str(fraction),
            tokenizer,
            problems=some_problems(12),
            per_device_train_batch_size=12,
            max_steps=2,
            rollout_fraction=fraction,
        )
        trainer.train()
        steps = [read_lines(trainer.run.path / f"rollouts/step-00000{step}.jsonl") for step in (1, 2)]
        ids[fraction] = {row["problem_id"] for row in steps[0]}
        assert {row["problem_id"] for row in steps[1]} == ids[fraction]
        targets = read_lines(trainer.run.path / "targets/step-000001.jsonl")
        assert {row["problem_id"] for row in targets} <= ids[fraction]
        assert metrics_of(trainer)[0]["completions"] == 12 * (4 + 4)
    assert set() < ids[0.3] < ids[0.6] < ids[1.0] == {problem.id for problem in some_problems(12)}
