"""Bad input is refused in one line or counted; a missing verdict poisons nothing."""

from __future__ import annotations

import copy
import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from transformers import BloomConfig, GPT2Config, Qwen2Config

from sgpo import Problem, SGPOConfig, SGPOTrainer
from sgpo.algorithms import ALGORITHMS
from sgpo.errors import InputError
from sgpo.rollouts.models import context_length
from sgpo.training.run_directory import RunDirectory
from sgpo.verifier import Verdict
from tests.training import naive
from tests.training.building import (
    END_TOKENS,
    Recorder,
    ScriptedEngine,
    bank_of,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    number_of,
    policy,
    read_lines,
    some_problems,
    weights_of,
)

PROBLEMS = some_problems()


def says_right(completion, problem):
    return Verdict("correct" if "right" in completion else "wrong", completion)


# -- counted


def test_retrieved_strategies_are_used_if_asked_for_and_counted(tmp_path, tokenizer, monkeypatch):
    bank = bank_of(tmp_path / "bank.db", PROBLEMS[:1])
    asked = []

    def for_problem(problem, *, use):
        asked.append(use)
        return bank.get("q0")

    monkeypatch.setattr(bank, "for_problem", for_problem)
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=PROBLEMS[:3], bank=bank, strategies="both", per_device_train_batch_size=3
    )
    trainer.train()
    assert asked == ["both"] * 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["strategies"]["retrieved"] == 2
    assert config["args"]["strategies"] == "both"


@pytest.mark.parametrize("case", ["another bank", "no bank", "too long", "no solutions"])
def test_an_algorithm_without_its_guidance_is_refused(tmp_path, tokenizer, caplog, case):
    """It would train as another algorithm."""
    problems = some_problems(20)
    strangers = bank_of(tmp_path / "b.db", [Problem(id="p-other", problem="1?", answer="1"), problems[0]])
    options, why = {
        "another bank": ({"bank": strangers}, "b.db holds no strategy for the others: its problem ids .such as "
                         "'p-other'. must be those of the problem file .such as 'q0'."),
        "no bank": ({"bank": None}, "there is no bank of strategies; name one .bank."),
        "too long": ({"max_prompt_length": 12}, "most guided prompts are longer than max_prompt_length=12; raise it"),
        "no solutions": ({"algorithm": "opsd", "strategy_content": "solution"}, "and the others have no solution"),
    }[case]  # fmt: skip
    name = options.get("algorithm", "sgpo")
    guided = int(case == "another bank")
    message = f"algorithm {name} learns from guided prompts, and {guided} of 20 problems can have one: .*{why}"
    with pytest.raises(InputError, match=message + "; or set allow_unguided=true to train without"):
        build_trainer(tmp_path / "run", tokenizer, problems=problems, **options)
    build_trainer(tmp_path / "run", tokenizer, problems=problems, allow_unguided=True, **options)
    assert "learns from guided prompts" in caplog.text
    if case == "no bank":
        build_trainer(tmp_path / "run", tokenizer, problems=problems, num_guided=0, **options)
        build_trainer(tmp_path / "run", tokenizer, problems=problems, algorithm="grpo", **options)


def test_a_bank_for_a_tenth_of_the_problems_is_enough(tmp_path, tokenizer):
    bank = bank_of(tmp_path / "b.db", some_problems(2))
    build_trainer(tmp_path / "run", tokenizer, problems=some_problems(20), bank=bank)


