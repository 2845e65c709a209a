"""The private attributes of transformers and accelerate that sgpo/training/checkpoints.py relies on.

A new release may rename or drop one; a failure here says which.
"""

from __future__ import annotations

import ast
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from accelerate.state import GradientState
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

PACKAGE = Path(__file__).resolve().parents[2] / "sgpo"

LOSSES = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")  # what a resumed run takes from its checkpoint
HOOKS = ("_save_checkpoint", "_get_output_dir", "_get_train_sampler")  # methods that the Trainer calls, and we override
DEVICES = "_n_gpu"  # of TrainingArguments
SYNC = "_set_sync_gradients"  # of accelerate's GradientState
ALL = {*LOSSES, *HOOKS, DEVICES, SYNC}


class Line(torch.nn.Linear):
    def forward(self, x, labels):
        return {"loss": (super().forward(x) - labels).square().mean()}


class Watched(Trainer):
    """Remembers which of the overridden methods the Trainer calls, and the losses at the time of a checkpoint."""

    def _get_train_sampler(self, *args, **kwargs):
        self.called.append("_get_train_sampler")
        return super()._get_train_sampler(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        self.called.append("_save_checkpoint")
        self.losses = {name: getattr(self, name, None) for name in LOSSES}
        super()._save_checkpoint(model, trial)

    def _get_output_dir(self, trial):
        self.called.append("_get_output_dir")
        return super()._get_output_dir(trial)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A plain Trainer after two steps, with a checkpoint and no row of metrics after each."""
    args = TrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("plain")),
        max_steps=2,
        save_steps=1,
        logging_steps=10,
        per_device_train_batch_size=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Watched(Line(1, 1), args, train_dataset=[{"x": [1.0], "labels": [float(i)]} for i in range(2)])
    trainer.called = []
    trainer.train()
    return trainer


def gone(library, names):
    return (
        f"{library.__name__} {library.__version__} has no {', '.join(names)} now: change sgpo/training/checkpoints.py"
    )


def test_the_losses_are_where_they_were(trained):
    missing = [name for name in LOSSES if trained.losses[name] is None]
    assert not missing, gone(transformers, missing)
    assert isinstance(trained.losses["_tr_loss"], torch.Tensor)
    assert trained.losses["_tr_loss"].item() > 0, "_tr_loss is no longer the sum of the losses since the last row"
    assert trained.losses["_globalstep_last_logged"] == 0
    assert trained.losses["_total_loss_scalar"] == 0.0


def test_the_trainer_calls_what_is_overridden(trained):
    missing = [name for name in HOOKS if not hasattr(Trainer, name) or name not in trained.called]
    assert not missing, gone(transformers, missing)
    assert (Path(trained.args.output_dir) / "checkpoint-2" / "trainer_state.json").exists()


def test_the_number_of_devices_can_be_set(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert isinstance(args.n_gpu, int)
    assert hasattr(args, DEVICES), gone(transformers, [DEVICES])
    setattr(args, DEVICES, 7)
    assert args.n_gpu == 7, gone(transformers, [DEVICES])


def test_gradients_can_be_kept_in_a_process():
    state = GradientState()
    assert hasattr(state, SYNC), gone(accelerate, [SYNC])
    before = state.sync_gradients
    getattr(state, SYNC)(not before)
    assert state.sync_gradients is not before, gone(accelerate, [SYNC])
    getattr(state, SYNC)(before)


def test_checkpoints_are_rotated_by_the_same_call(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate_checkpoints(str(tmp_path), 2, str(tmp_path / "checkpoint-1"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-3"}


def test_no_other_module_relies_on_them():
    named = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found = {node.attr for node in tree if isinstance(node, ast.Attribute)} & ALL
        found |= {f"def {node.name}" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                  if isinstance(node, ast.FunctionDef) and node.name in ALL}  # fmt: skip
        if found:
            named[str(path.relative_to(PACKAGE))] = found
    assert named.keys() == {"training/checkpoints.py"}
    assert {name.removeprefix("def ") for name in named["training/checkpoints.py"]} == ALL
