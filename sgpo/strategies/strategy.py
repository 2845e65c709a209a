"""The record of a strategy, and how it reads and writes itself as JSON, alone and in JSON Lines files."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sgpo.errors import InputError
from sgpo.io import check_unicode, read_rows

T = TypeVar("T")

MAX_COUNT = 2**63 - 1  # that a bank can store

_NUMBERING = re.compile(r"^\s*(?:step\s+)?(?:\d+\s*[.):]|[-*•])\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A strong model's ranking of a strategy, 1 (poor) to 5 each."""

    faithful: int
    general: int
    actionable: int
    leak_free: int

    @property
    def total(self) -> int:
        return self.faithful + self.general + self.actionable + self.leak_free


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Something of the instance that a strategy gives away: `text` stands in its field `where`.

    Example: `Leak(kind="answer", text="seventy-two", where="steps[2]")`.
    """

    kind: str
    text: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a strategy did for a model: completions that passed and that were sampled, with it and without it.

    Raises:
        InputError: Passes below 0 or above their total.
    """

    guided_passes: int = 0
    guided_total: int = 0
    autonomous_passes: int = 0
    autonomous_total: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.guided_passes <= self.guided_total or not 0 <= self.autonomous_passes <= self.autonomous_total:
            raise InputError(f"the passes of an effect must lie between 0 and their total, got {asdict(self)}")

    @property
    def uplift(self) -> float | None:
        """Guided minus autonomous pass rate; None until both groups were sampled."""
        if not self.guided_total or not self.autonomous_total:
            return None
        return self.guided_passes / self.guided_total - self.autonomous_passes / self.autonomous_total


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What an effect was measured under; effects under different conditions are never added.

    `model` is the revision of the weights that were sampled, or that training began with; `prompts` the style and
    version of the prompts; `reward` what judged. The empty condition is that of what a file or an old bank brought.
    """

    model: str = ""
    prompts: str = ""
    reward: str = ""

    def to_text(self) -> str:
        """The condition as a bank stores it."""
        return "" if self == Condition() else json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How to solve problems of a kind, with nothing of the instance in it.

    Example: `Strategy(problem_id="gsm8k-train-0", problem_type="Two related quantities and their total",
    approach="Find the unknown quantity from its relation to the known one, then add", steps=("Name the known quantity",
    "Apply the stated relation to it", "Add the two"))`.

    `id` is made of the problem and the text, so an edited strategy is another one and never inherits the old one's
    measured effect. `leaks` is None until a gate has looked, then what it found; `reviewed` is when a person accepted
    it. The rest says where it came from.

    Raises:
        InputError: A field that is missing or of the wrong type.
    """

    problem_id: str
    problem_type: str
    approach: str
    steps: tuple[str, ...]
    _: KW_ONLY
    when_to_use: str = ""
    id: str = ""
    scores: Scores | None = None
    leaks: tuple[Leak, ...] | None = None
    strong_model: str | None = None
    prompt_version: str | None = None
    sampling: Mapping[str, Any] | None = field(default=None, hash=False)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    created: str | None = None
    reviewed: str | None = None

    def __post_init__(self) -> None:
        for name in ("problem_id", "problem_type", "approach", "when_to_use", "id"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InputError(f"{name!r} must be text, got {_json_type(value)}")
            if not value.strip() and name in ("problem_id", "problem_type"):
                raise InputError(f"{name!r} is empty")
        object.__setattr__(self, "steps", _step_tuple(self.steps))
        check_unicode("".join((self.problem_id, self.id, *self.steps, *self.text[:2], self.when_to_use)))
        if not self.id:
            text = json.dumps([self.problem_id, self.problem_type, self.approach, self.steps, self.when_to_use])
            object.__setattr__(self, "id", "s-" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:16])

    @property
    def text(self) -> tuple[str, str, tuple[str, ...], str]:
        """Everything a policy could be shown."""
        return self.problem_type, self.approach, self.steps, self.when_to_use

    def to_json(self) -> dict[str, Any]:
        """The strategy as a JSON object, without the fields that are not set."""
        row = {key: value for key, value in asdict(self).items() if value is not None and value != ""}
        return {**row, "approach": self.approach, "steps": list(self.steps)}


FIELDS = tuple(f.name for f in fields(Strategy))
REQUIRED_FIELDS = ("problem_id", "problem_type", "approach", "steps")


