"""Our policy gradient is that of TRL's GRPOTrainer: the same rollouts through its own code, loss and gradient.

TRL is given our completions by its `rollout_func`; it tokenizes, rewards, normalises and differentiates them itself.
"""

from __future__ import annotations

import copy
import os

import pytest
import torch
from datasets import Dataset

from sgpo.algorithms import TrainingRow
from sgpo.algorithms.base import policy_gradient_rows
from sgpo.objective import group_advantages, policy_loss
from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.forward import Predictor, token_logprobs
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup
from sgpo.rollouts.hf import HFEngine
from sgpo.training.config import SGPOConfig
from sgpo.training.loss import Totals, batch_loss
from sgpo.training.metrics import Averages
from sgpo.training.options import installed_name
from tests.training.building import END_TOKENS, largest_difference, number_of, policy, some_problems

PROBLEMS = some_problems(4)
GROUP = 4
LIMIT = 6


@pytest.fixture(scope="module")
def rollouts(tokenizer):
    """Four groups of four completions sampled by the initial policy, finished or not."""
    prompts = [tokenizer(f" {problem.problem}")["input_ids"] for problem in PROBLEMS for _ in range(GROUP)]
    engine = HFEngine(policy(), pad_id=0, eos_ids=END_TOKENS)
    completions = engine.generate(prompts, Sampling(max_tokens=LIMIT), seeds=list(range(len(prompts))))
    assert {completion.finished for completion in completions} == {True, False}
    return prompts, [completion.token_ids for completion in completions]


def reference():
    """Other weights than the policy's, by about half a nat per token."""
    generator = torch.Generator().manual_seed(7)
    model = policy().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model


def reward(completion_ids):
    return float(number_of("reward", list(completion_ids)) < 0.5) + 0.25 * (len(completion_ids) % 2)


@pytest.fixture
def trl_trainer(tmp_path, tokenizer, rollouts, monkeypatch):
    """Makes a GRPOTrainer whose rollouts are ours."""
    monkeypatch.setitem(os.environ, "TRL_EXPERIMENTAL_SILENCE", "1")
    from trl import GRPOConfig, GRPOTrainer

    def build(loss_type="dapo", *, epsilon=0.2, epsilon_high=0.28, **options):
        model = policy()
        if options.get("beta"):  # the reference is loaded by the policy's name
            reference().save_pretrained(tmp_path / "reference")
            model.config._name_or_path = str(tmp_path / "reference")
        prompts, completions = rollouts
        config = GRPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=len(prompts),
            num_generations=GROUP,
            max_completion_length=LIMIT,
            loss_type=loss_type,
            epsilon=epsilon,
            epsilon_high=epsilon_high,
            use_cpu=True,
            bf16=False,
            **{installed_name(GRPOConfig, "activation_checkpointing"): False},
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completion_ids, **kwargs: [reward(ids) for ids in completion_ids],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": f" {problem.problem}"} for problem in PROBLEMS]),
            processing_class=copy.deepcopy(tokenizer),
            rollout_func=lambda texts, _: {"prompt_ids": prompts, "completion_ids": completions, "logprobs": None},
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return build


def trl_loss_and_gradient(trainer, weights=None):
    """TRL's loss on the rollouts, at other weights than the ones that sampled if given."""
    inputs = trainer._generate_and_score_completions(
        [{"prompt": f" {problem.problem}"} for problem in PROBLEMS for _ in range(GROUP)]
    )
    if weights is not None:
        with torch.no_grad():
            inputs["old_per_token_logps"], _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].shape[1],
            )
        trainer.model.load_state_dict(weights)
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters()}, inputs


def groups_of(tokenizer, rollouts):
    groups = []
    for p, problem in enumerate(PROBLEMS):
        prompts, completions = (values[p * GROUP : (p + 1) * GROUP] for values in rollouts)
        group = RolloutGroup(problem, PromptIds(f" {problem.problem}", prompts[0]))
        for ids in completions:
            group.autonomous.append(
                Rollout("", prompts[0], ids, "", [], truncated=ids[-1] not in END_TOKENS, reward=reward(ids))
            )
        groups.append(group)
    return groups


@torch.no_grad()
def logprobs_of(row, model, args):
    predictions = Predictor(model, pad_id=0)(model, [row.prompt.ids], [row.completion_ids])
    return token_logprobs(predictions, torch.tensor(row.completion_ids), temperature=args.temperature)


