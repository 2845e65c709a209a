"""Every prompt of the project. Each has a version hash, so that a changed word is a new version.

A *style* holds the prompts that a policy sees: `math` for language models, `compact` for the tiny model of the
embedded puzzles, whose vocabulary is a hundred words, or a user's own texts (`own_style`). Every evaluation uses the
autonomous prompt. What a model was trained with lies in a file beside its weights (`SavedPrompts`). The prompts that a
strong model sees, to write and to rank strategies, stand below the styles.
"""

from __future__ import annotations

import difflib
import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sgpo.errors import InputError
from sgpo.io import check_unicode, read_json, read_text, write_json

PROMPTS_FILE = "prompts.json"  # beside the weights of every model that was trained here


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
        name: what the option `prompt_style` calls it; `own` for texts of a user's own.
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
    def texts(self) -> dict[str, str]:
        """The templates by name, in the order above."""
        return {name: text for name, text in asdict(self).items() if name != "name"}

    @property
    def version(self) -> str:
        """A hash of all texts of the style."""
        return prompt_version("\x00".join(self.texts.values()))

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    def describe(self) -> dict[str, Any]:
        """The style as a `config.json` names it; with its texts, where it is none of `STYLES`."""
        named = {"style": self.name, "version": self.version}
        return named if STYLES.get(self.name) == self else {**named, "texts": self.texts}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPrompts:
    """What a strong model is asked.

    Attributes:
        extract: asks for a strategy, made from a problem's solution.
        rank: asks for the scores of a strategy.
        style: its autonomous prompt asks for a solution; it says how `rank` shows a strategy.
    """

    extract: str = EXTRACT
    rank: str = RANK
    style: PromptStyle = STYLES["math"]

    @property
    def versions(self) -> tuple[str, ...]:
        """Hashes of all that is asked: of `extract`, of `rank`, and of a style of a user's own."""
        own = () if self.style == STYLES["math"] else (self.style.version,)
        return (prompt_version(self.extract + ASK_AGAIN), prompt_version(self.rank + ASK_AGAIN), *own)


OURS = ExtractionPrompts()


# The placeholders of each text: those that it must have, and those that it may have.
_PLACEHOLDERS: dict[str, tuple[set[str], set[str]]] = {
    "autonomous": ({"problem"}, set()),
    "guided": ({"problem", "strategy"}, set()),
    "solution_guided": ({"problem", "solution"}, set()),
    "strategy": (set(), {"problem_type", "approach", "steps"}),
    "step": ({"step"}, {"number"}),
    "extract": ({"problem", "solution"}, set()),
    "rank": ({"strategy"}, {"problem", "solution"}),
}
_TEXTS = (*_PLACEHOLDERS, "step_separator")


def check_texts(texts: Any, *, where: str) -> dict[str, str]:
    """Check texts of a user's own: the names of `PromptStyle`'s templates, `extract` and `rank`.

    Raises:
        InputError: no such text, a value that is no text, or a placeholder that is missing or unknown; the message
            begins with `where`.
    """
    if not isinstance(texts, Mapping):
        raise InputError(f"{where}: expected texts by name ({', '.join(_TEXTS)}), got a {type(texts).__name__}")
    for name, text in texts.items():
        if name not in _TEXTS:
            near = difflib.get_close_matches(str(name), _TEXTS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(_TEXTS)}"
            raise InputError(f"{where}: unknown text {name!r}; {hint}")
        if not isinstance(text, str):
            raise InputError(f"{where}: {name} must be a text, got {text!r:.60}")
        try:
            check_unicode(text)
        except InputError as error:
            raise InputError(f"{where}: {name} has {error}") from None
        if name in _PLACEHOLDERS:
            _check_placeholders(text, *_PLACEHOLDERS[name], where=f"{where}: {name}")
    return dict(texts)


def _check_placeholders(text: str, must: set[str], may: set[str], *, where: str) -> None:
    braces = "a brace that is part of the text is written twice: {{ or }}"
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise InputError(f"{where}: {error}; {braces}") from None
    known = ", ".join(f"{{{name}}}" for name in sorted(must | may))
    for _, name, form, conversion in parts:
        if name not in must | may or form or conversion:
            written = f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise InputError(f"{where}: {{{written}}} is no placeholder of it, these are: {known}; {braces}")
    found = {name for _, name, _, _ in parts}
    if lacking := sorted(must - found):
        raise InputError(f"{where}: {{{lacking[0]}}} is missing, where the {lacking[0]} is filled in")
    if not found:
        raise InputError(f"{where}: has no placeholder, so it would always be the same; these are: {known}")


def read_texts(source: Any, *, where: str) -> dict[str, str]:
    """Check texts that are given by name, or read those of a YAML file. Raises InputError as `check_texts`."""
    if not isinstance(source, str | Path):
        return check_texts(source, where=where)
    import yaml

    try:
        return check_texts(yaml.safe_load(read_text(Path(source))), where=str(source))
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not a readable YAML file: {' '.join(str(error).split())}") from None


def own_style(texts: Mapping[str, str], base: str | PromptStyle = "math") -> PromptStyle:
    """The style that has these texts (as `check_texts` returns them; those for a strong model are passed over), and
    those of `base` for the others. Raises InputError where there is no such style."""
    style = prompt_style(base)
    own = replace(style, name="own", **{name: text for name, text in texts.items() if name in style.texts})
    return style if own.version == style.version else own


