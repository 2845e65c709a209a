"""Every pattern of the package that sees a model's text takes time in proportion to its length."""

import importlib
import inspect
import pkgutil
import re
import time

import pytest

from sgpo.verifier.extract import last_box
from sgpo.verifier.kinds import judge_completion
from sgpo.verifier.math.equivalence import ANSWER_LIMIT

PARTS = ("reasoning", "problems", "chat", "verifier", "verifier.math", "strategies", "strategies.leak", "report")
MODULES = [*PARTS, "training.alarms", "rollouts.engine", "rollouts.groups"]
UNITS = (
    " ,", "(", "\\boxed{", "a ", "1,", "$", "\n", "**", " ", ". ", "=1", "1.", "{", "}", "\\", "1 ", "\\text{", "A ",
    "or ", "0", "\\frac{1}{", "not ", "_{", "\\(", "is ", "answer ", "a", "A", "$1", "(1", "1/", "one ", "#### ",
    "<answer>", "1\n", "a.", "I, ", "-", "[",
)  # fmt: skip
LENGTH = 10_000
SECONDS = 0.4  # of processor time; one that is quadratic in the text takes more, others a tenth of it


def modules():
    for part in MODULES:
        module = importlib.import_module(f"sgpo.{part}")
        yield module
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            if not found.ispkg:
                yield importlib.import_module(f"{module.__name__}.{found.name}")


def patterns_in(value):
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(part)


PATTERNS = {
    pattern: f"{module.__name__}.{name}"
    for module in modules()
    for name, value in vars(module).items()
    for pattern in patterns_in(value)
}


SOURCE = "\n".join(inspect.getsource(module) for module in modules())


def is_only_matched(name):
    """Whether a pattern is only tried at one place, by `match` or `fullmatch`."""
    uses = set(re.findall(rf"\b{name}\.(\w+)\(", SOURCE))
    return bool(uses) and uses <= {"match", "fullmatch"} and not re.search(rf"[(,]\s*{name}\s*[,)]", SOURCE)


def seconds(pattern, text, *, once):
    begun = time.process_time()
    if once:
        pattern.match(text)
        pattern.fullmatch(text)
    else:
        for _ in pattern.finditer(text):
            pass
    return time.process_time() - begun


def is_slow(pattern, longest, *, once=False):
    """The unit of the first text that takes long; short texts first, so that none takes for ever."""
    for length in (longest // 40, longest):
        for unit in UNITS:
            for start in ("", "The answer is A", "$"):
                if seconds(pattern, start + unit * (length // len(unit)), once=once) > SECONDS:
                    return unit
    return None


@pytest.mark.parametrize("pattern", PATTERNS, ids=PATTERNS.values())
def test_a_pattern_is_linear_in_a_hostile_text(pattern):
    name = PATTERNS[pattern]
    length = ANSWER_LIMIT if ".verifier.math." in name else LENGTH  # no longer answer is looked at
    assert is_slow(pattern, length, once=is_only_matched(name.rpartition(".")[2])) is None


@pytest.mark.parametrize("kind", ["exact", "choice", "math"])
def test_judging_a_hostile_text_is_linear(kind):
    """Patterns inside of functions are tried with all else that a judge does to a text; nothing raises."""
    for text in (start + unit * (LENGTH // len(unit)) for unit in UNITS for start in ("", "The answer is A", "$")):
        begun = time.process_time()
        for answer in ("A", "west")[: 1 if kind == "choice" else 2]:
            judge_completion(text, answer, kind=kind)
        assert time.process_time() - begun < SECONDS, text[:40]


def test_a_long_list_of_boxes_is_read_in_linear_time():
    text = ", ".join(f"\\boxed{{{number}}}" for number in range(15_000))
    begun = time.process_time()
    assert last_box(text).startswith("0, 1, 2, ")
    assert time.process_time() - begun < SECONDS


def test_a_pattern_that_is_not_linear_is_found():
    assert is_slow(re.compile(r"(?:\s*,)*!"), LENGTH) == " ,"
    assert len(PATTERNS) > 100
