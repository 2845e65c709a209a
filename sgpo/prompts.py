"""Every prompt of the project. Each has a version hash, so that a changed word is a new version.

A *style* holds the prompts that a policy sees: `math` for language models, `compact` for the tiny model of the
embedded puzzles, whose vocabulary is a hundred words, or a user's own. Every evaluation uses the autonomous prompt.
What a model was trained with lies beside its weights (`SavedPrompts`). The prompts that a strong model sees, to write
and to rank strategies, stand below the styles.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

from sgpo.errors import InputError
from sgpo.io import read_json, write_json

PROMPTS_FILE = "prompts.json"  # beside weights


class StrategyFields(Protocol):
    """What a prompt shows of a strategy (`sgpo.Strategy` has these fields)."""

    @property
    def problem_type(self) -> str: ...
    @property
    def approach(self) -> str: ...
    @property
    def steps(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStyle:
    """The prompts of a policy, as templates.

    Attributes:
        name: what the option `prompt_style` calls it.
        autonomous: shows the problem, nothing else.
        guided: shows the problem and its strategy.
        solution_guided: shows the problem and its solution (OPSD, and the ablation of what guides).
        strategy: a strategy inside of `guided`.
        step: one of its steps.
        step_separator: between two steps.
    """

    name: str
    autonomous: str
    guided: str
    solution_guided: str
    strategy: str
    step: str
    step_separator: str

    @property
    def version(self) -> str:
        """A hash of all texts of the style."""
        parts = (
            self.autonomous, self.guided, self.solution_guided, self.strategy, self.step, self.step_separator
        )  # fmt: skip
        return prompt_version("\x00".join(parts))


# The placeholders that each text may have, those that it must have first.
_PLACEHOLDERS = {
    "autonomous": (("problem",), ()),
    "guided": (("problem", "strategy"), ()),
    "solution_guided": (("problem", "solution"), ()),
    "strategy": (("steps",), ("problem_type", "approach")),
    "step": (("step",), ("number",)),
    "step_separator": ((), ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPrompts:
    """The prompts that a model was trained with, and how: `prompts.json` beside its weights.

    System prompt and chat template's variables stand in the tokenizer's template too, which applies them; here they are
    for whoever serves the model by other means.
    """

    style: PromptStyle
    max_completion_length: int
    temperature: float
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    def save(self, folder: Path) -> None:
        """Write `prompts.json` into the folder of the weights."""
        write_json(folder / PROMPTS_FILE, {**asdict(self), "version": self.style.version})


def load_prompts(folder: Path) -> SavedPrompts | None:
    """Read the prompts beside weights; None where there are none.

    Raises:
        InputError: the file is damaged; the message names it.
    """
    file = folder / PROMPTS_FILE
    if not file.is_file():
        return None
    found = read_json(file)
    try:
        style = PromptStyle(**{name: str(found["style"][name]) for name in PromptStyle.__slots__})
        return SavedPrompts(
            style=style,
            max_completion_length=int(found["max_completion_length"]),
            temperature=float(found["temperature"]),
            system_prompt=found.get("system_prompt"),
            chat_template_kwargs=found.get("chat_template_kwargs"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: damaged ({type(error).__name__}: {error}); delete it, and name the prompts"
        ) from None


def own_style(texts: Mapping[str, Any], *, base: PromptStyle) -> PromptStyle:
    """Prompts of one's own: these texts, and those of `base` for the rest.

    Args:
        texts: Texts by the names of `PromptStyle`'s fields. `{problem}` and the like stand for what is filled in, `{{`
            and `}}` for braces.
        base: The style that has the other texts.

    Raises:
        InputError: an unknown field, no text, or a placeholder that is missing, unknown or malformed.
    """
    for name, text in texts.items():
        if name not in _PLACEHOLDERS:
            near = difflib.get_close_matches(str(name), _PLACEHOLDERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_PLACEHOLDERS)}"
            raise InputError(f"prompts: unknown text {name!r}; {hint}")
        if not isinstance(text, str):
            raise InputError(f"prompts.{name}: expected a text, got {text!r:.40}")
        must, may = _PLACEHOLDERS[name]
        try:
            found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
        except ValueError as error:
            raise InputError(f"prompts.{name}: {error}; write {{{{ and }}}} for braces") from None
        if missing := [field for field in must if field not in found]:
            raise InputError(f"prompts.{name}: it lacks {{{missing[0]}}}, for which the {missing[0]} is filled in")
        if unknown := sorted(found - {*must, *may}):
            known = ", ".join(f"{{{field}}}" for field in (*must, *may)) or "none"
            raise InputError(
                f"prompts.{name}: unknown placeholder {{{unknown[0]}}}; known are {known}; {{{{ and }}}} are braces"
            )
    return replace(base, name="own", **texts) if texts else base


def prompt_version(text: str) -> str:
    """Hash a prompt's text: 12 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


STYLES = {
    style.name: style
    for style in (
        PromptStyle(
            name="math",
            autonomous="{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
            # The policy must learn to reason this way without being told, so its completion must read as if it had
            # not been told.
            guided=(
                "{problem}\n\nHere is a strategy for problems of this kind:\n\n{strategy}\n\nFollow the strategy, but "
                "do not mention it: write the solution as if the idea were yours. Please reason step by step, and put "
                "your final answer within \\boxed{{}}."
            ),
            solution_guided=(
                "{problem}\n\nHere is a solution of this problem:\n\n{solution}\n\nUnderstand it, then solve the "
                "problem anew in your own words, but do not mention it: write the solution as if the idea were yours. "
                "Please reason step by step, and put your final answer within \\boxed{{}}."
            ),
            strategy="Problem type: {problem_type}\nApproach: {approach}\nSteps:\n{steps}",
            step="{number}. {step}",
            step_separator="\n",
        ),
        PromptStyle(
            name="compact",
            # The space before a word belongs to the word's token, so a prompt begins with one too.
            autonomous=" {problem}",
            guided=" {strategy} | {problem}",
            solution_guided=" {solution} | {problem}",
            strategy="{problem_type} : {steps}",
            step="{step}",
            step_separator=" ; ",
        ),
    )
}

# What a strong model is asked (`sgpo.strategies.extract`). Some servers and models repeat the question before they
# answer, so no example in it may read as an answer.

EXTRACT = """\
You turn the solution of one problem into a strategy that a weaker reader could follow on every problem of the same \
kind, without ever having seen this one.

Problem:
{problem}

Solution:
{solution}

Write the strategy:
- problem_type: the kind of problem, in one phrase.
- approach: the idea that makes problems of this kind tractable, in one or two sentences.
- steps: the general procedure, 3 to 8 steps, each one sentence that says what to do and, where it helps, why.
- when_to_use: by what a reader recognises that this strategy fits, in one sentence.

Leave out everything that belongs to this instance: its numbers, names and objects, every computation and every \
intermediate result, and above all its answer, in digits, in words or in any other form. Do not quote the problem or \
the solution. Numbers that belong to the method itself may stay ("two cases", "modulo", "the quadratic formula").

Answer with one JSON object and nothing else:
{{"problem_type": "...", "approach": "...", "steps": ["...", "..."], "when_to_use": "..."}}"""

RANK = """\
Judge a strategy that was written from the solution of a problem, to guide others through problems of the same kind.

Problem:
{problem}

Solution:
{solution}

Strategy:
{strategy}

Give four whole numbers from 1 (poor) to 5 (excellent):
- faithful: it describes the method that the solution really uses.
- general: it serves other problems of this kind just as well.
- actionable: a reader who follows its steps knows what to do next at every point.
- leak_free: it gives away no number, computation, intermediate result or answer of this problem.

Answer with one JSON object and nothing else:
{{"faithful": <1-5>, "general": <1-5>, "actionable": <1-5>, "leak_free": <1-5>}}"""

ASK_AGAIN = """\
{prompt}

An earlier answer to this could not be used: {error}. Answer with the JSON object alone."""

EXTRACT_VERSION = prompt_version(EXTRACT + ASK_AGAIN)
RANK_VERSION = prompt_version(RANK + ASK_AGAIN)


def prompt_style(name: str | PromptStyle) -> PromptStyle:
    """Look up a style by its name; a style is itself.

    Raises:
        InputError: there is no such style.
    """
    if isinstance(name, PromptStyle):
        return name
    if name not in STYLES:
        raise InputError(f"unknown prompt style {name!r}; there are: {', '.join(STYLES)}")
    return STYLES[name]


def autonomous_prompt(problem: str, *, style: str | PromptStyle = "math") -> str:
    """Write the autonomous prompt, the condition of `pi(. | q)`: the problem without a strategy.

    Args:
        problem: the problem's text.
        style: a style, or a name of `STYLES`.
    """
    return prompt_style(style).autonomous.format(problem=problem)


def guided_prompt(problem: str, strategy: StrategyFields, *, style: str | PromptStyle = "math") -> str:
    """Write the guided prompt, the condition of `pi(. | q, s)`: the problem and its strategy.

    Args:
        problem: the problem's text.
        strategy: the strategy to follow.
        style: a style, or a name of `STYLES`.
    """
    return prompt_style(style).guided.format(problem=problem, strategy=strategy_text(strategy, style=style))


def solution_guided_prompt(problem: str, solution: str, *, style: str | PromptStyle = "math") -> str:
    """Write the prompt with a solution in the strategy's place, the condition of `pi(. | q, solution)`.

    Args:
        problem: the problem's text.
        solution: the solution to understand and not to mention.
        style: a style, or a name of `STYLES`.
    """
    # A compact solution begins with its first word's space, which the template has too.
    return prompt_style(style).solution_guided.format(problem=problem, solution=solution.strip())


def strategy_text(strategy: StrategyFields, *, style: str | PromptStyle = "math") -> str:
    """Write a strategy as the guided prompt shows it."""
    texts = prompt_style(style)
    steps = texts.step_separator.join(
        texts.step.format(number=number, step=step) for number, step in enumerate(strategy.steps, start=1)
    )
    text = texts.strategy.format(problem_type=strategy.problem_type, approach=strategy.approach, steps=steps)
    return text.rstrip()  # without steps, the space before them would be an odd token of its own


def extract_prompt(problem: str, solution: str) -> str:
    """Ask a strong model for a strategy, made from a problem's solution."""
    return EXTRACT.format(problem=problem, solution=solution)


def rank_prompt(problem: str, solution: str, strategy: StrategyFields) -> str:
    """Ask a strong model for the scores of a strategy."""
    return RANK.format(problem=problem, solution=solution, strategy=strategy_text(strategy))


def ask_again_prompt(prompt: str, error: str) -> str:
    """Repeat a question whose answer could not be used.

    Args:
        prompt: the question.
        error: what was wrong with the answer, in a few words.
    """
    return ASK_AGAIN.format(prompt=prompt, error=error)