def test_what_is_too_long_or_without_a_strategy_is_counted(tmp_path, tokenizer, caplog):
    long = Problem(id="long", problem="?" * 70, answer="1")
    middling = Problem(id="middling", problem="?" * 50, answer="1")  # its guided prompt is too long
    problems = [*PROBLEMS[:4], long, middling]
    bank = bank_of(tmp_path / "bank.db", [*PROBLEMS[:3], long, middling])
    trainer = build_trainer(tmp_path / "run", tokenizer, problems=problems, bank=bank, per_device_train_batch_size=5)
    trainer.train()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["problems"] == {"problems": 6, "too_long": 1, "global_batch": 5}
    assert config["strategies"]["without_strategy"] == 1
    assert config["strategies"]["guided_prompt_too_long"] == 1
    assert "of 6 problems 1 are left out" in caplog.text
    sampled = [(row["problem_id"], row["group"]) for row in read_lines(tmp_path / "run/rollouts/step-000001.jsonl")]
    assert {id_: sampled.count((id_, "autonomous")) for id_, _ in sampled} == dict.fromkeys(
        ["q0", "q1", "q2", "q3", "middling"], 4
    )
    assert {id_ for id_, group in sampled if group == "guided"} == {"q0", "q1", "q2"}
    (row,) = metrics_of(trainer)
    assert row["completions"] == 5 * 4 + 3 * 4
    assert not (tmp_path / "run/rollouts/step-000002.jsonl").exists()


def test_a_prompt_of_just_the_limit_is_kept(tmp_path, tokenizer):
    problem = Problem(id="edge", problem="?" * 63, answer="1")  # and a space before it
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=[problem], per_device_train_batch_size=1, allow_unguided=True
    )
    assert trainer.prepared.counts["too_long"] == 0
    assert trainer.prepared.counts["guided_prompt_too_long"] == 1


def test_a_truncated_completion_is_never_a_target(tmp_path, tokenizer):
    """q0: the correct guided completions are all cut off; q1: one of them is finished."""

    def script(prompt, number):
        if "do" not in prompt:
            return "wrong."
        return "right." if "do q1" in prompt and number == 2 else "right and on"

    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=PROBLEMS[:2], per_device_train_batch_size=2, verifier=says_right
    )
    trainer.engine = ScriptedEngine(tokenizer, script)
    trainer.train()
    (target,) = read_lines(tmp_path / "run/targets/step-000001.jsonl")
    assert target["problem_id"] == "q1"
    assert "".join(target["tokens"]) == "right."
    assert target["guided_pass_rate"] == 1.0
    assert target["weight"] == 0.8  # 0.5 (1 - 0) / (0 + 0.1), at most 0.8
    (row,) = metrics_of(trainer)
    assert row["targets/fraction"] == 0.5
    assert row["distill_weight"] == pytest.approx(0.4)
    assert row["truncated/guided"] == pytest.approx(7 / 8)
    assert row["truncated/autonomous"] == 0.0


@pytest.mark.parametrize("mask", [False, True])
def test_truncated_completions_count_in_the_policy_loss_unless_masked(tmp_path, tokenizer, mask):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, algorithm="grpo", mask_truncated_completions=mask, callbacks=[recorder]
    )
    trainer.train()
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, hash_verdict)
    model = naive.double(policy())
    finished, _ = naive.policy_loss(model, groups, counts=lambda completion: completion[-1] in END_TOKENS)
    every, _ = naive.policy_loss(model, groups)
    assert abs(finished.item() - every.item()) > 1e-4
    (row,) = metrics_of(trainer)
    assert row["loss"] == pytest.approx((finished if mask else every).item(), abs=1e-6)
    expected = naive.gradients(model, finished if mask else every)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale


# -- verdicts that are missing


def test_timeouts_are_left_out_of_their_groups_and_counted(tmp_path, tokenizer):
    def verdict(completion, problem):
        return Verdict("timeout") if number_of("t", completion) < 0.3 else hash_verdict(completion, problem)

    recorder = Recorder()
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=verdict, callbacks=[recorder])
    trainer.train()
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, verdict)
    timeouts = sum(math.isnan(r) for g in groups for r in (*g.autonomous_rewards, *g.guided_rewards))
    assert timeouts > 5
    model = naive.double(policy())
    policy_part, _ = naive.policy_loss(model, groups)
    distill_part, _ = naive.distill_loss(model, groups, limit=10, ends=END_TOKENS)
    (row,) = metrics_of(trainer)
    assert row["verdicts/timeout"] == timeouts
    assert row["loss/policy"] == pytest.approx(policy_part.item(), abs=1e-6)
    assert row["loss"] == pytest.approx((policy_part + distill_part).item(), rel=1e-5)
    expected = naive.gradients(model, policy_part + distill_part)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale


