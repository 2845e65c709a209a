"""The files of a run (docs/run-directory.md).

They are written as things happen, so that a crash loses nothing that was shown.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from sgpo.errors import InputError, RunDirectoryError
from sgpo.io import append_jsonl, read_json, write_json, write_jsonl

# Names that 0.1 gave, and their present ones: keys of `metrics.jsonl`, and counts under `problems` in `config.json`.
RENAMED_METRICS = {
    "clipped_share": "clipped_fraction",
    "divergence/capped_mean": "divergence/clipped_mean",
    "divergence/capped_share": "divergence/clipped_fraction",
}
RENAMED_COUNTS = {"per_step": "global_batch"}
STAGING_OF_0_1 = ".unfinished"  # now `.staging`


class RunDirectory:
    """The files of one run. All processes of a run share it; only the first writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final_model(self) -> Path:
        return self.checkpoints / "final"

    @property
    def warm_model(self) -> Path:
        return self.checkpoints / "warmup"

    @property
    def staging(self) -> Path:
        """Where a checkpoint or model is until it is whole, and from where old ones are removed."""
        return self.checkpoints / ".staging"

    def check_unused(self) -> None:
        """Check that no run is here yet: nothing is ever written over.

        Raises:
            RunDirectoryError: another run is here.
        """
        if self.config_file.exists():
            raise RunDirectoryError(
                f"{self.path}: holds a run already; choose another directory, resume that run with --resume, or "
                "delete it"
            )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.json`, with an id of the run, versions, commit, command and time."""
        write_json(self.config_file, {"id": uuid4().hex, **config, **provenance()})

    def read_config(self) -> dict[str, Any]:
        """Read `config.json`; counts of a run that 0.1 made get their present names.

        Raises:
            RunDirectoryError: it is no JSON object.
        """
        try:
            config = read_json(self.config_file)
        except InputError as error:
            raise RunDirectoryError(str(error)) from None
        if not isinstance(config, dict):
            raise RunDirectoryError(f"{self.config_file}: not the config of a run (a JSON {type(config).__name__})")
        problems = {RENAMED_COUNTS.get(key, key): count for key, count in config.get("problems", {}).items()}
        return config | {"problems": problems}

    @property
    def id(self) -> str:
        """The run's own name, wherever its directory is moved."""
        return str(self.read_config()["id"])

    def append_metrics(self, row: Mapping[str, Any], *, file: str = "metrics.jsonl") -> None:
        """Add a row to `metrics.jsonl`, or to another such file."""
        append_jsonl(self.path / file, [row])

    def read_metrics(self, *, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`, or of another such file, without a half-written last one."""
        rows = []
        path = self.path / file
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint, or None."""
        return last_checkpoint(self.checkpoints)

    def cut_metrics(self, step: int, *, file: str = "metrics.jsonl") -> None:
        """Drop the rows of steps after `step`, which will be made again, and the summary that ended the run."""
        if (self.path / file).exists():
            rows = self.read_metrics(file=file)
            kept = [row for row in rows if row["step"] <= step and "train_runtime" not in row]
            write_jsonl(self.path / file, kept)

    def publish(self, path: Path) -> None:
        """Move what is whole in `staging` to `path`, in place of what is there."""
        if path.exists():
            path.rename(self.staging / "old")
        (self.staging / path.name).rename(path)
        self.drop_staging()

    def drop_staging(self) -> None:
        """Remove what is not whole."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def cut_after(self, step: int) -> None:
        """Drop everything that steps after `step` made, which will be made again, and what a kill left half-written."""
        # Checkpoints first, and each by one rename: a kill in here leaves no checkpoint later than the rows.
        self.staging.mkdir(parents=True, exist_ok=True)
        for path in self.checkpoints.glob("checkpoint-*"):
            if not _is_whole(path) or checkpoint_step(path) > step:
                path.rename(self.staging / path.name)
        self.drop_staging()
        shutil.rmtree(self.checkpoints / STAGING_OF_0_1, ignore_errors=True)
        self.cut_metrics(step)
        self.cut_metrics(step, file="alarms.jsonl")
        for kind in ("rollouts", "targets", "eval"):
            for path in self.path.glob(f"{kind}/*step-*.json*"):
                number = re.search(r"step-(\d+)\.jsonl?(\.tmp)?$", path.name)
                if number is not None and int(number[1]) > step:
                    path.unlink()

    def read_rows(self, kind: str) -> Iterator[dict[str, Any]]:
        """All rows of `rollouts` or `targets`, step by step."""
        for path in sorted((self.path / kind).glob("step-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def write_rows(self, kind: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the `rollouts` or `targets` of a step."""
        write_jsonl(self.path / kind / f"step-{step:06d}.jsonl", rows)


def last_checkpoint(directory: Path) -> Path | None:
    """The last whole checkpoint in a directory, or None."""
    whole = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json") if _is_whole(path.parent)]
    return max(whole, key=checkpoint_step, default=None)


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes its state last, so a checkpoint without it, or with half of it, was cut off."""
    try:
        return bool(read_json(checkpoint / "trainer_state.json"))
    except (OSError, ValueError):
        return False


def checkpoint_step(checkpoint: Path) -> int:
    """The step of `checkpoint-50`.

    Raises:
        RunDirectoryError: it has another name.
    """
    number = checkpoint.name.removeprefix("checkpoint-")
    if not number.isdecimal():
        raise RunDirectoryError(f"{checkpoint}: no checkpoint of a run; expected a directory such as checkpoint-50")
    return int(number)


def check_checkpoint(checkpoint: Path) -> None:
    """Check that a checkpoint is whole.

    Raises:
        RunDirectoryError: it is not, or it is no checkpoint.
    """
    checkpoint_step(checkpoint)
    if not _is_whole(checkpoint):
        raise RunDirectoryError(
            f"{checkpoint}: no such checkpoint, or one that was cut off (no whole trainer_state.json)"
        )


def provenance() -> dict[str, Any]:
    """What anyone needs to do this again: versions, git commit, command, time, machine."""
    packages = ("sgpo", "torch", "transformers", "trl", "accelerate", "math-verify")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "git_commit": _git_commit(),
        "command": " ".join(shlex.quote(word) for word in [Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def _git_commit() -> str | None:
    """The commit of the source tree that runs, with `+` for uncommitted changes; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
