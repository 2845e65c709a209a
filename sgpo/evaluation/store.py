"""The directory of `sgpo eval --out`: it keeps every completion as it comes, so that a killed evaluation resumes.

`config.json` says what was asked of which model, `eval/NAME-step-000000.jsonl` gets every completion as it comes, and
the verdicts when all are there, `eval/NAME-step-000000.json` the scores at the end: a run directory
(docs/run-directory.md), which `sgpo compare` and `sgpo report` read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import InputError, RunDirectoryError
from sgpo.io import append_jsonl, installed_versions, read_json, read_rows, write_json, write_jsonl
from sgpo.problems import Problem
from sgpo.prompts import PromptStyle
from sgpo.rollouts.engine import Sampling

ROW_FIELDS = {"problem_id", "sample", "completion", "tokens", "truncated"}
VERDICT_FIELDS = {"verdict", "extracted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What two evaluations must share for one to resume the other.

    `prompt` is the name and version of the prompt style; `revision` is that of the model, as `model_revision` gives it,
    and `chat` has the system prompt and the variables of its chat template (both None where nobody tells, as for an
    endpoint).

    Raises:
        InputError: A sampling option is out of its range.
    """

    model: str
    engine: str
    base_url: str | None
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    revision: str | None = None
    chat: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> Sampling:
        """The options for an engine."""
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)


class EvaluationStore:
    """The directory `path` of an evaluation with these settings; a `path` of None keeps nothing.

    Args:
        path: The run directory, which is made where it is missing.
        settings: What is asked, and of which model.
        problems: The problems of each set, by its name.
        style: The prompts, of which the settings name the version.

    Raises:
        RunDirectoryError: The directory holds a training run, or an evaluation with other settings or problems.
    """

    def __init__(
        self,
        path: Path | None,
        settings: EvaluationSettings,
        problems: Mapping[str, Sequence[Problem]],
        style: PromptStyle,
    ) -> None:
        self.path = path
        if path is None:
            return
        file = path / "config.json"
        told = asdict(settings)
        digests = {name: digest_of(loaded) for name, loaded in problems.items()}
        if file.exists():
            digests = {**_check_same(file, told, digests), **digests}
        config = {
            "algorithm": "",
            "model": settings.model,
            "prompts": style.describe(),
            "evaluation": {"settings": told, "problems": digests},
            "versions": installed_versions("sgpo", "torch", "transformers", "math-verify"),
        }
        write_json(file, config)

    def completions(self, name: str) -> CompletionFile:
        """The completions of a problem set."""
        return CompletionFile(None if self.path is None else self._file(self.path, name))

    def write_scores(self, name: str, scores: Mapping[str, Any]) -> None:
        """Write the `eval/*.json` of a problem set."""
        if self.path is not None:
            write_json(self._file(self.path, name).with_suffix(".json"), scores)

    @staticmethod
    def _file(path: Path, name: str) -> Path:
        return path / "eval" / f"{name}-step-000000.jsonl"


class CompletionFile:
    """The completions of one problem set, appended as they come, judged later; a `path` of None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """The rows that are there, judged or not; a last line that a kill cut off is removed from the file.

        Raises:
            RunDirectoryError: A row is not a completion of an evaluation; the message names it.
        """
        if self.path is None or not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        rows = []
        try:
            for number, row in read_rows(self.path):
                if missing := sorted(ROW_FIELDS - row.keys()):
                    raise InputError(f"{self.path}, row {number}: no completion of an evaluation (no {missing[0]!r})")
                rows.append(row)
        except InputError as error:
            raise RunDirectoryError(f"{error}; delete the row, or the file") from None
        return rows

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add completions."""
        if self.path is not None:
            append_jsonl(self.path, rows)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace all rows, by the same with their verdicts."""
        if self.path is not None:
            write_jsonl(self.path, rows)


def _check_same(file: Path, settings: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """Raises RunDirectoryError unless the `config.json` is of the same evaluation; returns its problem digests."""
    try:
        before = read_json(file).get("evaluation")
    except (OSError, InputError, AttributeError):
        before = None
    if not isinstance(before, dict) or not all(isinstance(before.get(key), dict) for key in ("settings", "problems")):
        raise RunDirectoryError(f"{file.parent}: holds another run; choose another --out")
    asked = {"chat": settings["chat"], **before["settings"]}  # 0.1 did not say it
    changed = {key: (asked.get(key), value) for key, value in settings.items()}
    changed = {key: values for key, values in changed.items() if values[0] != values[1]}
    if changed:
        what = ", ".join(f"{key} {old!r} (now {new!r})" for key, (old, new) in changed.items())
        raise RunDirectoryError(f"{file.parent}: holds an evaluation with {what}; choose another --out")
    for name, digest in digests.items():
        if before["problems"].get(name, digest) != digest:
            raise RunDirectoryError(
                f"{file.parent}: holds an evaluation on other problems named {name!r}; choose another --out"
            )
    problems: dict[str, str] = before["problems"]
    return problems


def digest_of(problems: Sequence[Problem]) -> str:
    """A hash of the questions and how they are judged, in any order."""
    texts = sorted(json.dumps([p.id, p.problem, p.answer, p.kind]) for p in problems)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