@pytest.mark.parametrize("verdict", [Verdict("timeout"), math.nan], ids=["timeout", "nan"])
def test_without_a_single_verdict_nothing_moves(tmp_path, tokenizer, verdict):
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=lambda completion, problem: verdict)
    before = weights_of(trainer)
    trainer.train()
    assert largest_difference(before, weights_of(trainer)) == 0.0
    (row,) = metrics_of(trainer)
    assert row["loss"] == 0.0
    assert "groups/all_fail" not in row
    assert "pass_rate/autonomous" not in row
    assert {r["reward"] for r in read_lines(tmp_path / "run/rollouts/step-000001.jsonl")} == {None}
    assert all(math.isfinite(value) for value in row.values())


def test_a_group_without_a_verdict_is_not_one_that_failed(tmp_path, tokenizer):
    """The verifier is busy with all that is said without a strategy: no target, and a row of metrics without a NaN."""

    def verdict(completion, problem):
        judged.append(completion)
        return Verdict("timeout" if len(judged) % 8 in range(1, 5) else "correct")  # 4 autonomous, then 4 guided

    judged = []
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=verdict)
    trainer.train()
    (row,) = metrics_of(trainer)
    assert (row["verdicts/timeout"], row["verdicts/correct"]) == (24, 24)
    assert (row["targets/fraction"], row["distill_weight"], row["loss"]) == (0.0, 0.0, 0.0)
    assert row["pass_rate/guided"] == 1.0
    assert "pass_rate/autonomous" not in row


def test_what_was_not_judged_is_null_in_the_record_of_a_target(tmp_path, tokenizer):
    options = {"algorithm": "opsd", "strategy_content": "solution", "kl_clip": None}
    problems = [replace(problem, solution="so") for problem in PROBLEMS]
    verifier = lambda completion, problem: math.nan  # noqa: E731
    build_trainer(tmp_path / "run", tokenizer, problems=problems, verifier=verifier, **options).train()
    targets = read_lines(tmp_path / "run/targets/step-000001.jsonl")
    assert {target["autonomous_pass_rate"] for target in targets} == {None}


@pytest.mark.parametrize("reward", [math.inf, -math.inf, None, "good"])
def test_a_reward_that_is_no_finite_number_is_refused(tmp_path, tokenizer, reward):
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=lambda completion, problem: reward)
    with pytest.raises(ValueError, match=r"returned .* for problem 'q\d'; it must return a Verdict or a finite number"):
        trainer.train()


