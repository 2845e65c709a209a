"""Run by test_killed.py in a process of its own: a run, and others like it that are killed and resumed.

What lies on the disk changes only when a file is opened for writing, renamed, made or removed. So a kill is placed just
before such a moment, counted from the start of a process; Python's audit hook tells of each. Every life of a run is a
fork of this process, which has imported everything and done nothing else.

Arguments: the folder of the runs, a tokenizer, and how many runs to kill at random moments (one of them while it saves
a checkpoint), or `every` for one at each moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tests.training.building import bank_of, build_trainer, some_problems

OPTIONS = {
    "per_device_train_batch_size": 2,
    "num_iterations": 2,
    "max_steps": 5,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "logging_steps": 2,
    "save_strategy": "steps",
    "save_steps": 3,  # between two updates on the same rollouts, and between two rows of metrics
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_samples": 2,
}
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


class Moments:
    """The changes of files in a directory so far; kills this process just before change number `last`."""

    def __init__(self, directory: Path, last: int | None) -> None:
        self.directory, self.last = str(directory), last
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not (isinstance(mode, str) and set(mode) & set("wax+")) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in CHANGES:
            path = arguments[0]
            if event == "os.mkdir" and os.path.exists(path):
                return
        else:
            return
        # What shutil.rmtree removes it names from within the directory.
        if isinstance(path, str | Path) and (str(path).startswith(self.directory) or not os.path.isabs(path)):
            if len(self.seen) == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen.append(f"{event} {path}")


def live(out: Path, tokenizer, *, moment: int | None) -> bool:
    """One life of a run, in a process of its own; returns whether it reached its end."""
    child = os.fork()
    if child == 0:
        try:
            trainer = build_trainer(out, tokenizer, evaluation=some_problems(3), **OPTIONS)
            moments = Moments(out, moment)
            sys.addaudithook(moments)
            trainer.train(resume_from_checkpoint=trainer.run.config_file.exists())
            out.with_suffix(".moments.json").write_text(json.dumps(moments.seen))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"{out}: the run failed by itself"
    return status == 0


def live_again_and_again(home: Path, tokenizer, moments: list[int]) -> list[str]:
    """Kill a run at each moment, counted in that life, and let it end; returns the moments of its last life."""
    out = home / ("-".join(map(str, moments)) or "whole")
    bank_of(out.with_name(f"{out.name}.db"), some_problems()).close()
    ended = [live(out, tokenizer, moment=moment) for moment in [*moments, None]]
    assert ended[-1]
    assert not moments or not ended[0], f"{out}: never killed"
    return json.loads(out.with_suffix(".moments.json").read_text())


def main(home: Path, tokenizer, runs: str) -> None:
    seen = live_again_and_again(home, tokenizer, [])
    if runs == "every":
        lives = [[moment] for moment in range(len(seen))]
    else:
        draw = random.Random(5)
        saving = [moment for moment, what in enumerate(seen) if ".staging/checkpoint" in what]
        first = [draw.choice(saving), *draw.sample(range(len(seen)), int(runs) - 1)]
        # Half of them are killed again after they were resumed.
        lives = [[moment] if i % 2 else [moment, draw.randrange(20)] for i, moment in enumerate(first)]
    for moments in lives:
        live_again_and_again(home, tokenizer, moments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2]), sys.argv[3])