def our_loss_and_gradient(tmp_path, tokenizer, rollouts, weights=None, **options):
    args = SGPOConfig(output_dir=str(tmp_path / "ours"), use_cpu=True, **options)
    model = policy().train()
    predictor = Predictor(model, pad_id=0)
    rows: list[TrainingRow] = policy_gradient_rows(
        groups_of(tokenizer, rollouts),
        scale_advantages=args.scale_advantages,
        mask_truncated_completions=args.mask_truncated_completions,
    )
    if args.beta:
        for row in rows:
            row.reference_logprobs = logprobs_of(row, reference(), args)
    if weights is not None:
        for row in rows:
            row.old_logprobs = logprobs_of(row, model, args)
        model.load_state_dict(weights)
    loss = batch_loss(model, predictor, rows, Totals.of(rows, problems=len(PROBLEMS)), args, Averages())
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters()}


@pytest.fixture(scope="module")
def moved():
    """The weights of a policy that has moved on since it sampled, enough for ratios beyond the clip range."""
    generator = torch.Generator().manual_seed(5)
    model = policy()
    return {n: w + 0.02 * torch.randn(w.shape, generator=generator) for n, w in model.state_dict().items()}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"scale_rewards": "none"}, {"scale_advantages": False}),
        ({"loss_type": "grpo"}, {"loss_mean": "sequence"}),
        ({"beta": 0.3, "temperature": 0.7}, {"beta": 0.3, "temperature": 0.7}),
        ({"beta": 0.3, "loss_type": "grpo"}, {"beta": 0.3, "loss_mean": "sequence"}),
        (
            {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 0.01, "epsilon_high": 0.02},
            {"importance_sampling_level": "sequence", "loss_mean": "sequence", "clip_low": 0.01, "clip_high": 0.02},
        ),
        (
            {"importance_sampling_level": "sequence", "beta": 0.3},
            {"importance_sampling_level": "sequence", "beta": 0.3},
        ),
    ],
    ids=[
        "default",
        "temperature",
        "unscaled",
        "by sequence",
        "beta",
        "beta by sequence",
        "gspo",
        "gspo by token, beta",
    ],
)
@pytest.mark.parametrize("on_policy", [True, False], ids=["on-policy", "off-policy"])
def test_loss_and_gradient_are_those_of_trl(tmp_path, tokenizer, rollouts, trl_trainer, moved, theirs, ours, on_policy):
    weights = None if on_policy else moved
    loss, gradient, _ = trl_loss_and_gradient(trl_trainer(**theirs), weights)
    our_loss, our_gradient = our_loss_and_gradient(tmp_path, tokenizer, rollouts, weights, **ours)
    scale = max(values.abs().max().item() for values in gradient.values())
    assert scale > 1e-2
    assert our_loss == pytest.approx(loss, abs=1e-5)
    assert largest_difference(our_gradient, gradient) < 1e-5 * max(scale, 1.0)


def test_masking_truncated_completions_is_that_of_trl(tmp_path, tokenizer, rollouts, trl_trainer, monkeypatch):
    trainer = trl_trainer(mask_truncated_completions=True)
    trainer.eos_token_ids = END_TOKENS
    loss, gradient, inputs = trl_loss_and_gradient(trainer)
    assert 0 < (inputs["completion_mask"].sum(1) == 0).sum() < len(rollouts[0])
    our_loss, our_gradient = our_loss_and_gradient(tmp_path, tokenizer, rollouts, mask_truncated_completions=True)
    assert our_loss == pytest.approx(loss, abs=1e-5)
    assert largest_difference(our_gradient, gradient) < 1e-5


def test_the_pure_functions_are_those_of_trl(rollouts, trl_trainer, moved):
    """`group_advantages` and `policy_loss` on the very tensors that TRL made."""
    trainer = trl_trainer()
    loss, _, inputs = trl_loss_and_gradient(trainer, moved)
    rewards_PG = torch.tensor([reward(ids) for ids in rollouts[1]]).view(-1, GROUP)
    advantages_PG = group_advantages(rewards_PG)
    assert torch.allclose(advantages_PG.flatten(), inputs["advantages"], atol=1e-6)
    assert len(set(advantages_PG.flatten().tolist())) > 4
    with torch.no_grad():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].shape[1],
        )
    old, mask = inputs["old_per_token_logps"], inputs["completion_mask"]
    ratios = (logprobs - old).exp()[mask.bool()]
    assert ratios.min() < 0.8
    assert ratios.max() > 1.28
    ours = policy_loss(logprobs, old, inputs["advantages"], mask)
    assert ours.item() == pytest.approx(loss, abs=1e-5)
