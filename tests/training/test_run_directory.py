"""The files of a run are those of docs/run-directory.md; evaluation, best model and early stopping work on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback

from sgpo import Problem
from sgpo.io import read_json
from sgpo.training.run_directory import RunDirectory, checkpoint_step
from sgpo.verifier import Verdict
from tests.training import naive
from tests.training.building import (
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

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROBLEMS = some_problems()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tokenizer):
    """A run of two steps with a checkpoint after the first and evaluations on two sets: its trainer."""
    trainer = build_trainer(
        tmp_path_factory.mktemp("finished") / "run",
        tokenizer,
        evaluation={"easy": PROBLEMS[:2], "hard": [Problem(id="h", problem="h?", answer="1", subject="algebra")]},
        max_steps=2,
        learning_rate=0.1,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        eval_samples=3,
    )
    trainer.train()
    return trainer


def documented(heading):
    """The keys of the example object under a heading of docs/run-directory.md."""
    text = (DOCS / "run-directory.md").read_text(encoding="utf-8").split(f"## {heading}")[1]
    return json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])


def test_the_files_are_the_documented_ones(finished):
    run = finished.run.path
    names = {
        str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts
    }
    steps = {f"{kind}/step-00000{step}.jsonl" for kind in ("rollouts", "targets") for step in (1, 2)}
    evaluations = {
        f"eval/{name}-step-00000{step}.{end}"
        for name in ("easy", "hard")
        for step in (0, 1, 2)
        for end in ("json", "jsonl")
    }
    assert names == {"config.json", "metrics.jsonl", "strategies.jsonl"} | steps | evaluations
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2", "final"}


def test_config_json_says_what_was_run(finished):
    config = read_json(finished.run.path / "config.json")
    example = documented("`config.json`")
    assert config.keys() == example.keys()
    for section in ("problems", "strategies", "prompts", "machine"):
        assert config[section].keys() == example[section].keys(), section
    assert example["versions"].keys() <= config["versions"].keys()
    assert config["algorithm"] == "sgpo"
    assert config["problems"] == {"problems": 6, "too_long": 0, "global_batch": 6}
    assert config["strategies"]["path"].endswith("run.db")
    assert (config["args"]["num_autonomous"], config["args"]["num_guided"]) == (4, 4)


def test_rollouts_are_all_that_was_sampled(finished, tokenizer):
    rows = read_lines(finished.run.path / "rollouts/step-000002.jsonl")
    assert len(rows) == 6 * (4 + 4)
    for row, completion in zip(rows, finished.engine.calls[-3][3], strict=True):
        assert row.keys() == documented("A row of `rollouts/`").keys()
        assert row["step"] == 2
        assert row["tokens"] == len(completion.token_ids)
        assert row["truncated"] == (not completion.finished)
        assert row["completion"] == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        verdict = hash_verdict(row["completion"], next(p for p in PROBLEMS if p.id == row["problem_id"]))
        assert (row["verdict"], row["extracted"]) == (verdict.kind, verdict.extracted)
        assert row["reward"] == float(verdict.correct)
        guided = row["group"] == "guided"
        assert ("do " in row["prompt"]) == guided
        assert (row["strategy_id"] is not None) == guided


def test_strategies_are_those_that_rollouts_name(finished):
    strategies = {row["id"]: row for row in read_lines(finished.run.path / "strategies.jsonl")}
    rows = read_lines(finished.run.path / "rollouts/step-000001.jsonl")
    assert {row["strategy_id"] for row in rows if row["group"] == "guided"} == strategies.keys()
    assert {row["problem_id"] for row in strategies.values()} == {problem.id for problem in PROBLEMS}


def test_targets_are_rows_of_the_rollouts(finished):
    rows = read_lines(finished.run.path / "targets/step-000002.jsonl")
    rollouts = read_lines(finished.run.path / "rollouts/step-000002.jsonl")
    assert rows
    for row in rows:
        assert row.keys() == documented("A row of `targets/`").keys()
        assert len(row["tokens"]) == len(row["divergences"]) > 0
        assert row["kl_clip"] == 1.0
        own = [r for r in rollouts if r["problem_id"] == row["problem_id"]]
        rates = {group: sum(r["reward"] for r in own if r["group"] == group) / 4 for group in ("guided", "autonomous")}
        assert (row["guided_pass_rate"], row["autonomous_pass_rate"]) == (rates["guided"], rates["autonomous"])
        expected = 0.5 * (rates["guided"] - rates["autonomous"]) / (rates["autonomous"] + 0.1)
        assert row["weight"] == pytest.approx(min(max(expected, 0), 0.8))


def test_metrics_have_documented_keys(finished):
    documented_keys = set()
    for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines():
        names = re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []
        for name in names:
            documented_keys.add(names[0].rpartition("/")[0] + name if name.startswith("/") else name)
    rows = read_lines(finished.run.path / "metrics.jsonl")
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == [1, 2]
    for row in trained:
        assert row.keys() <= documented_keys, row.keys() - documented_keys
    # Only what this run has no part in is missing.
    assert documented_keys - trained[1].keys() <= {
        "loss/cross_entropy",
        "loss/off_policy",
        "importance_weight",
        "groups/extra",
        "kl",
        "overlong_punishment",
        "reward",
        "rewards/NAME/mean",
        "rewards/NAME/missing",
    }


def test_metrics_are_what_the_rollouts_show(finished):
    for row in metrics_of(finished):
        rollouts = read_lines(finished.run.path / f"rollouts/step-{row['step']:06d}.jsonl")
        for group in ("autonomous", "guided"):
            own = [r for r in rollouts if r["group"] == group]
            assert row[f"pass_rate/{group}"] == pytest.approx(sum(r["reward"] for r in own) / 24)
            assert row[f"completion_length/{group}"] == pytest.approx(sum(r["tokens"] for r in own) / 24)
            assert row[f"truncated/{group}"] == pytest.approx(sum(r["truncated"] for r in own) / 24)
        alone = [
            [r for r in rollouts if r["group"] == "autonomous" and r["problem_id"] == problem.id]
            for problem in PROBLEMS
        ]
        passes = [sum(r["reward"] for r in group) for group in alone]
        assert row["groups/all_fail"] == pytest.approx(passes.count(0) / 6)
        assert row["groups/all_pass"] == pytest.approx(passes.count(4) / 6)
        assert row["groups/with_gradient"] == pytest.approx(sum(0 < p < 4 for p in passes) / 6)
        assert row["distinct_answers"] == pytest.approx(sum(len({r["extracted"] for r in g}) for g in alone) / 6)
        assert row["tokens"] == sum(r["tokens"] for r in rollouts)
        for kind in ("correct", "wrong", "unparsed", "timeout"):
            assert row[f"verdicts/{kind}"] == sum(r["verdict"] == kind for r in rollouts)
        targets = read_lines(finished.run.path / f"targets/step-{row['step']:06d}.jsonl")
        values = [kl for target in targets for kl in target["divergences"]]
        assert row["targets/fraction"] == pytest.approx(len(targets) / 6)
        assert row["distill_weight"] == pytest.approx(sum(target["weight"] for target in targets) / 6)
        assert row["divergence/mean"] == pytest.approx(sum(values) / len(values))
        assert row["divergence/clipped_mean"] == pytest.approx(sum(min(kl, 1) for kl in values) / len(values))
        assert row["divergence/clipped_fraction"] == pytest.approx(sum(kl > 1 for kl in values) / len(values))
        assert row["completions"] == row["step"] * 48


def test_entropy_is_that_of_the_sampled_tokens(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer)
    trainer.train()
    model = naive.double(policy())
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, hash_verdict)
    logprobs = torch.cat([naive.logprobs(model, g.prompt, c) for g in groups for c in g.autonomous])
    (row,) = metrics_of(trainer)
    assert row["entropy"] == pytest.approx(-logprobs.mean().item(), rel=1e-4)


def test_evaluations_are_scored_over_their_samples(finished):
    run = finished.run.path
    for name, count in (("easy", 2), ("hard", 1)):
        result = read_json(run / f"eval/{name}-step-000002.json")
        assert {"name", "step", "completions", "problems", "k", "avg@3", "pass@1", "pass@2", "pass@3", "maj@3",
                "verdicts", "length", "truncated", "subjects", "levels", "samples"} == result.keys()  # fmt: skip
        assert (result["name"], result["step"], result["completions"]) == (name, 2, 96)
        assert (result["problems"], result["k"]) == (count, 3)
        kinds = [kind for sample in result["samples"].values() for kind in sample]
        assert result["avg@3"]["mean"] == pytest.approx(kinds.count("correct") / len(kinds))
        rows = read_lines(run / f"eval/{name}-step-000002.jsonl")
        assert len(rows) == 3 * count
        keys = re.search(r"A row of `eval/\*\.jsonl`: `\{(.*?)\}`", (DOCS / "run-directory.md").read_text())[1]
        assert set(rows[0]) == set(re.findall(r'"(\w+)"', keys))
        assert not any("do " in row["prompt"] for row in rows)
        metrics = [row for row in read_lines(run / "metrics.jsonl") if f"eval/{name}_avg@3" in row]
        assert [row["step"] for row in metrics] == [0, 1, 2]
        assert [row["eval/completions"] for row in metrics] == [0, 48, 96]
        assert metrics[-1][f"eval/{name}_avg@3"] == result["avg@3"]["mean"]
        assert metrics[-1][f"eval/{name}_pass@2"] == result["pass@2"]["mean"]


def test_evaluation_uses_its_own_sampling(finished):
    for prompts, sampling, _, _ in finished.engine.calls:
        training = len(prompts) == 48
        assert (sampling.temperature, sampling.top_p) == ((1.0, 1.0) if training else (0.6, 0.95))
    seeds = [call[2] for call in finished.engine.calls if len(call[0]) == 6]
    assert seeds[0] == seeds[1] == seeds[2]  # the same dice at every moment


def test_the_final_model_loads_and_is_the_trained_one(finished):
    final = finished.run.final_model
    model = AutoModelForCausalLM.from_pretrained(final)
    assert largest_difference(dict(model.named_parameters()), weights_of(finished)) == 0.0
    assert AutoTokenizer.from_pretrained(final)("1+1")["input_ids"] == finished._tokenizer("1+1")["input_ids"]
    for name in ("checkpoint-1", "checkpoint-2", "final"):
        files = {path.name for path in (finished.run.checkpoints / name).iterdir()}
        assert "model.safetensors" in files
        assert not {"pytorch_model.bin"} & files
    assert {"trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {
        path.name for path in (finished.run.checkpoints / "checkpoint-1").iterdir()
    }


def scores_by_step(scores):
    """A verifier whose evaluations score as told: by how often all problems of a set were judged."""
    seen = []

    def verdict(completion, problem):
        if problem.id != "watched":
            return hash_verdict(completion, problem)
        seen.append(1)
        return Verdict("correct" if len(seen) % 2 < 2 * scores[(len(seen) - 1) // 2] else "wrong", "")

    return verdict


EVALUATED = {
    "max_steps": 4,
    "learning_rate": 0.1,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_samples": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "avg@2",
}
WATCHED = [Problem(id="watched", problem="w?", answer="1")]


def test_the_best_model_is_loaded_at_the_end(tmp_path, tokenizer):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        evaluation=WATCHED,
        verifier=scores_by_step([0, 1, 0.5, 0]),
        callbacks=[recorder],
        **EVALUATED,
    )
    trainer.train()
    rows = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "eval/avg@2" in row]
    assert [row["eval/avg@2"] for row in rows] == [0, 1, 0.5, 0]
    assert trainer.state.best_global_step == 2
    # The recorder sees the weights before each step: those after step 2 are the ones before step 3.
    final = AutoModelForCausalLM.from_pretrained(trainer.run.final_model)
    assert largest_difference(dict(final.named_parameters()), recorder.weights[2]) == 0.0
    assert {path.name for path in trainer.run.checkpoints.iterdir()} == {"checkpoint-2", "final"}


def test_early_stopping_works(tmp_path, tokenizer):
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        evaluation=WATCHED,
        verifier=scores_by_step([1, 0.5, 0, 0]),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        **EVALUATED,
    )
    trainer.train()
    assert [row["step"] for row in metrics_of(trainer)] == [1, 2, 3]


def test_one_of_several_sets_can_choose_the_best_model(tmp_path, tokenizer):
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        evaluation={"easy": PROBLEMS[:1], "watched": WATCHED},
        verifier=scores_by_step([0.5, 1, 0, 0]),
        **(EVALUATED | {"metric_for_best_model": "watched_avg@2"}),
    )
    trainer.train()
    assert trainer.state.best_global_step == 2


# -- rewards of other kinds


def test_a_function_that_returns_numbers_is_a_reward(tmp_path, tokenizer):
    def reward(completion, problem):
        return len(completion) % 4 / 3  # 0, 1/3, 2/3, 1: above one half is correct

    recorder = Recorder()
    trainer = build_trainer(tmp_path / "run", tokenizer, verifier=reward, callbacks=[recorder])
    trainer.train()
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, reward)
    assert len({r for group in groups for r in group.autonomous_rewards}) >= 3
    model = naive.double(policy())
    loss, _ = naive.policy_loss(model, groups)
    (row,) = metrics_of(trainer)
    assert row["loss/policy"] == pytest.approx(loss.item(), abs=1e-6)
    rates = [naive.pass_rate(group.autonomous_rewards) for group in groups]
    assert row["pass_rate/autonomous"] == pytest.approx(sum(rates) / 6)
    rows = read_lines(tmp_path / "run/rollouts/step-000001.jsonl")
    assert {row["verdict"] for row in rows} == {None}
    assert {row["reward"] for row in rows} <= {0.0, 1 / 3, 2 / 3, 1.0}
    assert row["verdicts/correct"] == 0


def test_our_verifier_judges_when_none_is_given(tmp_path, tokenizer):
    """Problems of kind `exact` whose answers are what the policy happened to say."""
    scout = build_trainer(tmp_path / "scout", tokenizer, algorithm="grpo")
    scout.train()
    said = {}
    for row in read_lines(tmp_path / "scout/rollouts/step-000001.jsonl"):
        if row["completion"].split():
            said.setdefault(row["problem_id"], " ".join(row["completion"].strip().splitlines()[-1].split()))
    problems = [Problem(id=p.id, problem=p.problem, answer=said[p.id], kind="exact") for p in PROBLEMS]
    bank = bank_of(tmp_path / "bank.db", problems)
    trainer = build_trainer(tmp_path / "run", tokenizer, algorithm="grpo", problems=problems, bank=bank, verifier=None)
    trainer.train()
    (row,) = metrics_of(trainer)
    assert row["verdicts/correct"] >= 4
    assert row["verdicts/wrong"] > 4
    assert row["pass_rate/autonomous"] == pytest.approx(row["verdicts/correct"] / 24)
    trainer.verifier.close()


# -- the record itself


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_rows("rollouts", 1, [{"completion": "\ud83d \u2028"}])
    assert read_lines(tmp_path / "rollouts/step-000001.jsonl") == [{"completion": "\ud83d \u2028"}]


@pytest.mark.parametrize("name", ["checkpoint-", "checkpoint-x", "final"])
def test_only_a_checkpoint_has_a_step(name):
    assert checkpoint_step(Path("checkpoint-50")) == 50
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        checkpoint_step(Path(name))


def test_a_row_of_metrics_is_a_result_and_what_a_failed_run_left_is_none(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_config({})
    run.append_metrics({"step": 0, "eval_avg@4": 0.5})
    run.append_metrics({"step": 0, "alarm": "partly_guided"}, file="alarms.jsonl")
    run.write_rows("rollouts", 1, [{"problem_id": "q0"}])
    run.check_unused()
    run.append_metrics({"step": 1, "loss": 0.1})  # its other files may have been removed
    with pytest.raises(ValueError, match="holds a run already"):
        run.check_unused()
    run.clear_failed()
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.read_text()]
    assert left == []


def test_the_seed_decides_what_evaluations_sample(tmp_path, tokenizer):
    seeds = []
    for seed in (13, 14):
        trainer = build_trainer(tmp_path / str(seed), tokenizer, seed=seed, evaluation=PROBLEMS[:2])
        trainer.evaluate()
        seeds.append(set(trainer.engine.calls[0][2]))
    assert not seeds[0] & seeds[1]
