"""The files of a run (docs/run-directory.md).

They are written as things happen, so that a crash loses nothing that was shown.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from sgpo.errors import InputError, RunDirectoryError
from sgpo.io import (
    RENAMED_COUNTS,
    append_jsonl,
    counted,
    installed_versions,
    read_json,
    read_lines,
    write_json,
    write_jsonl,
)

STAGING_OF_0_1 = ".unfinished"  # now `.staging`
CONFIG_TYPES = {
    "args": dict,
    "problems": dict,
    "strategies": dict,
    "prompts": dict,
    "rewards": dict,
    "correct": str,
    "model": str,
    "changes": list,
}
MANIFEST, STATE = "manifest.json", "trainer_state.json"

logger = logging.getLogger("sgpo")


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
        """Check that no run is here yet, other than one that failed in its first step: no result is ever written over.

        Raises:
            RunDirectoryError: another run is here.
        """
        if self.config_file.exists() and self._has_results():
            raise RunDirectoryError(
                f"{self.path}: holds a run already; choose another directory, resume that run with --resume, or "
                "delete it"
            )

    def _has_results(self) -> bool:
        """Whether the run here has made a step: its targets are written with the gradient."""
        stepped = any(self.path.glob("targets/step-*.jsonl")) or any(row["step"] >= 1 for row in self.read_metrics())
        return stepped or self.final_model.exists() or bool(list_checkpoints(self.checkpoints))

    def clear_failed(self) -> None:
        """Remove what a run left that failed in its first step; a warm-up stays."""
        if self.config_file.exists():
            self.cut_after(-1)
            self.config_file.unlink()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.json`, with an id of the run, versions, commit, command and time."""
        write_json(self.config_file, {"id": uuid4().hex, **config, **provenance()})

    def read_config(self) -> dict[str, Any]:
        """Read `config.json`; counts of a run that 0.1 made get their present names.

        Raises:
            RunDirectoryError: it is not the config of a run.
        """
        try:
            config = read_json(self.config_file)
        except InputError as error:
            raise RunDirectoryError(str(error)) from None
        if not isinstance(config, dict):
            raise RunDirectoryError(f"{self.config_file}: not the config of a run (a JSON {type(config).__name__})")
        for name, type_ in CONFIG_TYPES.items():
            if name in config and not isinstance(config[name], type_):
                found = type(config[name]).__name__
                raise RunDirectoryError(f"{self.config_file}: not the config of a run ({name!r} is a JSON {found})")
        problems = {RENAMED_COUNTS.get(key, key): count for key, count in config.get("problems", {}).items()}
        return config | {"problems": problems}

    @property
    def id(self) -> str:
        """The run's own name, wherever its directory is moved."""
        if "id" not in (config := self.read_config()):
            raise RunDirectoryError(f"{self.config_file}: not the config of a run (no 'id')")
        return str(config["id"])

    def append_metrics(self, row: Mapping[str, Any], *, file: str = "metrics.jsonl") -> None:
        """Add a row to `metrics.jsonl`, or to another such file."""
        append_jsonl(self.path / file, [row])

    def read_metrics(self, *, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`, or of another such file; lines that a kill cut off are left out."""
        path = self.path / file
        rows = read_lines(path) if path.exists() else ()
        return [row for row in rows if row is not None and isinstance(row.get("step"), int)]

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

    def drop_half_written(self) -> None:
        """Remove the staging files of writes that a kill cut off."""
        for path in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            path.unlink()

    def cut_after(self, step: int) -> None:
        """Drop everything that steps after `step` made, which will be made again."""
        # Checkpoints first, and each by one rename: a kill in here leaves no checkpoint later than the rows.
        self.staging.mkdir(parents=True, exist_ok=True)
        for path in list_checkpoints(self.checkpoints):
            if checkpoint_step(path) > step:
                path.rename(self.staging / path.name)
        self.drop_staging()
        shutil.rmtree(self.checkpoints / STAGING_OF_0_1, ignore_errors=True)
        self.cut_metrics(step)
        self.cut_metrics(step, file="alarms.jsonl")
        for kind in ("rollouts", "targets", "eval"):
            for path in self.path.glob(f"{kind}/*step-*.json*"):
                number = re.search(r"step-(\d+)\.jsonl?$", path.name)
                if number is not None and int(number[1]) > step:
                    path.unlink()

    def read_rows(self, kind: str) -> Iterator[dict[str, Any]]:
        """All rows of `rollouts` or `targets`, step by step; lines that cannot be read are left out and said."""
        for path in sorted((self.path / kind).glob("step-*.jsonl")):
            rows = list(read_lines(path))
            if unread := rows.count(None):
                logger.warning("%s: left out, since damaged: %s", path, counted(unread, "line"))
            yield from (row for row in rows if row is not None)

    def write_rows(self, kind: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the `rollouts` or `targets` of a step."""
        write_jsonl(self.path / kind / f"step-{step:06d}.jsonl", rows)


def last_checkpoint(directory: Path) -> Path | None:
    """The last checkpoint of a directory that can be resumed, or None; later ones that cannot are said."""
    for checkpoint in sorted(list_checkpoints(directory), key=checkpoint_step, reverse=True):
        if (damage := find_damage(checkpoint)) is None:
            return checkpoint
        logger.warning("%s: cannot be resumed (%s)", checkpoint, damage)
    return None


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a directory, whole or not."""
    return [path for path in directory.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]


def write_manifest(checkpoint: Path, *, resumable: bool) -> None:
    """Write, as a checkpoint's last file, the size and the CRC-32 of each other file.

    Args:
        checkpoint: The checkpoint, written by all processes.
        resumable: Whether it holds more than the model.
    """
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    write_json(checkpoint / MANIFEST, {"resumable": resumable, "files": files})


def find_damage(checkpoint: Path) -> str | None:
    """What keeps a run from being resumed from a checkpoint; None where it is whole.

    Each file must be as the manifest says. A checkpoint of 0.1 has none: there the trainer's state, which was written
    last, must be whole.
    """
    try:
        if not (checkpoint / MANIFEST).exists():
            return None if read_json(checkpoint / STATE) else f"an empty {STATE}"
        manifest = read_json(checkpoint / MANIFEST)
        resumable, files = manifest["resumable"], manifest["files"].items()
        found = {name: ((checkpoint / name).stat().st_size, told["bytes"], told["crc32"]) for name, told in files}
        for name, (size, told, _) in found.items():  # the sizes of all first: they cost nothing
            if size != told:
                return f"{name}: {size:,} bytes, not {told:,}"
        for name, (_, _, told) in found.items():
            if _crc32(checkpoint / name) != told:
                return f"{name}: other bytes than were written"
    except FileNotFoundError as error:
        return f"no {Path(error.filename).relative_to(checkpoint)}"
    except OSError as error:
        return str(error)
    except InputError as error:
        return f"{error}".removeprefix(f"{checkpoint}/")
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST}: not the manifest of a checkpoint"
    return None if resumable else "it holds the model alone, by save_only_model"


def _crc32(file: Path) -> int:
    """A sum that tells damage; CRC-32 is the quickest at hand, and a checkpoint may have 100 GB."""
    value = 0
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


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
    """Check that a run can be resumed from a checkpoint.

    Raises:
        RunDirectoryError: it is not whole, or it is no checkpoint.
    """
    checkpoint_step(checkpoint)
    if damage := find_damage(checkpoint):
        raise RunDirectoryError(f"{checkpoint}: no such checkpoint, or one that cannot be resumed ({damage})")


def provenance() -> dict[str, Any]:
    """What anyone needs to do this again: versions, git commit, command, time, machine."""
    packages = ("sgpo", "torch", "transformers", "trl", "accelerate", "math-verify", "vllm", "verl", "ray")
    return {
        "versions": {"python": platform.python_version()} | installed_versions(*packages),
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
