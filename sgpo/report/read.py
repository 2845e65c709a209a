"""Run directories, read back (`docs/run-directory.md`), and their text made fit to be shown.

A run may be in progress, may have died in the middle of a line, or may lack whole files. The reader takes what it can
read and says the rest in `RunRecord.notes`. It makes all text visible (`visible_text`), so nothing later can forget to,
and gives keys of older runs their present names. Escaping for HTML is the template's part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.errors import InputError, RunDirectoryError
from sgpo.evaluation.compare import evaluation_settings
from sgpo.evaluation.summary import pass_rates
from sgpo.io import RENAMED_COUNTS, RENAMED_METRICS, counted, read_json, read_lines

LARGEST = 1e100  # what is larger can neither be added up nor drawn
_PARTS = ("config.json", "metrics.jsonl", "warmup.json", "eval", "rollouts", "targets")
_SCORE_KEY = re.compile(r"(avg|pass|maj)@(\d+)")
_EVAL_FILE = re.compile(r"(?P<name>.+)-step-(?P<step>\d+)")
_STEP_FILE = re.compile(r"step-(\d+)")

# Characters that HTML cannot hold, that cannot be seen, or that act on the text around them.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # direction marks, overrides, isolates, zero width
    "\u2028\u2029"  # line separators
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # lone surrogates, noncharacters
)


class Measurement(NamedTuple):
    """A number with its 95 % interval; a side that is not known is NaN."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """The scores of one `eval/*.json`. Example of `scores`: `{"avg@4": Measurement(0.41, 0.36, 0.46)}`.

    `pass_rates` are those of each problem; `missing` counts the problems without an answer; `parts` holds the mean
    score of each subject and level.
    """

    name: str
    step: int
    completions: int | None
    problems: int | None
    scores: Mapping[str, Measurement]
    pass_rates: Mapping[str, float]
    verdicts: Mapping[str, int]
    missing: int
    length: str
    truncated: float | None
    parts: Mapping[str, Mapping[str, Measurement]]
    completions_file: Path


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """One run directory, without its completions and targets.

    `metrics` are the rows of `metrics.jsonl`, `warmup` those of `warmup.jsonl`; `notes` tell the reader of the report
    what is missing or could not be read.
    """

    path: Path
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    warmup: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def algorithm(self) -> str | None:
        return text_of(self.config, "algorithm") or None

    @property
    def broken_off(self) -> bool:
        """Whether training logged steps but not its end: it is in progress, or it died."""
        return bool(self.metrics) and not any("train_runtime" in row for row in self.metrics)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read run directories; each is named by the shortest part of its path that tells it apart.

    Raises:
        InputError: there is no path.
        RunDirectoryError: a path is no run directory.
    """
    if not paths:
        raise InputError("no run directory given; a report is made of one or several")
    names = distinct_names([path.resolve().parts for path in paths])
    return [read_run(path, visible_text(name)) for path, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str) -> RunRecord:
    """Read a run directory; `read_steps` and `read_evaluation_rows` read its completions and targets.

    Args:
        path: the directory.
        name: what the report calls the run.

    Raises:
        RunDirectoryError: `path` is no run directory.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: no such directory; give the directory that a training run wrote")
    if not _is_run(path):
        inside = [part.name for part in sorted(path.iterdir()) if part.is_dir() and _is_run(part)]
        held = counted(len(inside), "run directory", "run directories")
        hint = f"; it holds {held}, give {', '.join(inside)}" if inside else ""
        raise RunDirectoryError(f"{path}: not a run directory (none of {', '.join(_PARTS)} is in it){hint}")
    run = RunRecord(path=path, name=name)
    if (path / "warmup.jsonl").exists():
        run.warmup = list(read_visible_rows(path / "warmup.jsonl", run.notes))
    if not any((path / part).exists() for part in _PARTS if part != "warmup.json"):
        run.config = _read_warmup_config(path / "warmup.json", run.notes)
        run.notes.append("only the warm-up was run: no reinforcement, no evaluation")
        return run

    run.config = _read_config(path / "config.json", run.notes)
    if (path / "metrics.jsonl").exists():
        run.metrics = [_rename(row, RENAMED_METRICS) for row in read_visible_rows(path / "metrics.jsonl", run.notes)]
        numbers = (value for row in run.metrics for value in row.values() if isinstance(value, int | float))
        if large := sum(LARGEST < abs(number) < math.inf for number in numbers):
            run.notes.append(f"metrics.jsonl: {counted(large, 'number')} beyond {LARGEST:g} left out")
    else:
        run.notes.append("metrics.jsonl is missing: no training curves")
    asked = evaluation_settings(run.config).get("max_tokens")
    found = [_read_evaluation(file, run.notes, asked=asked) for file in sorted((path / "eval").glob("*.json"))]
    run.evaluations = [evaluation for evaluation in found if evaluation is not None]
    run.evaluations.sort(key=lambda evaluation: (evaluation.name, evaluation.step))
    if not run.evaluations:
        run.notes.append("eval/ holds no scores: no learning curve")
    if (path / "alarms.jsonl").exists():
        run.alarms = list(read_visible_rows(path / "alarms.jsonl", run.notes))
    if (path / "strategies.jsonl").exists():
        for row in read_visible_rows(path / "strategies.jsonl", run.notes):
            run.strategies[text_of(row, "id") or text_of(row, "problem_id")] = row
    return run


def read_steps(run: RunRecord, folder: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Read `rollouts/` or `targets/` step by step, in the order of the steps: `(step, rows)`."""
    files = {
        int(match[1]): file
        for file in (run.path / folder).glob("step-*.jsonl")
        if (match := _STEP_FILE.fullmatch(file.stem))
    }
    for step in sorted(files):
        yield step, list(read_visible_rows(files[step], run.notes))


