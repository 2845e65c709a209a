"""A run that was stopped and resumed ends as one that never was."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from sgpo.algorithms import TrainingRow
from sgpo.errors import RunDirectoryError
from sgpo.rollouts.groups import PromptIds
from sgpo.training.resume import PendingState, load_pending, save_pending
from sgpo.training.run_directory import RunDirectory
from tests.training.building import (
    build_trainer,
    largest_difference,
    read_lines,
    some_problems,
    weights_of,
)

# Three global batches per epoch: five steps go past the end of one.
OPTIONS = {
    "per_device_train_batch_size": 2,
    "max_steps": 5,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_on_start": True,
    "eval_samples": 2,
}


class Killed(Exception):
    pass


class Killer(TrainerCallback):
    """Kills the run after the update of a step, before the step is logged, evaluated or saved."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def build(out, tokenizer, *, kill_at=None, **options):
    return build_trainer(
        out,
        tokenizer,
        evaluation=some_problems(3),
        callbacks=[Killer(kill_at)] if kill_at else [],
        **(OPTIONS | options),
    )


def is_time(key):
    return key.startswith(
        (
            "time/",
            "train_runtime",
            "train_samples",
            "train_steps",
            "eval/runtime",
            "eval/samples_",
            "eval/steps_",
            "tokens_per_second",
        )
    )