# -- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.9}, "top_p must be 1 in training"),
        ({"num_autonomous": 1}, "num_autonomous must be at least 2, got 1: a group of one has no advantage"),
        ({"num_guided": -1}, "num_guided must be at least 0"),
        ({"num_iterations": 0}, "num_iterations must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive in training"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"kl_clip": 0.0}, "kl_clip must be positive"),
        ({"kl_clip_mode": "soft"}, "kl_clip_mode must be one of scale, clamp"),
        ({"distill_loss": "jsd"}, "distill_loss must be one of forward_kl, reverse_kl, sft"),
        ({"target_sft_coef": -0.5}, "target_sft_coef must be at least 0"),
        ({"target_selection": "best"}, "target_selection must be one of likelihood, random"),
        ({"distill_weight": "linear"}, "distill_weight must be one of adaptive, constant"),
        ({"distill_weight_smoothing": 0.0}, "distill_weight_smoothing must be positive"),
        ({"distill_weight_max": -0.1}, "distill_weight_max must be at least 0"),
        ({"clip_low": math.nan}, "clip_low must be at least 0"),
        ({"eval_top_p": 0.0}, r"eval_top_p must lie in \(0, 1\]"),
        ({"eval_max_tokens": 0}, "eval_max_tokens must be at least 1"),
        ({"eval_temperature": -1.0}, "eval_temperature must be at least 0"),
        ({"engine": "sglang"}, "engine must be one of"),
        ({"algorithm": "sgppo"}, "unknown algorithm 'sgppo'; there are: sgpo, grpo"),
        ({"prompt_style": "maths"}, "unknown prompt style 'maths'"),
    ],
)
def test_an_option_out_of_its_range_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SGPOConfig(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"algorithm": "grpo", "kl_clip": 0.1},
            "kl_clip=0.1 is an option of algorithm sgpo or opsd; grpo does not read",
        ),
        ({"algorithm": "grpo", "kl_clip": None}, "kl_clip=null is an option of algorithm sgpo or opsd; grpo does not"),
        ({"algorithm": "grpo", "num_targets": 2}, "num_targets=2 is an option of algorithm guided_sft; grpo does not"),
        (
            {"algorithm": "sft", "num_autonomous": 12},
            "of algorithm sgpo, grpo, luffy, hpt or opsd; sft does not read it",
        ),
        ({"algorithm": "sft", "clip_low": 0.1}, "clip_low=0.1 is an option of algorithm sgpo, grpo, luffy or hpt; sft"),
        ({"algorithm": "guided_sft", "policy_coef": 0.5}, "policy_coef=0.5 is an option of .*; guided_sft does not"),
        ({"algorithm": "luffy", "scale_advantages": False}, "scale_advantages=false is an option of algorithm sgpo or"),
        ({"algorithm": "hpt", "strategies": "both"}, "strategies='both' is an option of algorithm sgpo, guided_sft or"),
        ({"algorithm": "opsd", "strategy_content": "solution", "loss_mean": "sequence"}, "opsd does not read it"),
        ({"imitation_threshold": 0.5}, "imitation_threshold=0.5 is an option of algorithm hpt; sgpo does not read it"),
        ({"vllm_mode": "server"}, "vllm_mode='server' is an option of engine vllm; hf does not read it; leave it out"),
        ({"engine": "vllm", "vllm_server_base_url": "http://a"}, "is an option of vllm_mode server; colocate does not"),
        (
            {"engine": "vllm", "vllm_importance_sampling_correction": False, "vllm_importance_sampling_clip_max": 2.0},
            "is an option of vllm_importance_sampling_correction true; false does not read it",
        ),
        ({"distill_loss": "sft", "kl_clip": 0.5}, "of distill_loss forward_kl or reverse_kl; sft does not read it"),
        (
            {"distill_weight": "constant", "distill_weight_max": 0.5},
            "option of distill_weight adaptive; constant does",
        ),
        (
            {"kl_clip": None, "kl_clip_mode": "clamp"},
            "option of a kl_clip that is not null; kl_clip=null does not",
        ),
        ({"strategy_content": "solution", "strategies": "both"}, "of strategy_content own, other or empty; solution"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha=5.0 is for supervised training"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is for supervised training"),
        ({"wrong_strategy_share": 0.5}, "wrong_strategy_share is called wrong_strategy_fraction now"),
        ({"num_distill_targets": 4}, "num_distill_targets was measured not to help and removed; docs/log.md names"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        SGPOConfig(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report_to": "wandb"}, "report_to=wandb: the package wandb is not installed"),
        ({"report_to": ["tensorboard", "flyte"]}, "report_to=flyte: the package flytekit is not installed"),
        ({"optim": "paged_adamw_8bit"}, "optim=paged_adamw_8bit: .*bitsandbytes"),
        ({"optim": "adamw_torch", "report_to": "none"}, None),
        ({"optim": "adafactor", "report_to": ["logger"]}, None),
    ],
)
def test_packages_that_are_missing_are_named(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("sgpo.training.options.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setattr("sgpo.training.options.find_spec", lambda name: "there" if name == "logger" else None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=message) if message else nullcontext():
        SGPOConfig(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_equal_budget_may_be_named_and_a_resolved_config_loads_again(tmp_path, algorithm):
    content = {"strategy_content": "solution"} if algorithm == "opsd" else {}
    args = SGPOConfig(output_dir=str(tmp_path), use_cpu=True, algorithm=algorithm, num_guided=12, **content)
    RunDirectory(tmp_path).write_config({"args": args.to_dict()})
    config = json.loads((tmp_path / "config.json").read_text())
    assert SGPOConfig(**config["args"]).to_dict() == args.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 7}, "problems to train on: 6, fewer than one batch of 7"),
        ({"gradient_accumulation_steps": 2}, "fewer than one batch of 12"),
        ({"max_prompt_length": 2}, "the prompts of all 6 problems are longer than max_prompt_length=2; raise it"),
        ({"problems": [*PROBLEMS, PROBLEMS[2]]}, "train_dataset: the id 'q2' occurs 2 times"),
        ({"problems": [{"problem": "1+1?"}]}, "train_dataset, row 0: no 'answer'"),
        ({"evaluation": {"a": PROBLEMS, "b": []}}, "eval_dataset 'b' holds no problems"),
        ({"evaluation": []}, "eval_dataset 'eval' holds no problems"),
        ({"evaluation": [PROBLEMS[0]] * 2}, "eval_dataset 'eval': the id 'q0' occurs 2 times"),
        ({"pad_token": "<|none|>"}, "pad_token '<|none|>' is not in the vocabulary"),
    ],
)
def test_data_and_options_that_do_not_fit_are_refused(tmp_path, tokenizer, options, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        build_trainer(tmp_path / "run", tokenizer, **({"bank": None, "algorithm": "grpo"} | options))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("token", "message"), [("pad_token", "has no pad token; name an unused token"), ("eos_token", "has no eos token")]
)
def test_a_tokenizer_without_pad_or_eos_is_refused(tmp_path, tokenizer, token, message):
    tokenizer = copy.deepcopy(tokenizer)
    setattr(tokenizer, token, None)
    with pytest.raises(ValueError, match=message):
        build_trainer(tmp_path / "run", tokenizer)


