"""Every prompt of the project. Each has a version hash, so that a changed word is a new version.

A *style* holds the prompts that a policy sees: `math` for language models, `compact` for the tiny model of the
embedded puzzles, whose vocabulary is a hundred words. Every evaluation uses the autonomous prompt. The prompts that a
strong model sees, to write and to rank strategies, stand below the styles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sgpo.errors import InputError


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


def prompt_style(name: str) -> PromptStyle:
    """Look up a style by its name.

    Raises:
        InputError: there is no such style.
    """
    if name not in STYLES:
        raise InputError(f"unknown prompt style {name!r}; there are: {', '.join(STYLES)}")
    return STYLES[name]


def autonomous_prompt(problem: str, *, style: str = "math") -> str:
    """Write the autonomous prompt, the condition of `pi(. | q)`: the problem without a strategy.

    Args:
        problem: the problem's text.
        style: a name of `STYLES`.
    """
    return prompt_style(style).autonomous.format(problem=problem)


def guided_prompt(problem: str, strategy: StrategyFields, *, style: str = "math") -> str:
    """Write the guided prompt, the condition of `pi(. | q, s)`: the problem and its strategy.

    Args:
        problem: the problem's text.
        strategy: the strategy to follow.
        style: a name of `STYLES`.
    """
    return prompt_style(style).guided.format(problem=problem, strategy=strategy_text(strategy, style=style))


def solution_guided_prompt(problem: str, solution: str, *, style: str = "math") -> str:
    """Write the prompt with a solution in the strategy's place, the condition of `pi(. | q, solution)`.

    Args:
        problem: the problem's text.
        solution: the solution to understand and not to mention.
        style: a name of `STYLES`.
    """
    # A compact solution begins with its first word's space, which the template has too.
    return prompt_style(style).solution_guided.format(problem=problem, solution=solution.strip())


def strategy_text(strategy: StrategyFields, *, style: str = "math") -> str:
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
