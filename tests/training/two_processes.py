"""Run by torchrun: the cases of test_distributed.py, in every process. Arguments: the runs' folder, a tokenizer."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from sgpo import StrategyBank
from tests.training import sharded
from tests.training.building import Recorder, build_trainer, some_problems, weights_of

CASES = {
    "all have targets": {"guided": 6},
    "some have targets": {"guided": 2},
    "one process has a target": {"guided": 1},
    "none has a target": {"guided": 0},
    "two updates": {"guided": 2, "num_iterations": 2, "save_strategy": "steps", "save_steps": 1},
    "kl to the reference": {"guided": 2, "num_iterations": 2, "beta": 0.3, "soft_punish_cache": 5},
    "grpo": {"guided": 6, "algorithm": "grpo"},
    "dynamic sampling": {
        "guided": 2,
        "algorithm": "grpo",
        "num_autonomous": 2,  # half of the groups have no gradient
        "dynamic_sampling": 2,
        "loss_mean": "sequence",  # by token, the lengths of the groups without a gradient that stay would matter
        "problems": some_problems(18),
    },
}


def run_case(home: Path, tokenizer, name: str, *, processes: int, guided: int, resume=None, **options):
    """Two steps on six problems, however many processes share them; process 0 saves weights and gradients."""
    recorder = Recorder()
    trainer = build_trainer(
        home / f"{name}, {processes}",
        tokenizer,
        bank=StrategyBank(home / f"{guided}.db"),
        allow_unguided=guided == 0,
        evaluation=some_problems(2),
        per_device_train_batch_size=6 // processes,
        max_steps=2,
        learning_rate=0.1,
        eval_strategy="steps",
        eval_steps=2,
        eval_samples=2,
        callbacks=[recorder],
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_world_process_zero():
        torch.save(weights_of(trainer), trainer.run.path / "weights.pt")
        torch.save(recorder.gradients, trainer.run.path / "gradients.pt")
    assert trainer.args.world_size == processes


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)  # processes that wait for each other say where
    torch.set_num_threads(1)
    for case, case_options in CASES.items():
        run_case(Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2]), case, processes=2, **case_options)
    sharded.save_gradients(Path(sys.argv[1]), process=torch.distributed.get_rank())