def test_a_pad_token_of_the_vocabulary_mends_that(tmp_path, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    trainer = build_trainer(tmp_path / "run", tokenizer, pad_token="~")
    assert trainer.predictor.pad_id == tokenizer("~")["input_ids"][0]
    trainer.train()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "no/such/model"])
def test_a_model_path_that_does_not_exist_is_refused(tmp_path, name):
    args = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True)
    with pytest.raises(ValueError, match=f"{name}: no such model directory"):
        SGPOTrainer(name, args, PROBLEMS)


def test_a_directory_that_holds_another_run_is_refused(tmp_path, tokenizer):
    build_trainer(tmp_path / "run", tokenizer).train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already; choose another directory"):
        build_trainer(tmp_path / "run", tokenizer, seed=2).train()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_run_that_failed_in_its_first_step_leaves_a_directory_that_can_be_used(tmp_path, tokenizer, fails_at):
    judged = []

    def fails(completion, problem):
        judged.append(problem.id)
        if len(judged) > 48 * (fails_at - 1):  # a step judges 48 completions
            raise InputError("the user's mistake")
        return hash_verdict(completion, problem)

    options = {"eval_on_start": True, "evaluation": PROBLEMS[:1], "eval_samples": 1, "max_steps": 2, "logging_steps": 2}
    failing = build_trainer(tmp_path / "run", tokenizer, verifier=fails, **(options | {"eval_on_start": False}))
    with pytest.raises(InputError, match="the user's mistake"):
        failing.train()
    (tmp_path / "run/checkpoints/warmup").mkdir(parents=True)
    again = build_trainer(tmp_path / "run", tokenizer, seed=14, **options)
    if fails_at == 2:
        with pytest.raises(ValueError, match="holds a run already"):
            again.train()
        return
    before = json.loads((tmp_path / "run/config.json").read_text())["id"]
    again.train()
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["args"]["seed"], config["id"] == before) == (14, False)
    assert [row["step"] for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row] == [2]
    assert (tmp_path / "run/checkpoints/warmup").exists()


