"""A full disk or a path that cannot be written ends a run with one line and leaves it whole."""

from __future__ import annotations

import resource

import pytest
from transformers import TrainerCallback

from sgpo.training.run_directory import RunDirectory
from tests.training.building import build_trainer, largest_difference, read_lines, weights_of

OPTIONS = {"per_device_train_batch_size": 2, "max_steps": 3, "optim": "adamw_torch", "learning_rate": 0.01}


class Fill(TrainerCallback):
    """From an event on no file can grow beyond `size` bytes, as on a disk that has no more room."""

    def __init__(self, size, event):
        self.size = size
        setattr(self, event, self.fill)

    def fill(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def room():
    """Gives the room back."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    make = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # noqa: E731
    yield make
    make()


def build(out, tokenizer, *callbacks):
    return build_trainer(out, tokenizer, save_strategy="steps", save_steps=1, callbacks=callbacks, **OPTIONS)


@pytest.mark.parametrize("writer", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_for_which_there_is_no_room_leaves_the_run_whole(tmp_path, tokenizer, room, writer):
    whole = build(tmp_path / "whole", tokenizer)
    whole.train()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole/checkpoints/checkpoint-3").iterdir()}
    assert sizes["model.safetensors"] < sizes["optimizer.pt"]
    out = tmp_path / "run"
    with pytest.raises(
        OSError, match=r"checkpoint-2: cannot be written \(.*the run is as it was, make room and resume it"
    ):
        build(out, tokenizer, Fill(sizes[writer] - 1, "on_save")).train()
    room()
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-1"}
    resumed = build(out, tokenizer)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0


def test_a_row_of_metrics_for_which_there_is_no_room_is_written_again(tmp_path, tokenizer, room):
    out = tmp_path / "run"
    with pytest.raises(OSError, match=r"run/metrics.jsonl: cannot be written \(File too large\)"):
        build(out, tokenizer, Fill(20, "on_step_end")).train()
    room()
    build(out, tokenizer).train(resume_from_checkpoint=True)
    assert [row["step"] for row in read_lines(out / "metrics.jsonl") if "loss" in row] == [1, 2, 3]


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path, tokenizer):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Not a directory: .*file/run"):
        build_trainer(tmp_path / "file/run", tokenizer, bank=None, algorithm="grpo")
    assert RunDirectory(tmp_path / "file/run").last_checkpoint() is None
