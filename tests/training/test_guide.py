"""The guided branch from a moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from sgpo.rollouts.forward import Predictor, predicted_divergence
from tests.training.building import build_trainer, largest_difference, policy, read_lines, weights_of
from tests.training.test_resume import Killed, assert_ends_like, build, contents

DECAY = 0.7


def test_the_average_follows_the_weights(tmp_path, tokenizer):
    """After two steps from `w0` over `w1` to `w2`: `0.7 (0.7 w0 + 0.3 w1) + 0.3 w2`."""
    weights = []
    for steps in (1, 2):
        trainer = build_trainer(
            tmp_path / f"run-{steps}", tokenizer, guide_decay=DECAY, max_steps=steps, learning_rate=0.1
        )
        trainer.train()
        weights.append(weights_of(trainer))
    start = {name: value.detach() for name, value in policy().named_parameters()}
    expected = {name: 0.49 * start[name] + 0.21 * weights[0][name] + 0.3 * weights[1][name] for name in start}
    assert largest_difference(expected, weights[1]) > 1e-3
    average = trainer.in_hand.average
    assert largest_difference({name: average[name] for name in expected}, expected) < 1e-6


def test_the_divergence_is_to_the_average(tmp_path, tokenizer):
    """The divergences that the second step wrote are those from the average after the first step's update."""
    options = {"guide_decay": DECAY, "learning_rate": 0.1}
    first = build_trainer(tmp_path / "one", tokenizer, max_steps=1, **options)
    first.train()
    second = build_trainer(tmp_path / "two", tokenizer, max_steps=2, **options)
    rows = []
    step = second.training_step

    def keep(model, inputs, *rest):
        rows[:] = [row for part in inputs["parts"] for row in part if row.target is not None]
        return step(model, inputs, *rest)

    second.training_step = keep
    second.train()
    assert rows
    average = policy()
    average.load_state_dict(first.in_hand.average, strict=False)
    current = first.model.eval()
    for row in rows:
        with torch.no_grad():
            unguided = Predictor(current, pad_id=0)(current, [row.prompt.ids], [row.completion_ids])
            guided = Predictor(average, pad_id=0)(average, [row.target.guided_prompt.ids], [row.completion_ids])
            divergence_T = predicted_divergence(unguided, guided, direction="forward", temperature=1.0, one_head=False)
        assert row.target.divergences == pytest.approx(divergence_T.tolist(), rel=1e-3, abs=1e-5)


def test_a_killed_run_goes_on_from_the_average(tmp_path, tokenizer):
    options = {"guide_decay": DECAY}
    whole = build(tmp_path / "whole", tokenizer, **options)
    whole.train()
    with pytest.raises(Killed):
        build(tmp_path / "run", tokenizer, kill_at=3, **options).train()
    resumed = build(tmp_path / "run", tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like((weights_of(whole), *contents(tmp_path / "whole")), resumed)
    targets = [row for path in (tmp_path / "run/targets").iterdir() for row in read_lines(path)]
    assert any(row["step"] == 3 for row in targets), "nothing depends on the average after the checkpoint"