# -- before a model is loaded


@pytest.fixture
def weightless(tmp_path, tokenizer):
    """A model directory with a config and a tokenizer, and no weights: whatever loads it fails."""
    policy(max_position_embeddings=40).config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize(
    "how", [{"quantization_config": {"load_in_4bit": True}}, {"load_in_8bit": True}, {"dtype": "auto"}]
)
def test_quantized_weights_are_not_trained_themselves(tmp_path, tokenizer, weightless, how):
    if "dtype" in how:  # the model says so itself
        config = json.loads((tmp_path / "model/config.json").read_text())
        (tmp_path / "model/config.json").write_text(
            json.dumps(config | {"quantization_config": {"quant_method": "awq"}})
        )
    with pytest.raises(
        InputError, match=r"quantized weights .* cannot be trained themselves; train adapters above them"
    ):
        build_trainer(tmp_path / "run", tokenizer, model=weightless, model_init_kwargs=how, max_completion_length=4)


def test_a_problem_that_cannot_be_judged_is_refused(tmp_path, tokenizer, weightless):
    options = {"model": weightless, "verifier": None, "verifier_workers": 1, "max_completion_length": 4}
    lost = replace(PROBLEMS[2], kind="my_module:check")
    with pytest.raises(InputError, match="problem 'q2': kind 'my_module:check' names no function"):
        build_trainer(tmp_path / "run", tokenizer, problems=[*PROBLEMS[:2], lost, *PROBLEMS[3:]], **options)
    with pytest.raises(InputError, match="problem 'q2': kind 'my_module:check' names no function"):
        build_trainer(tmp_path / "run", tokenizer, evaluation={"fresh": [lost]}, **options)


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({"algorithm": "grpo", "max_completion_length": 36}, 5 + 36),  # ` 2++?`
        ({"max_completion_length": 18}, 23 + 18),  # ` sum : do q2 ; ! | 2++?`
        ({"algorithm": "grpo", "evaluation": PROBLEMS[:1], "eval_max_tokens": 38}, 3 + 38),  # ` 0?`
    ],
)
def test_a_context_that_is_too_short_is_refused(tmp_path, tokenizer, weightless, options, longest):
    message = f"made for 40 tokens, and the longest prompt and completion may have {longest} together"
    with pytest.raises(InputError, match=message):
        build_trainer(tmp_path / "run", tokenizer, model=weightless, **options)
    with pytest.raises(InputError, match="made for 40 tokens"):
        build_trainer(tmp_path / "run", tokenizer, model=policy(max_position_embeddings=40), **options)
    build_trainer(tmp_path / "run", tokenizer, model=policy(max_position_embeddings=longest), **options)


def yarn(positions):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    return Qwen2Config(max_position_embeddings=positions, rope_parameters=rope)


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (Qwen2Config(max_position_embeddings=100), 100),
        (GPT2Config(n_positions=64), 64),
        (BloomConfig(), None),  # it counts distances, and has no limit
        (Qwen2Config(max_position_embeddings=100, rope_parameters={"rope_type": "linear", "factor": 2.0}), 200),
        # Qwen2.5 and DeepSeek write the positions before and after they are stretched.
        (yarn(positions=100), 400),
        (yarn(positions=400), 400),
        (yarn(positions=500), 500),
    ],
)
def test_the_context_of_a_config(config, context):
    assert context_length(config) == context
