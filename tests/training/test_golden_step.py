"""One step of the trainer against naive loops written from the equations."""

from __future__ import annotations

import pytest

from tests.training import naive
from tests.training.building import (
    END_TOKENS,
    Recorder,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    read_lines,
    some_problems,
    weights_of,
)

LIMIT = 10


def train_and_read(tmp_path, tokenizer, *, verifier=hash_verdict, **options):
    """Train one step; the trainer, its initial weights, the recorder, and the groups that it sampled."""
    recorder = Recorder()
    problems = some_problems()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=problems, verifier=verifier, callbacks=[recorder], **options
    )
    before = weights_of(trainer)
    trainer.train()
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, problems, verifier)
    return trainer, before, recorder, groups


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, {}),
        ({"kl_clip_mode": "clamp"}, {"mode": "clamp"}),
        ({"kl_clip": None}, {"cap": None}),
        ({"kl_clip": 0.3, "distill_loss": "reverse_kl"}, {"cap": 0.3, "kind": "reverse_kl"}),
        ({"distill_loss": "sft"}, {"kind": "sft"}),
        ({"temperature": 0.7, "seed": 11}, {"temperature": 0.7}),
        ({"distill_weight": "constant", "distill_weight_base": 0.3}, {"weigh": lambda group: 0.3}),
        ({"target_sft_coef": 0.7}, {"sft": 0.7}),
    ],
    ids=[
        *(
            "forward",
            "clamp",
            "no-cap",
            "reverse",
            "sft",
            "temperature",
            "constant-weight",
            "mixed-in-sft",
        ),
    ],
)
def test_a_step_of_sgpo_is_the_equation(tmp_path, tokenizer, options, reference):
    trainer, before, recorder, groups = train_and_read(tmp_path, tokenizer, **options)
    model = naive.double(policy())
    temperature = options.get("temperature", 1.0)
    policy_part, _ = naive.policy_loss(model, groups, temperature=temperature)
    distill_part, divergences = naive.distill_loss(model, groups, limit=LIMIT, ends=END_TOKENS, **reference)
    assert len(divergences) >= 2, "the case is too easy: hardly any target"
    assert max(map(max, divergences.values())) > 1.0 > min(map(min, divergences.values()))

    (row,) = metrics_of(trainer)
    assert 0 < row["logprob_difference/mean"] < row["logprob_difference/max"] < 1e-5
    assert row["loss/policy"] == pytest.approx(policy_part.item(), abs=1e-6)
    assert row["loss/distill"] == pytest.approx(distill_part.item(), rel=1e-5)
    assert row["loss"] == pytest.approx((policy_part + distill_part).item(), rel=1e-5)
    expected = naive.gradients(model, policy_part + distill_part)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale
    stepped = {name: before[name].double() - expected[name] for name in before}
    assert largest_difference(weights_of(trainer), stepped) < 1e-5 * max(scale, 1.0)

    written = {}
    for target in read_lines(trainer.run.path / "targets/step-000001.jsonl"):
        written.setdefault(target["problem_id"], []).extend(target["divergences"])
    assert written.keys() == divergences.keys()
    for id_, values in divergences.items():
        assert written[id_] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_a_step_of_grpo_is_the_equation(tmp_path, tokenizer):
    """The tokens of a group that has no gradient count too."""

    def verdict(completion, problem):
        return 0.0 if problem.id == "q3" else hash_verdict(completion, problem)

    trainer, _, recorder, groups = train_and_read(
        tmp_path, tokenizer, algorithm="grpo", num_autonomous=5, verifier=verdict
    )
    assert all(len(group.autonomous) == 5 and not group.guided for group in groups)
    assert [group.problem.id for group in groups if len(set(group.autonomous_rewards)) == 1] == ["q3"]
    model = naive.double(policy())
    loss, _ = naive.policy_loss(model, groups)
    (row,) = metrics_of(trainer)
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert "loss/distill" not in row
    expected = naive.gradients(model, loss)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale
