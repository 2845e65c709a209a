"""Rewards of a user's own: what advantages are computed from, where that is not the verdict alone.

*Correct* stays the verifier's word, or that of the function in its place (`correct`): targets, pass rates and the
weights of targets rest on it.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from torch import nn

from sgpo.algorithms import readers_of
from sgpo.errors import InputError
from sgpo.problems import Problem
from sgpo.rollouts.groups import PromptIds, RewardFunction, Rollout, RolloutGroup, function_name
from sgpo.verifier import Verifier
from sgpo.verifier.kinds import import_function

VERIFIER = "verifier"  # the reward that is the verdict: 1 if correct, else 0

# What TRL gives a reward function beside the columns of the data set.
_TRL_ARGUMENTS = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True, slots=True)
class Reward:
    """One part of what a completion is worth: its `weight`, and the function that says it; None is the verdict.

    A function with a parameter `completions` or `prompts` is called as TRL calls it: once, with lists. Any other is
    called as `(completion, problem)`.
    """

    name: str
    function: Callable[..., Any] | None
    weight: float = 1.0

    def values(self, items: Sequence[tuple[Rollout, Problem]], arguments: Mapping[str, Sequence[Any]]) -> list[float]:
        """The reward of each completion, NaN where there is none; `arguments` are what TRL would give.

        Raises:
            InputError: The function raises, or returns something other than finite numbers and None.
        """
        function = self.function
        if function is None:
            return [rollout.reward for rollout, _ in items]
        try:
            if _takes_lists(function):
                found = list(function(**_accepted(function, arguments)))
            else:
                found = [function(rollout.completion, problem) for rollout, problem in items]
        except Exception as error:
            raise InputError(f"reward {self.name}: {_said(error)}") from error
        if len(found) != len(items):
            raise InputError(f"reward {self.name}: returned {len(found)} rewards for {len(items)} completions")
        return [self._number(value, problem) for value, (_, problem) in zip(found, items, strict=True)]

    def _number(self, value: Any, problem: Problem) -> float:
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            number = math.inf
        if math.isinf(number):
            raise InputError(
                f"reward {self.name}: returned {value!r:.80} for problem {problem.id!r}; a reward is a finite number, "
                "or None where there is none"
            )
        return number


@dataclass(frozen=True, slots=True)
class Rewards:
    """The rewards of a run; without `parts`, the verdict alone.

    `rows` are the rows of the data set by problem id: TRL's functions get their columns. `chats`: they get prompts and
    completions as lists of messages, as TRL gives them where the data set holds its prompts so.
    """

    parts: tuple[Reward, ...] = ()
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chats: bool = False

    @classmethod
    def of(
        cls, functions: Any, weights: Sequence[float] | None, *, problems: Sequence[Problem] = (), dataset: Any = None
    ) -> Self:
        """Find the functions, before anything is loaded.

        Args:
            functions: One or several of: a function, `module:function`, `verifier`, or a `Reward`. None: no rewards.
            weights: One for each; all 1 if not given.
            problems: The problems to train on.
            dataset: What they were read from, in the same order.

        Raises:
            InputError: A function cannot be found or called, two have one name, or the weights do not fit.
        """
        if functions is None:
            if weights is not None:
                raise InputError(
                    "reward_weights needs reward_funcs; in a recipe each of its rewards has its own weight"
                )
            return cls()
        listed = list(functions) if isinstance(functions, list | tuple) else [functions]
        if not listed:
            raise InputError("reward_funcs is empty; leave it out for the verdict alone")
        if weights is not None and any(isinstance(given, Reward) for given in listed):
            raise InputError("reward_weights: in a recipe each of its rewards has its own weight; leave this out")
        if weights is not None and len(weights) != len(listed):
            raise InputError(f"reward_weights holds {len(weights)} weights, for {len(listed)} reward_funcs")
        parts = tuple(map(as_reward, listed, [1.0] * len(listed) if weights is None else weights))
        name, count = Counter(part.name for part in parts).most_common(1)[0]
        if count > 1:
            raise InputError(f"rewards: {count} are called {name}, and metrics could not tell them apart; rename one")
        rows = {p.id: row for p, row in zip(problems, dataset or (), strict=False) if isinstance(row, Mapping)}
        return cls(parts, rows, chats=any(isinstance(row.get("prompt"), list) for row in rows.values()))

    def give(self, groups: Sequence[RolloutGroup]) -> None:
        """Give every autonomous completion its `rewards`, and their weighted sum; it must have been judged.

        A part without a reward counts 0 in the sum, as in TRL. There is no sum where no part has one, nor where the
        verifier ran out of time: that says nothing of the completion.
        """
        items = [(rollout, group.problem) for group in groups for rollout in group.autonomous]
        if not items:
            return
        arguments = self._arguments(items)
        values = {part.name: part.values(items, arguments) for part in self.parts}
        for number, (rollout, _) in enumerate(items):
            rollout.rewards = {name: found[number] for name, found in values.items()}
            if rollout.rewards:
                rollout.weighted_reward = self._sum(rollout.rewards)

    def _sum(self, rewards: Mapping[str, float]) -> float:
        known = [part.weight * rewards[part.name] for part in self.parts if not math.isnan(rewards[part.name])]
        return math.nan if not known or math.isnan(rewards.get(VERIFIER, 0.0)) else sum(known)

    def _arguments(self, items: Sequence[tuple[Rollout, Problem]]) -> dict[str, list[Any]]:
        """What TRL gives a function: prompts, completions, their tokens, and the columns of their rows."""
        rows = [{**asdict(problem), **self.rows.get(problem.id, {})} for _, problem in items]
        return {
            **{name: [row.get(name) for row in rows] for name in rows[0] if name not in ("prompt", "completion")},
            "prompts": [self._spoken("user", rollout.prompt) for rollout, _ in items],
            "completions": [self._spoken("assistant", rollout.completion) for rollout, _ in items],
            "completion_ids": [rollout.completion_ids for rollout, _ in items],
        }

    def _spoken(self, role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if self.chats else text

    def check(self, algorithm: str, problems: Sequence[Problem]) -> None:
        """Check, before a model is loaded, that the algorithm reads rewards; ask for those of an empty completion.

        Raises:
            InputError: It does not, or as `Reward.values`.
        """
        if not self.parts:
            return
        readers = readers_of("rewards", "policy gradient")
        if algorithm not in readers:
            raise InputError(f"rewards are read by algorithm {', '.join(readers)}, not by {algorithm}; leave them out")
        empty = Rollout("", [], [], "", [], truncated=False, reward=0.0)
        self.give([RolloutGroup(problem, PromptIds("", []), autonomous=[empty]) for problem in problems[:1]])

    def title(self, judge: str) -> str:
        """The rewards in words, with the name of what says what is correct."""
        if not self.parts:
            return judge
        parts = " + ".join(f"{part.weight:g} x {judge if part.function is None else part.name}" for part in self.parts)
        return parts if VERIFIER in {part.name for part in self.parts} else f"{parts}; correct by {judge}"

    def describe(self, verifier: Verifier | RewardFunction | None) -> dict[str, Any]:
        """What `config.json` says of rewards and of what decides what is correct."""
        return {
            "rewards": {part.name: part.weight for part in self.parts} or {VERIFIER: 1.0},
            "correct": VERIFIER if verifier is None or isinstance(verifier, Verifier) else function_name(verifier),
        }


def find_function(path: str, *, what: str) -> Callable[..., Any]:
    """The function `module:function`, also from the working directory.

    Args:
        path: Where it is.
        what: What messages call it.

    Raises:
        InputError: There is none, it is not one to call as `(completion, problem)` or as TRL does.
    """
    if ":" not in path:
        raise InputError(f"{what}: {path!r} is no function; write it as module:function")
    function = import_function(path, what=what)
    _check_signature(function, what=f"{what} {path}")
    return function


def correct_function(path: str | None) -> RewardFunction | None:
    """The function that says what is correct, in the verifier's place; None without one.

    Raises:
        InputError: As `find_function`, or it is one of the kinds of problems, which get the answer.
    """
    if path is None:
        return None
    function = find_function(path, what="correct")
    if "answer" in inspect.signature(function).parameters:
        raise InputError(f"correct: {path} takes an answer, so it is a kind of problem: name it as problems.kind")
    if _takes_lists(function):
        raise InputError(f"correct: {path} must take (completion, problem)")
    return function


def as_reward(given: Any, weight: Any) -> Reward:
    """The reward of a function, of `module:function`, or of "verifier". Raises InputError as `Rewards.of`."""
    if isinstance(given, Reward):
        return given
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        raise InputError(f"reward_weights: {weight!r} is no finite number")
    if given == VERIFIER:
        return Reward(VERIFIER, None, weight)
    if isinstance(given, nn.Module) or (isinstance(given, str) and ":" not in given):
        shown = given if isinstance(given, str) else type(given).__name__
        raise InputError(
            f"reward_funcs: {shown!r} would be a reward model; here each is a function, module:function, or "
            f"{VERIFIER!r}; call the model in a function"
        )
    if isinstance(given, str):
        return Reward(given.partition(":")[2], find_function(given, what="reward"), weight)
    if not callable(given):
        raise InputError(f"reward_funcs: {given!r:.80} is no function")
    name = function_name(given)
    _check_signature(given, what=f"reward {name}")
    return Reward(name, given, weight)


def _check_signature(function: Callable[..., Any], *, what: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise InputError(f"{what}: is asynchronous; write a function that waits (asyncio.run)")
    try:
        if not _takes_lists(function):
            inspect.signature(function).bind("", None)
    except TypeError:
        raise InputError(
            f"{what}: must take (completion, problem), or prompts, completions and columns as in TRL"
        ) from None
    except ValueError:
        pass  # some functions in C have no signature


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def _takes_lists(function: Callable[..., Any]) -> bool:
    """Whether a function is one of TRL's: it has a parameter of theirs, or takes whatever is named."""
    parameters = _parameters(function)
    names_alone = [p.kind for p in parameters.values()] == [inspect.Parameter.VAR_KEYWORD]
    return names_alone or not parameters.keys().isdisjoint(_TRL_ARGUMENTS)


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes: all, where it takes whatever is named."""
    parameters = _parameters(function)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"raised {type(error).__name__}" + (f": {lines[0]:.200}" if lines else "")
