"""A run that is told to stop saves and says so; a run in use and a damaged checkpoint are told from whole ones."""

from __future__ import annotations

import fcntl
import logging
import os
import signal

import pytest
from transformers import TrainerCallback

from sgpo.errors import RunDirectoryError
from sgpo.io import read_json
from sgpo.training.run_directory import RunDirectory, find_damage
from tests.training.building import build_trainer, read_lines, some_problems
from tests.training.test_resume import OPTIONS, Killed, assert_ends_like, build, whole  # noqa: F401


class Signals(TrainerCallback):
    """Sends this process signals in the middle of a step."""

    def __init__(self, step, *signals):
        self.step, self.signals = step, signals

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


def build_stopped(out, tokenizer, step, *signals, **options):
    evaluation, callbacks = some_problems(3), [Signals(step, *signals)]
    return build_trainer(out, tokenizer, evaluation=evaluation, callbacks=callbacks, **(OPTIONS | options))


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_step_and_the_run_resumes_to_the_same_end(
    tmp_path,
    tokenizer,
    whole,  # noqa: F811
    caplog,
    capfd,
    step,
    number,
    code,
):
    out = tmp_path / "run"
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit if code == 143 else KeyboardInterrupt) as stopped, caplog.at_level(logging.WARNING):
        build_stopped(out, tokenizer, step, number).train()
    assert code != 143 or stopped.value.code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert f"stopped by {number.name} after step {step}, which is saved; resume it with --resume" in caplog.text
    assert f"{number.name}: the run saves a checkpoint after this step" in capfd.readouterr().err
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-2", f"checkpoint-{step}"}
    assert not any("train_runtime" in row for row in read_lines(out / "metrics.jsonl"))
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like(whole, resumed)  # `completions` too


def test_a_second_signal_ends_the_run_at_once(tmp_path, tokenizer):
    with pytest.raises(KeyboardInterrupt):
        build_stopped(tmp_path / "run", tokenizer, 3, signal.SIGINT, signal.SIGINT).train()
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"checkpoint-2"}


def test_a_stopped_run_that_saves_models_alone_can_be_resumed_all_the_same(tmp_path, tokenizer):
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        build_stopped(out, tokenizer, 3, signal.SIGTERM, save_only_model=True).train()
    assert "it holds the model alone, by save_only_model" in find_damage(out / "checkpoints/checkpoint-2")
    assert RunDirectory(out).last_checkpoint().name == "checkpoint-3"


# -- one process at a time


def test_a_run_that_another_process_works_on_is_refused_and_stays_as_it_is(tmp_path, tokenizer):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=3).train()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert not (out / ".lock").exists()
    for resume in (True, False):
        trainer = build(out, tokenizer)
        with (out / ".lock").open("w") as lock:
            lock.write("process 7 on elsewhere")
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(RunDirectoryError, match=r"run: in use by another process \(process 7 on elsewhere\)"):
                trainer.train(resume_from_checkpoint=resume)
        (out / ".lock").unlink()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


# -- checkpoints that are damaged


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A run that was killed after two checkpoints."""
    out = tmp_path_factory.mktemp("saved") / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=5, save_steps=2, eval_strategy="no", eval_on_start=False).train()
    return out


FILES = [
    *("manifest.json", "model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("pending-0.pt", "trainer_state.json", "tokenizer.json"),
]


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [None, half, flipped, lambda content: b""])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_is_taken(saved, caplog, name, damage):
    run = RunDirectory(saved)
    file = run.checkpoints / "checkpoint-4" / name
    content = file.read_bytes()
    try:
        file.unlink() if damage is None else file.write_bytes(damage(content))
        if name == "manifest.json" and damage in (None, flipped):
            return  # as a checkpoint of 0.1; and a flipped bit may lie between the files' names
        with caplog.at_level(logging.WARNING):
            assert run.last_checkpoint().name == "checkpoint-2"
        assert "checkpoint-4: cannot be resumed (" in caplog.text
        assert name in caplog.text
    finally:
        file.write_bytes(content)
    assert run.last_checkpoint().name == "checkpoint-4"


def test_the_manifest_names_every_file(saved):
    checkpoint = saved / "checkpoints/checkpoint-4"
    names = {path.name for path in checkpoint.iterdir()} - {"manifest.json"}
    manifest = read_json(checkpoint / "manifest.json")
    assert manifest["files"].keys() == names >= set(FILES) - {"manifest.json"}
    assert manifest["resumable"] is True


def test_a_run_without_a_whole_checkpoint_is_not_started_again_by_itself(tmp_path, tokenizer):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        build(out, tokenizer, kill_at=3).train()
    (out / "checkpoints/checkpoint-2/optimizer.pt").unlink()
    for resume in (True, str(out / "checkpoints/checkpoint-2")):
        with pytest.raises(RunDirectoryError, match=r"checkpoint-2: .* cannot be resumed \(no optimizer.pt\)"):
            build(out, tokenizer).train(resume_from_checkpoint=resume)
    assert (out / "checkpoints/checkpoint-2/model.safetensors").exists()
    assert (out / "rollouts/step-000003.jsonl").exists()