def own_extraction(texts: Mapping[str, str]) -> ExtractionPrompts:
    """What a strong model is asked with these texts (as `check_texts` returns them), and ours for the others."""
    asked = {name: texts[name] for name in ("extract", "rank") if name in texts}
    # The guided prompts are for the policy: to change them asks a strong model nothing new.
    shown = {name: text for name, text in texts.items() if not name.endswith("guided")}
    return ExtractionPrompts(**asked, style=own_style(shown))


# The options of training that the file has, with their types.
SAVED_OPTIONS: dict[str, Any] = {
    "system_prompt": str, "chat_template_kwargs": dict, "max_completion_length": int, "temperature": int | float
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPrompts:
    """What a model was trained with: the file `prompts.json` beside its weights.

    The chat template that is saved with the model has system prompt and variables in it; here they are for the reader.

    Attributes:
        style: the prompts.
        system_prompt: the first message of the chat, if one was set.
        chat_template_kwargs: the variables of the chat template that were set.
        max_completion_length: the tokens that a completion could have; None where nothing says so.
        temperature: the temperature of sampling.
        path: the file that this was read from.
    """

    style: PromptStyle
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    max_completion_length: int | None = None
    temperature: float | None = None
    path: Path | None = None

    @property
    def chat(self) -> dict[str, Any] | None:
        """System prompt and variables of the chat template; None where nothing says what was set."""
        known = self.max_completion_length is not None
        return {name: getattr(self, name) for name in ("system_prompt", "chat_template_kwargs")} if known else None

    def save(self, folder: Path) -> None:
        """Write the file into the folder of the weights. Raises OSError as `write_json`."""
        told = {name: getattr(self, name) for name in SAVED_OPTIONS}
        write_json(folder / PROMPTS_FILE, {**self.style.describe(), "texts": self.style.texts, **told})


def load_prompts(path: str | Path) -> SavedPrompts | None:
    """Find what a model was trained with.

    Args:
        path: a run directory, a checkpoint or model of one, or any folder of weights.

    Returns:
        What the file beside the weights says; without it (a run of 0.1, or one without a checkpoint yet) what the run's
        `config.json` says; None where there is neither.

    Raises:
        InputError: the file is damaged; the message names it.
    """
    folder = Path(path).expanduser().absolute()
    for place in (folder, folder / "checkpoints" / "final"):
        if (file := place / PROMPTS_FILE).is_file():
            return _read_saved(file)
    of_run = [folder.parent.parent / "config.json"] if folder.parent.name == "checkpoints" else []
    for file in (folder / "config.json", *of_run):
        if file.is_file() and (saved := _read_config(file)) is not None:
            return saved
    return None


def _read_saved(file: Path) -> SavedPrompts:
    found = read_json(file)
    try:
        style = PromptStyle(name=str(found["style"]), **check_texts(found["texts"], where=str(file)))
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not the prompts of a model ({error}); put back what training wrote") from None
    return _saved(style, found, file)


def _read_config(file: Path) -> SavedPrompts | None:
    """What a run's `config.json` says; None where it is another file of that name, as models have it."""
    config = read_json(file)
    prompts = config.get("prompts") if isinstance(config, dict) else None
    if not isinstance(prompts, dict) or "style" not in prompts:
        return None
    name, texts = prompts["style"], prompts.get("texts")
    style = prompt_style(name) if texts is None else own_style(check_texts(texts, where=str(file)))
    args = config.get("args")
    return _saved(style, args if isinstance(args, dict) else {}, file)


def _saved(style: PromptStyle, told: Mapping[str, Any], file: Path) -> SavedPrompts:
    values = {name: told.get(name) for name in SAVED_OPTIONS}
    for name, value in values.items():
        if value is not None and not isinstance(value, SAVED_OPTIONS[name]):
            raise InputError(f"{file}: {name} is {value!r:.40}; put back what training wrote")
    return SavedPrompts(style=style, path=file, **values)


def prompt_style(style: str | PromptStyle) -> PromptStyle:
    """Look up a style by its name; a style stands for itself.

    Raises:
        InputError: there is no such style.
    """
    if isinstance(style, PromptStyle):
        return style
    if style not in STYLES:
        raise InputError(f"unknown prompt style {style!r}; there are: {', '.join(STYLES)}")
    return STYLES[style]


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


def extract_prompt(problem: str, solution: str, *, prompts: ExtractionPrompts = OURS) -> str:
    """Ask a strong model for a strategy, made from a problem's solution."""
    return prompts.extract.format(problem=problem, solution=solution)


def rank_prompt(problem: str, solution: str, strategy: StrategyFields, *, prompts: ExtractionPrompts = OURS) -> str:
    """Ask a strong model for the scores of a strategy."""
    shown = strategy_text(strategy, style=prompts.style)
    return prompts.rank.format(problem=problem, solution=solution, strategy=shown)


def ask_again_prompt(prompt: str, error: str) -> str:
    """Repeat a question whose answer could not be used.

    Args:
        prompt: the question.
        error: what was wrong with the answer, in a few words.
    """
    return ASK_AGAIN.format(prompt=prompt, error=error)