def current_time() -> str:
    """The time as it stands in a bank: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def strategy_from_json(row: Mapping[str, Any], *, also: Iterable[str] = ()) -> Strategy:
    """The strategy that a JSON object holds. `steps` is a list of texts, or one text with a step per line.

    Fields beyond a strategy's and those in `also` are left aside, as in problem files.

    Raises:
        InputError: A field that is missing, of the wrong type, or all but named like a known one.
    """
    for name in REQUIRED_FIELDS:
        if row.get(name) is None:
            raise InputError(f"no {name!r}; a strategy needs {', '.join(REQUIRED_FIELDS)}")
    known = (*FIELDS, *also)
    for name in row:
        if name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.85)):
            raise InputError(f"unknown field {name!r}; did you mean {near[0]!r}?")
    values = {name: row[name] for name in FIELDS if row.get(name) is not None}
    if type(row["problem_id"]) is int:  # other programs number their problems
        values["problem_id"] = str(row["problem_id"])
    if isinstance(row["steps"], str):
        values["steps"] = tuple(steps_from_text(row["steps"]))
    if "scores" in values:
        values["scores"] = _record(Scores, values["scores"], "scores", int)
    if "leaks" in values:
        if not isinstance(values["leaks"], list):
            raise InputError(f"'leaks' must be a list, got {_json_type(values['leaks'])}")
        values["leaks"] = tuple(_record(Leak, leak, "leaks", str) for leak in values["leaks"])
    for name, types in _OPTIONAL_TYPES.items():
        if name in values and (not isinstance(values[name], types) or isinstance(values[name], bool)):
            raise InputError(f"{name!r} has the wrong type: {_json_type(values[name])}")
    for name in ("prompt_tokens", "completion_tokens"):
        if not 0 <= values.get(name, 0) <= MAX_COUNT:
            raise InputError(f"{name!r} is no count: {values[name]}")
    return Strategy(**values)


def effect_from_json(value: Any) -> Effect:
    """The measured effect that a JSON object holds. Raises InputError for anything else."""
    return _record(Effect, value, "effect", int)


def steps_from_text(text: str) -> list[str]:
    """The steps of a text with one per line; numbers and bullets in front are dropped, the prompt numbers them."""
    return [step for line in text.splitlines() if (step := _NUMBERING.sub("", line).strip())]


def editable_text(strategy: Strategy) -> str:
    """The part of a strategy that a person edits, as JSON."""
    written = {name: getattr(strategy, name) for name in ("problem_type", "approach", "steps", "when_to_use")}
    return json.dumps(written, ensure_ascii=False, indent=2) + "\n"


def apply_edit(strategy: Strategy, text: str) -> Strategy:
    """The strategy that a person made of another one's `editable_text`.

    It is a new one, accepted, without the scores and leaks of the old one; or the old one where nothing was changed.

    Raises:
        InputError: The text is no strategy.
    """
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"line {error.lineno} of the edited text: not JSON ({error.msg}); nothing was changed"
        ) from None
    if not isinstance(row, dict):
        raise InputError("the edited text is no JSON object; nothing was changed")
    written = strategy_from_json({**row, "problem_id": strategy.problem_id})
    if written.text == strategy.text:
        return strategy
    moment = current_time()
    return replace(
        strategy,
        id="",
        problem_type=written.problem_type,
        approach=written.approach,
        steps=written.steps,
        when_to_use=written.when_to_use,
        scores=None,
        leaks=None,
        created=moment,
        reviewed=moment,
    )


def read_strategy_file(path: Path) -> list[tuple[Strategy, bool, Effect | None]]:
    """The strategies of a JSON Lines file, with whether each is active and what was measured of it, if the file says.

    Raises:
        InputError: No such file, no rows, not JSON, a field that is missing or wrong, two strategies with one id or two
            active ones for one problem; the message names the file and row.
    """
    rows: list[tuple[Strategy, bool, Effect | None]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in read_rows(path):
        try:
            strategy, active, effect = _of_export(row)
        except InputError as error:
            raise InputError(f"{path}, row {number}: {error}; nothing was imported") from None
        for key in [("strategy id", strategy.id)] + [("active strategy for problem", strategy.problem_id)] * active:
            if key in seen:
                raise InputError(
                    f"{path}, row {number}: a second {key[0]} {key[1]!r}, the first is in row {seen[key]}; "
                    f"nothing was imported"
                )
            seen[key] = number
        rows.append((strategy, active, effect))
    if not rows:
        raise InputError(f"{path}: no strategies in it; expected one JSON object per line")
    return rows


def _of_export(row: Mapping[str, Any]) -> tuple[Strategy, bool, Effect | None]:
    check_unicode(json.dumps(row, ensure_ascii=False))
    if "kept" in row:
        raise InputError("the field 'kept' is called 'active' now; rename it in the file")
    active, effect = row.get("active", True), row.get("effect")
    if not isinstance(active, bool):
        raise InputError("'active' must be true or false")
    strategy = strategy_from_json(row, also=("active", "effect"))
    return strategy, active, None if effect is None else effect_from_json(effect)


_OPTIONAL_TYPES: dict[str, type | tuple[type, ...]] = {
    "strong_model": str,
    "prompt_version": str,
    "sampling": Mapping,
    "prompt_tokens": int,
    "completion_tokens": int,
    "cost": (int, float),
    "created": str,
    "reviewed": str,
}


def _step_tuple(steps: Any) -> tuple[str, ...]:
    if isinstance(steps, str) or not isinstance(steps, list | tuple) or not all(isinstance(s, str) for s in steps):
        raise InputError(f"'steps' must be a list of texts, got {_json_type(steps)}")
    if not steps or not all(step.strip() for step in steps):
        raise InputError("'steps' holds no step or an empty one")
    return tuple(steps)


def _record(kind: type[T], value: Any, name: str, type_: type) -> T:
    expected = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping) or sorted(value) != sorted(expected):
        raise InputError(f"{name!r} must be an object with {', '.join(expected)}")
    if any(type(v) is not type_ or (isinstance(v, int) and not 0 <= v <= MAX_COUNT) for v in value.values()):
        raise InputError(f"{name!r} has a value that is no {'count' if type_ is int else 'text'}")
    return kind(**value)


def _json_type(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", str: "a text", type(None): "null", bool: "a boolean"}
    if isinstance(value, list | tuple):
        return "a list of other things"
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
