"""A run whose numbers are not finite any more stops with one line, and saves nothing of that."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from sgpo.cli import app
from sgpo.errors import DivergedError
from sgpo.training import launch
from sgpo.training.metrics import MetricsWriter
from sgpo.training.run_directory import RunDirectory
from sgpo.training.warmup import run_warmup, tokenized_row
from tests.training.building import build_trainer, policy, some_problems

OPTIONS = {"per_device_train_batch_size": 2, "max_steps": 5, "save_strategy": "steps", "save_steps": 1}


class Spoiler(TrainerCallback):
    """Puts a number into a gradient, or into the weights, at one step."""

    def __init__(self, step, value, what):
        self.step, self.value = step, value
        event = {"gradient": "on_pre_optimizer_step", "weights": "on_optimizer_step"}[what]
        setattr(self, event, self.spoil_gradient if what == "gradient" else self.spoil_weights)

    def spoil_gradient(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            next(model.parameters()).grad.view(-1)[7] = self.value

    def spoil_weights(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                next(model.parameters()).view(-1)[7] = self.value


def first(trainer, callback):
    trainer.callback_handler.callbacks.insert(0, callback)
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["gradient", "weights"])
def test_the_first_step_that_is_not_finite_stops_the_run(tmp_path, tokenizer, what, value):
    out = tmp_path / "run"
    trainer = first(build_trainer(out, tokenizer, **OPTIONS), Spoiler(3, value, what))
    message = (
        rf"training diverged at step 3: its {what} (is|are) not finite, and nothing of it was saved; go back to "
        rf"{out}/checkpoints/checkpoint-2: start a new run with it as the model, with a lower learning_rate"
    )
    with pytest.raises(DivergedError, match=message):
        trainer.train()
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    for weights in out.glob("checkpoints/*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values())
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (out / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]


def test_a_run_that_diverges_before_its_first_checkpoint_says_so(tmp_path, tokenizer):
    trainer = first(build_trainer(tmp_path / "run", tokenizer), Spoiler(1, float("nan"), "gradient"))
    with pytest.raises(DivergedError, match=r"at step 1: .* there is no checkpoint yet to go back to: start again"):
        trainer.train()
    assert not (tmp_path / "run/checkpoints/final").exists()


def test_a_learning_rate_that_is_far_too_high_ends_so(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer, **(OPTIONS | {"learning_rate": 1e38}))
    with pytest.raises(DivergedError):
        trainer.train()
    for weights in (tmp_path / "run").glob("checkpoints/*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values())


def test_a_loss_that_is_not_finite_stops_a_run_too(tmp_path, tokenizer, monkeypatch):
    """Though its gradient is finite."""
    build_with = build_trainer(tmp_path / "run", tokenizer, **OPTIONS)
    compute = build_with.compute_loss
    monkeypatch.setattr(build_with, "compute_loss", lambda *a, **k: spoilt(build_with, compute(*a, **k)))
    with pytest.raises(DivergedError, match="at step 1: its loss is not finite"):
        build_with.train()
    assert not (tmp_path / "run/metrics.jsonl").exists()


def spoilt(trainer, loss):
    trainer.averages.add_sum("loss/policy", float("nan"))
    return loss


def test_a_warmup_that_diverges_leaves_no_model(tmp_path, tokenizer):
    rows = [tokenized_row(problem.problem, "so", tokenizer) for problem in some_problems()]
    options = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 3, "learning_rate": 1e38, "optim": "sgd",
               "max_grad_norm": 0.0, "bf16": False, "logging_steps": 1}  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"not finite, .* with a lower warmup.learning_rate"):
        run_warmup(policy(), tokenizer, rows, options, run)
    assert not run.warm_model.exists()


def test_the_command_ends_with_one_line(tmp_path, tokenizer, monkeypatch, capsys):
    def diverge(*args, **kwargs):
        raise DivergedError("training diverged at step 3")

    monkeypatch.setattr(launch, "run_recipe", diverge)
    with pytest.raises(SystemExit) as ended:
        app(["train", "recipes/qwen2.5-1.5b.yaml", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "error: training diverged at step 3" in capsys.readouterr().err


def test_numbers_that_json_has_not_are_left_out_of_the_metrics(tmp_path):
    """With fp16 the scaler skips a step whose gradient is infinite, which is no fault."""
    run = RunDirectory(tmp_path)
    state = type("State", (), {"is_world_process_zero": True, "global_step": 1})()
    MetricsWriter(run).on_log(None, state, None, {"loss": 0.5, "grad_norm": float("inf"), "x": float("nan"), "n": 3})
    assert run.read_metrics() == [{"step": 1, "loss": 0.5, "n": 3}]