def contents(run):
    """Metrics without times, and every file of rollouts, targets and evaluations."""
    rows = [{k: v for k, v in row.items() if not is_time(k)} for row in read_lines(run / "metrics.jsonl")]
    files = {
        str(path.relative_to(run)): path.read_text()
        for kind in ("rollouts", "targets", "eval")
        for path in sorted((run / kind).iterdir())
    }
    return rows, files


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    """A run that was never stopped: its weights, metrics and files."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trainer = build(out, tokenizer)
    trainer.train()
    rows, files = contents(out)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "eval/avg@2" in row] == [0, 2, 4, 5]
    assert len(files) == 5 + 5 + 4 * 2
    return weights_of(trainer), rows, files


def assert_ends_like(whole, trainer):
    weights, rows, files = whole
    assert largest_difference(weights, weights_of(trainer)) == 0.0
    ended_rows, ended_files = contents(trainer.run.path)
    assert ended_rows == rows
    assert ended_files == files


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_killed_run_resumes_to_the_same_end(tmp_path, tokenizer, whole, step):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=step).train()
    assert (out / f"rollouts/step-{step:06d}.jsonl").exists()
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path, tokenizer, whole):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=1).train()
    config = (out / "config.json").read_text()
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)
    assert (out / "config.json").read_text() == config


def test_what_a_kill_left_half_written_is_removed(tmp_path, tokenizer, whole):
    """A kill while a checkpoint is written; and, as other programs may leave them, a checkpoint and files cut off."""
    out = tmp_path / "run"
    trainer = build(out, tokenizer)
    save = trainer._save_rng_state

    def die(directory):
        if directory.endswith("checkpoint-4"):
            raise Killed
        save(directory)

    trainer._save_rng_state = die
    with pytest.raises(Killed):
        trainer.train()
    checkpoints = out / "checkpoints"
    assert (checkpoints / ".staging/checkpoint-4/model.safetensors").exists()
    assert RunDirectory(out).last_checkpoint().name == "checkpoint-2"
    (checkpoints / "checkpoint-3").mkdir()
    (checkpoints / "checkpoint-3/trainer_state.json").write_text('{"global_step": 3, "lo')
    (out / "rollouts/.step-000005.jsonl.tmp").write_text('{"half')
    (out / "eval/.eval-step-000004.json.tmp").write_text("{")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "los')
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-4", "checkpoint-5", "final"}


def test_going_back_removes_later_checkpoints(tmp_path, tokenizer, whole):
    out = tmp_path / "run"
    build(out, tokenizer).train()
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=3).train(resume_from_checkpoint=str(out / "checkpoints/checkpoint-2"))
    assert RunDirectory(out).last_checkpoint().name == "checkpoint-2"
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)


def test_a_run_resumed_at_its_end_trains_no_further(tmp_path, tokenizer, whole):
    out = tmp_path / "run"
    build(out, tokenizer).train()
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)


def test_only_the_last_checkpoints_and_the_best_are_kept(tmp_path, tokenizer):
    options = {
        "save_steps": 1,
        "eval_steps": 1,
        "save_total_limit": 2,
        "metric_for_best_model": "eval_avg@2",
        "load_best_model_at_end": True,
        "greater_is_better": True,
    }
    out = tmp_path / "run"
    trainer = build(out, tokenizer, **options)
    trainer.train()
    scores = {row["step"]: row["eval/avg@2"] for row in read_lines(out / "metrics.jsonl") if "eval/avg@2" in row}
    del scores[0]
    best = max(scores, key=lambda step: (scores[step], -step))
    assert {path.name for path in (out / "checkpoints").iterdir()} == {f"checkpoint-{best}", "checkpoint-5", "final"}
    state = json.loads((out / "checkpoints/checkpoint-5/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(out / f"checkpoints/checkpoint-{best}")


def test_a_finished_run_can_be_continued(tmp_path, tokenizer, whole):
    out = tmp_path / "run"
    build(out, tokenizer, max_steps=4, lr_scheduler_type="constant").train()
    longer = build(out, tokenizer, max_steps=5, lr_scheduler_type="constant")
    longer.train(resume_from_checkpoint=True)
    rows = read_lines(out / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "train_runtime" in row] == [5]
    steps = [json.loads(line)["completions"] for line in (out / "metrics.jsonl").open() if '"loss"' in line]
    assert steps == [16, 32, 48, 64, 80]


def test_a_row_of_two_steps_is_whole_though_the_run_was_killed_between_them(tmp_path, tokenizer):
    options = {"logging_steps": 2, "save_steps": 3, "eval_strategy": "no", "eval_on_start": False, "max_steps": 4}
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=4, **options).train()
    resumed = build(out, tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert [row["completions"] for row in read_lines(out / "metrics.jsonl") if "loss" in row] == [32, 64]
    never_stopped = build(tmp_path / "whole", tokenizer, **options)
    never_stopped.train()
    (out / "eval").mkdir()
    (tmp_path / "whole/eval").mkdir()
    assert contents(out) == contents(tmp_path / "whole")


def test_a_checkpoint_that_is_none_is_refused_before_anything_is_cut(tmp_path, tokenizer):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=3).train()
    before = contents(out)
    for name in ("checkpoint-1", "final", "checkpoint-two"):
        with pytest.raises(ValueError, match="checkpoint"):
            build(out, tokenizer).train(resume_from_checkpoint=str(out / "checkpoints" / name))
    assert contents(out) == before


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_resumes_between_two_updates_on_the_same_rollouts(tmp_path, tokenizer, step):
    """Killed at step 4, with its last checkpoint after step 2 (rollouts are used up) or 3 (once used)."""
    options = {"num_iterations": 2, "save_steps": step, "eval_strategy": "no", "eval_on_start": False}
    whole = build(tmp_path / "whole", tokenizer, **options)
    whole.train()
    with pytest.raises(Killed):
        build(tmp_path / "run", tokenizer, kill_at=4, **options).train()
    assert RunDirectory(tmp_path / "run").last_checkpoint().name == f"checkpoint-{step}"
    resumed = build(tmp_path / "run", tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    (tmp_path / "run/eval").mkdir()
    (tmp_path / "whole/eval").mkdir()
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_steps_made_anew_replace_the_old_ones_in_the_bank(tmp_path, tokenizer):
    """The run is finished, then resumed from its first checkpoint with a verifier that is of another opinion."""
    out = tmp_path / "run"
    options = {"max_steps": 3, "save_steps": 1, "eval_strategy": "no", "eval_on_start": False}
    options["lr_scheduler_type"] = "constant"  # one that does not depend on how many steps there are
    build(out, tokenizer, verifier=lambda completion, problem: 0.0, **options).train()
    again = build(out, tokenizer, verifier=lambda completion, problem: 1.0, **(options | {"max_steps": 4}))
    again.train(resume_from_checkpoint=str(out / "checkpoints/checkpoint-1"))
    used = {row["strategy_id"] for path in out.glob("rollouts/*") for row in read_lines(path)} - {None}
    effects = [again.bank.effect(strategy_id) for strategy_id in used]
    assert sum(effect.guided_total for effect in effects) == 4 * 2 * 4  # steps, problems, completions
    assert sum(effect.autonomous_total for effect in effects) == 4 * 2 * 4
    assert sum(effect.guided_passes for effect in effects) == 3 * 2 * 4  # all but the first step's


def as_0_1_left_it(run):
    """Give the files of a killed run the names and keys that 0.1 gave them, and no manifest."""
    for file in (run / "checkpoints").glob("checkpoint-*/manifest.json"):
        file.unlink()
    config = json.loads((run / "config.json").read_text())
    config["problems"]["per_step"] = config["problems"].pop("global_batch")
    config["args"] |= {"guide_decay": 0.0, "distill_token_share": 1.0}
    (run / "config.json").write_text(json.dumps(config))
    old = {"divergence/clipped_mean": "divergence/capped_mean", "clipped_fraction": "clipped_share"}
    for file in (run / "checkpoints").glob("checkpoint-*/pending-*.pt"):
        saved = torch.load(file, weights_only=True) | {"average": {}}
        means = saved["averages"]["means"]
        saved["averages"]["means"] = {old.get(key, key): value for key, value in means.items()}
        torch.save(saved, file.with_name(file.name.replace("pending", "in-hand")))
        file.unlink()
    (run / "checkpoints/.unfinished/checkpoint-9").mkdir(parents=True)


def test_a_run_of_0_1_is_resumed(tmp_path, tokenizer):
    """Between two updates on the same rollouts and between two rows of metrics, so that everything old is read."""
    options = {"num_iterations": 2, "logging_steps": 2, "save_steps": 3, "eval_strategy": "no", "eval_on_start": False}
    whole = build(tmp_path / "whole", tokenizer, **options)
    whole.train()
    with pytest.raises(Killed):
        build(tmp_path / "run", tokenizer, kill_at=4, **options).train()
    as_0_1_left_it(tmp_path / "run")
    resumed = build(tmp_path / "run", tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    (tmp_path / "run/eval").mkdir()
    (tmp_path / "whole/eval").mkdir()
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not (tmp_path / "run/checkpoints/.unfinished").exists()


def test_a_run_of_0_1_with_an_option_that_is_gone_is_refused(tmp_path, tokenizer):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=3).train()
    config = json.loads((out / "config.json").read_text())
    config["args"]["guide_decay"] = 0.9
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunDirectoryError, match=r"began with guide_decay=0.9, which is gone; resume it with sgpo 0.1"):
        build(out, tokenizer).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_a_pending_state_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"nothing in it says how the run stood \(no pending-0.pt\)"):
        load_pending(tmp_path, rank=0, world_size=1)


@pytest.mark.parametrize("change", ["adapters", "bf16"])
def test_adapters_and_sixteen_bits_resume_exactly_too(tmp_path, tokenizer, change):
    def start(name, **more):
        adapters = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if change == "adapters" else None
        options = {"eval_strategy": "no", "eval_on_start": False, "bf16": change == "bf16", "max_steps": 3}
        return build(tmp_path / name, tokenizer, peft_config=adapters, **options, **more)

    whole = start("whole")
    whole.train()
    with pytest.raises(Killed):
        start("run", kill_at=3).train()
    resumed = start("run")
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0


def test_the_seed_decides_the_adapters(tmp_path, tokenizer):
    """Whatever was drawn before in this process: each process of a launch, and each stage, has drawn otherwise."""

    def adapters(name, drawn_before, **options):
        torch.manual_seed(drawn_before)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
        return weights_of(build(tmp_path / name, tokenizer, peft_config=config, **options))

    assert largest_difference(adapters("a", 1), adapters("b", 2)) == 0.0
    assert largest_difference(adapters("c", 1), adapters("d", 1, seed=14)) > 1e-3


def test_the_pending_state_of_a_gpu_process_is_resumed_without_a_gpu(tmp_path, monkeypatch):
    row = TrainingRow(
        problem_index=0, prompt=PromptIds("1?", [2]), completion_ids=[3], old_logprobs=torch.tensor([-1.0])
    )
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        save_pending(tmp_path, PendingState(problem_ids=["q0"], group_ids=["q0"], rows=[row]), rank=0)
    pending = load_pending(tmp_path, rank=0, world_size=1)
    assert pending.rows[0].old_logprobs.tolist() == [-1.0]


def test_a_process_that_takes_a_part_of_the_batch_takes_its_rows():
    """One process of two on a batch that one process had: its rows point into its own part."""
    rows = [
        TrainingRow(problem_index=i, prompt=PromptIds(f"{i}?", [i]), completion_ids=[10 + i], advantage=1.0)
        for i in (0, 1, 1, 2, 3)
    ]
    pending = PendingState(problem_ids=["a", "b", "c", "d"], group_ids=["a", "x", "c", "y"], rows=rows)
    assert not pending.narrow_to(["d", "e"])
    assert (pending.problem_ids, pending.rows) == (["a", "b", "c", "d"], rows)
    assert pending.narrow_to(["d", "b"])
    assert (pending.problem_ids, pending.group_ids) == (["d", "b"], ["y", "x"])
    assert [(row.problem_index, row.completion_ids) for row in pending.rows] == [(1, [11]), (1, [11]), (0, [13])]


def test_the_pending_states_of_two_processes_become_one(tmp_path):
    def row(place, token):
        return TrainingRow(problem_index=place, prompt=PromptIds("?", [2]), completion_ids=[token], advantage=1.0)

    for rank, (ids, tokens) in enumerate([(["a", "b"], [10, 11]), (["c", "d"], [12, 13])]):
        pending = PendingState(
            problem_ids=ids, group_ids=[f"{id_}'" for id_ in ids], rows=[row(*pair) for pair in enumerate(tokens)],
            completions=48, loss=1.0 + 2 * rank, total_loss=10.0 + 2 * rank, logged_step=3,
        )  # fmt: skip
        pending.averages.add("entropy", 1.0 + rank)
        save_pending(tmp_path, pending, rank=rank)
    merged = load_pending(tmp_path, rank=0, world_size=1)
    assert (merged.problem_ids, merged.group_ids) == (["a", "b", "c", "d"], ["a'", "b'", "c'", "d'"])
    assert [(row.problem_index, row.completion_ids) for row in merged.rows] == [
        (0, [10]), (1, [11]), (2, [12]), (3, [13]),
    ]  # fmt: skip
    assert (merged.loss, merged.total_loss) == (2.0, 11.0)  # means over the processes, as the Trainer logs them
    assert (merged.completions, merged.logged_step) == (48, 3)  # of all processes already
    assert merged.averages.means == {"entropy": (3.0, 2.0)}
    assert load_pending(tmp_path, rank=1, world_size=3).averages.means == {}  # the first process has them all