def read_evaluation_rows(run: RunRecord, evaluation: EvaluationRecord) -> list[dict[str, Any]]:
    """Read the completions of an evaluation; an empty list where the run did not keep them."""
    file = evaluation.completions_file
    return list(read_visible_rows(file, run.notes)) if file.exists() else []


def read_visible_rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON Lines file, their text made visible.

    A line that is no object is left out and noted: a run may be writing it.
    """
    unread = 0
    for row in read_lines(path):
        if row is None:
            unread += 1
        else:
            yield make_visible(row)
    if unread:
        notes.append(f"{path.name}: {unread} line{'s' if unread > 1 else ''} could not be read and left out")


def text_of(row: Mapping[str, Any], key: str) -> str:
    """`row[key]` as text; empty where it is missing or null."""
    value = row.get(key)
    return "" if value is None else value if isinstance(value, str) else visible_text(str(value))


def number_of(row: Mapping[str, Any], key: str) -> float | None:
    """`row[key]` as a number up to `LARGEST`; None where it is missing or no such number."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None


def count_of(row: Mapping[str, Any], key: str) -> int | None:
    """`row[key]` as a whole number; None where it is missing or no number."""
    value = number_of(row, key)
    return None if value is None else int(value)


def series(metrics: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """`(step, value)` of a metric, in the order of the steps; the last value where a step was logged twice (a resumed
    run)."""
    values: dict[float, float] = {}
    for row in metrics:
        step, value = number_of(row, "step"), number_of(row, key)
        if step is not None and value is not None:
            values[step] = value
    return sorted(values.items())


def _is_run(path: Path) -> bool:
    return any((path / part).exists() for part in _PARTS)


def _read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    """`config.json`, its keys as they are called now; empty where it is missing."""
    config = _read_visible_object(path, notes) or {}
    if isinstance(config.get("problems"), dict):
        config["problems"] = _rename(config["problems"], RENAMED_COUNTS)
    return config


def _read_warmup_config(path: Path, notes: list[str]) -> dict[str, Any]:
    """`warmup.json` in the form of `config.json`."""
    warmup = _read_visible_object(path, notes) or {}
    counts = {key: warmup.pop(key) for key in ("problems", "without_solution", "too_long") if key in warmup}
    return warmup | {"algorithm": "SFT warm-up", "args": warmup.pop("sft", {}), "problems": counts}


def _rename(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`row` with the keys of `names` replaced; their order stays."""
    return {names.get(key, key): value for key, value in row.items()}


def _read_visible_object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    try:
        value = read_json(path, errors="replace")
    except FileNotFoundError:
        notes.append(f"{path.name} is missing")
        return None
    except InputError:
        notes.append(f"{path.name} is not JSON and left out")
        return None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is no JSON object and left out")
        return None
    return {visible_text(key): make_visible(item) for key, item in value.items()}


def _read_evaluation(file: Path, notes: list[str], *, asked: Any) -> EvaluationRecord | None:
    """The scores in a file, None where it holds none; `asked` is the limit of tokens that the run was started with."""
    row = _read_visible_object(file, notes)
    if row is None:
        return None
    named = _EVAL_FILE.fullmatch(file.stem)
    step = count_of(row, "step")
    if step is None:
        step = int(named["step"]) if named else 0
    scores = {
        key: score
        for key, value in row.items()
        if _SCORE_KEY.fullmatch(key) and (score := _measurement(value)) is not None
    }
    if not scores:
        notes.append(f"{file.name} holds no score and is left out")
        return None
    if asked is not None and row.get("max_tokens", asked) != asked:
        limit = count_of(row, "max_tokens")
        had = "asked for without a limit of tokens" if limit is None else f"cut at {counted(limit, 'token')}"
        notes.append(f"{file.name}: completions were {had}, not with max_tokens={asked}")
    verdicts = row.get("verdicts")
    return EvaluationRecord(
        name=text_of(row, "name") or visible_text(named["name"] if named else file.stem),
        step=step,
        completions=count_of(row, "completions"),
        problems=count_of(row, "problems"),
        scores=scores,
        pass_rates=pass_rates(row.get("samples")),
        completions_file=file.with_suffix(".jsonl"),
        verdicts={key: count_of(verdicts, key) or 0 for key in verdicts} if isinstance(verdicts, dict) else {},
        missing=count_of(row, "missing") or 0,
        length=_mean_length(row.get("length")),
        truncated=number_of(row, "truncated"),
        parts={kind: _part_scores(row.get(kind)) for kind in ("subjects", "levels")},
    )


def _mean_length(value: Any) -> str:
    """`812 tokens`; empty where it is not known."""
    mean = number_of(value, "mean") if isinstance(value, dict) else None
    return "" if mean is None else f"{mean:,.0f} {text_of(value, 'unit')}".rstrip()


def _part_scores(value: Any) -> dict[str, Measurement]:
    """The mean score of each subject or level."""
    parts = value.items() if isinstance(value, dict) else ()
    scores = {name: _measurement(part.get("avg")) for name, part in parts if isinstance(part, dict)}
    return {name: score for name, score in scores.items() if score is not None}


def _measurement(value: Any) -> Measurement | None:
    if not isinstance(value, dict) or (mean := number_of(value, "mean")) is None:
        return None
    low, high = number_of(value, "low"), number_of(value, "high")
    return Measurement(mean, math.nan if low is None else low, math.nan if high is None else high)


def make_visible(value: Any) -> Any:
    """`visible_text` for every string inside a JSON value, keys included."""
    if isinstance(value, str):
        return visible_text(value)
    if isinstance(value, dict):
        return {visible_text(key): make_visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [make_visible(item) for item in value]
    return value


def visible_text(text: str) -> str:
    """`text` with every unfit character replaced by a sign for it. Line feeds and tabs stay, CR LF becomes LF."""
    return _UNFIT.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␀ ␁ ...
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code >= 0xFFFE:
        return "\ufffd"
    return f"[U+{code:04X}]"


def shorten(text: str, *, head: int, tail: int) -> str:
    """The first `head` and last `tail` characters, with a line between that says how much was left out."""
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[len(text) - tail :]}"


def distinct_names(paths: Sequence[Sequence[str]]) -> list[str]:
    """The shortest trailing parts of paths (as parts) that tell them apart: `a/sgpo`, `b/sgpo`."""
    longest = max((len(parts) for parts in paths), default=1)
    for depth in range(1, longest + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(parts[-1:])} ({number})" for number, parts in enumerate(paths, start=1)]
