"""What an evaluation keeps in its directory, so that one that was killed goes on where it was.

`config.json` says what was asked of which model, `eval/NAME-step-000000.jsonl` gets every completion with its verdict
as it comes, and `eval/NAME-step-000000.json` the scores at the end: a run directory (docs/run-directory.md), which
`sgpo compare` and `sgpo report` read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sgpo.errors import RunDirectoryError
from sgpo.io import append_jsonl, write_json
from sgpo.problems import Problem

ROW_FIELDS = {"problem_id", "sample", "completion", "verdict", "extracted", "tokens", "truncated"}


class EvaluationStore:
    """The directory of an evaluation with these settings.

    Raises RunDirectoryError where the directory holds a training run, or an evaluation with other settings or problems.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], problems: Mapping[str, Sequence[Problem]]) -> None:
        self.path = path
        file = path / "config.json"
        digests = {name: _digest(loaded) for name, loaded in problems.items()}
        if file.exists():
            before = _read_evaluation(file)
            changed = {key: (before["settings"].get(key), value) for key, value in settings.items()}
            changed = {key: values for key, values in changed.items() if values[0] != values[1]}
            if changed:
                what = ", ".join(f"{key} {old!r} (now {new!r})" for key, (old, new) in changed.items())
                raise RunDirectoryError(f"{path}: holds an evaluation with {what}; choose another --out")
            for name, digest in digests.items():
                if before["problems"].get(name, digest) != digest:
                    raise RunDirectoryError(
                        f"{path}: holds an evaluation on other problems named {name!r}; choose another --out"
                    )
            digests = {**before["problems"], **digests}
        config = {
            "algorithm": "",
            "model": settings["model"],
            "evaluation": {"settings": dict(settings), "problems": digests},
            "versions": {name: version(name) for name in ("sgpo", "torch", "transformers", "math-verify")},
        }
        write_json(file, config)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The completions that are kept already; a last line that was cut off by a kill is taken away."""
        file = self._rows_file(name)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(file, len(whole))
        rows = []
        for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not row.keys() >= ROW_FIELDS:
                raise RunDirectoryError(
                    f"{file}, row {number}: no completion of an evaluation; delete the row, or the file"
                )
            rows.append(row)
        return rows

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep judged completions."""
        append_jsonl(self._rows_file(name), rows)

    def write_scores(self, name: str, scores: Mapping[str, Any]) -> None:
        """Write the `eval/*.json`."""
        write_json(self._rows_file(name).with_suffix(".json"), scores)

    def _rows_file(self, name: str) -> Path:
        return self.path / "eval" / f"{name}-step-000000.jsonl"


def _read_evaluation(file: Path) -> dict[str, Any]:
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8")).get("evaluation")
    except (OSError, ValueError, AttributeError):
        evaluation = None
    if not isinstance(evaluation, dict) or not evaluation.keys() >= {"settings", "problems"}:
        raise RunDirectoryError(f"{file.parent}: holds another run; choose another --out")
    return evaluation


def _digest(problems: Sequence[Problem]) -> str:
    """Of what is asked and how it is judged; the order does not matter."""
    texts = sorted(json.dumps([p.id, p.problem, p.answer, p.kind]) for p in problems)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
