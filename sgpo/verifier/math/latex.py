"""Answers as text: every way of writing the same symbols is brought to one LaTeX spelling.

Nothing here is evaluated, and every pass is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau upsilon phi "
    "chi psi omega"
)
_SYMBOLS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("’‘′`´", "'"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("°º˚", r"^{\circ}"),
    **{chr(code): f"\\{name} " for code, name in enumerate(_GREEK.split(), 0x3B1)},
    "×": r"\times ", "÷": "/", "∕": "/", "⁄": "/", "∗": r"\cdot ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\leq ",
    "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "∪": r"\cup ",
    "∩": r"\cap ", "¢": " cents", "∈": r"\in ", "⟨": r"\langle ", "⟩": r"\rangle ", "，": ",", "：": ":", "。": ".",
}  # fmt: skip

# Commands that are spelled in several ways, or mean nothing.
_COMMANDS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("le", "leqslant"), r"\leq "),
    **dict.fromkeys(("ge", "geqslant"), r"\geq "),
    **dict.fromkeys(
        ("text", "textbf", "textit", "textrm", "textnormal", "texttt", "mathrm", "mathbf", "mathit", "mathsf", "mbox",
         "boldsymbol", "operatorname", "bold", "bm"), r"\text"),
    **dict.fromkeys(
        ("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "middle",
         "displaystyle", "textstyle", "limits", "quad", "qquad", "rm", "bf", "it", "mathstrut", "strut"), " "),
    "ne": r"\neq ", "lt": "<", "gt": ">", "infin": r"\infty ", "cdotp": r"\cdot ", "lbrace": r"\{", "rbrace": r"\}",
    "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "degree": r"^{\circ}", "colon": ":",
    "percent": r"\%", "dots": r"\ldots ", "cdots": r"\ldots ", "simeq": r"\approx ", "backslash": " ", "land": ",",
    **dict.fromkeys(
        ("underline", "small", "large", "Large", "LARGE", "huge", "Huge", "normalsize"), " "),
    "varnothing": r"\emptyset ", "iff": ",", "implies": r"\Rightarrow ", "space": " ", "gets": "=", "div": "/",
}  # fmt: skip
_FUNCTIONS = "arcsin arccos arctan arccot sinh cosh tanh sin cos tan cot sec csc log ln exp sqrt lcm gcd".split()  # noqa: SIM905
_NAMES = (*_FUNCTIONS, "pi", "theta", "alpha", "beta", "gamma", "phi", "lambda", "omega", "leq", "geq")
_PLAIN = {
    **{name: f"\\{name} " for name in _NAMES},
    "asin": r"\arcsin ", "acos": r"\arccos ", "atan": r"\arctan ", "infinity": r"\infty ", "inf": r"\infty ",
    "oo": r"\infty ", "lcm": r"\operatorname{lcm}", "I": "i",
}  # fmt: skip

# Functions that are called as in a program.
_CALL = re.compile(r"(?<![A-Za-z])\\?(sqrt|cbrt|abs|Abs|factorial|exp)\s*\(")
_CALLS = {
    "sqrt": r"\sqrt{%s}", "cbrt": r"\sqrt[3]{%s}", "abs": "|%s|", "Abs": "|%s|",
    "factorial": "(%s)!", "exp": "e^{%s}",
}  # fmt: skip

# What is only for the eye: colours, gaps, the height of a row.
_COLOUR = re.compile(r"\\(?:textcolor|color)\s*\{[^{}]*\}|\\[hv]?phantom\s*\{[^{}]*\}")
_ROW_HEIGHT = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|mm|cm|em|ex|in)\s*\]")
# Words that compute, between numbers or behind one: `20 \text{ divided by } 4`.
_OPERATORS = {
    "divided by": "/", "minus": "-", "plus": "+", "times": r"\cdot ", "multiplied by": r"\cdot ",
    "to the power of": "^", "squared": "^{2}", "cubed": "^{3}", "factorial": "!",
}  # fmt: skip
_WORD_BETWEEN = re.compile(
    r"(?<=[\d)}])\s*(?:\\text\s*\{)?\s*\b(divided by|minus|plus|times|multiplied by|to the power of)\b\s*\}?\s*"
    r"(?=[\d(\\-])"
)
_WORD_BEHIND = re.compile(r"(?<=[\d)])\s*(?:\\text\s*\{)?\s*\b(squared|cubed|factorial)\b\s*\}?")
_WORD_BEFORE = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:negative|minus)\b\s*\}?\s*(?=[\d(\\])")
_CHOOSE = re.compile(
    r"\{\s*([^{}]{1,40}?)\s*\\choose\s*([^{}]{1,40}?)\s*\}|(\d+)\s*(?:\\text\s*\{)?\s*\\?choose\b\s*\}?\s*(\d+)"
)
_CIS = re.compile(
    r"(?:\\?(?:text|operatorname)\s*+|\\)?(?:\{\s*+)?\bcis\s*+\}?\s*+(\([^()]*\)|\{[^{}]*\}|\d+(?:\^\{?\\circ\s*+\}?)?)"
)
_ARC = re.compile(r"(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d{1,2})\s*'(?:\s*(\d{1,2})\s*(?:''|\"))?")
# Numbers with points or spaces between thousands.
_CONTINENTAL = re.compile(
    r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d{1,2})(?![\d.,])|(?<![\d.,])(\d{1,3}(?:\.\d{3}){2,})(?![\d.,])"
)
# A condition behind an answer: `n = 3k, where k is an integer`, `2^n - 1 \text{ for all } n \geq 1`.
_QUALIFIER = re.compile(
    r"(?<![A-Za-z])(?:for (?:all|any|every|each|some|integers?|reals?|positive|non-?negative)\b|where\b|when(?:ever)?\b"
    r"|if\b|such that\b|provided\b|given that\b|i\.e\.|that is\b)|\\forall(?![A-Za-z])"
    r"|(?<![A-Za-z])for\s*[}$]?\s*[A-Za-z]\s*(?:[<>=]|\\(?:geq?|leq?|in|neq?)(?![A-Za-z]))"
    r"|(?<=[,;(\s])[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\\in\s*\\(?:mathbb\s*\{?\s*)?[ZNRQC]"
)
_ALTERNATIVE = re.compile(r"\b(?:otherwise|else|or|if|when)\b|;")

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])(" + "|".join(sorted(_PLAIN, key=len, reverse=True)) + r")(?![A-Za-z])")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SYMBOL = re.compile(r"\\[A-Za-z]+|[A-Za-z]{4,}|[A-Za-z]")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(
    r"((?:[^\d\\.,]|\\\$){0,9})(\d{1,3}(?: \d{3})+(?:\.\d+)?)(\s*(?:[^\d\s\\]|\\\$|\\text\s*\{[^\d{}]*\}){0,9})"
)


def clean(text: str) -> str:
    r"""Bring an answer to one spelling: `½` and `\dfrac12` are `\frac{1}{2}`, `2*pi` is `2\cdot \pi`, and so on."""
    # Characters, doubled backslashes, and what is only for the eye: colours, sizes, spaces, labels.
    text = _plain_characters(text)
    text = _COLOUR.sub("", _ROW_HEIGHT.sub(r"\\\\ ", text))
    text = re.sub(r"\\\\(?=[A-Za-z{}%$,!;: ])(?!\s*(?:hline|end))", r"\\", text) if r"\begin" not in text else text
    text = re.sub(r"\\(?:left|right)\s*\.", " ", text)
    text = re.sub(r"\\(?:h|v)space\s*\{[^{}]*\}|\\(?:hline|label\{[^{}]*\}|tag\{[^{}]*\}|!)\s*", "", text)
    text = re.sub(r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3})", "", text)  # 32\,348
    text = re.sub(r"(?<!\\)\\[,;: ]|(?<!\\)~", " ", text)
    text = re.sub(r"\s*\{\s*,\s*\}\s*", ",", text)
    # Commands: one name for each, function names as functions, no empty \text.
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match[1], match[0]), text)
    text = re.sub(r"\\text\s*\{\s*(" + "|".join(_FUNCTIONS) + r")\s*\}", r" \1 ", text)
    text = re.sub(r"\\text\s*\{\s*\}|\\text\s*(?=[^\s{])", " ", text)
    # Delimiters of mathematics.
    text = re.sub(r"(?<!\\)\$|\\\$(?=\s*$)|\\[()]|\\(?=\s*$)", " ", text)
    text = re.sub(r"\\\[|\\\](?!\d)", " ", text) if r"\begin" not in text else text
    text = re.sub(r"\\log\s*_\s*\{?\s*e(?![A-Za-z])\s*\}?", r"\\ln ", text)
    # Words that compute.
    text = _CHOOSE.sub(lambda match: rf"\binom{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}", text)
    text = _WORD_BEFORE.sub("-", text)
    text = _WORD_BETWEEN.sub(lambda match: _OPERATORS[match[1]], text)
    text = _WORD_BEHIND.sub(lambda match: _OPERATORS[match[1]], text)
    text = _CIS.sub(r"e^{i(\1)}", text)
    # Spellings of programs: `x**2`, `x <= 3`, `sqrt(2)`, `pi`.
    text = text.replace("**", "^").replace("*", r"\cdot ")
    text = text.replace("<=", r"\leq ").replace(">=", r"\geq ").replace("!=", r"\neq ").replace("=>", r"\Rightarrow ")
    text = _calls(text)
    text = _PLAIN_WORD.sub(lambda match: _PLAIN[match[1]], text)
    # Arguments without braces, thousands, indices, leading zeros, white space.
    text = _arguments(text)
    text = _join_thousands(text)
    text = _ARC.sub(_arc_degrees, text)
    text = re.sub(r"_\s*\{\s*(\w)\s*\}", r"_\1", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text) if re.fullmatch(r"\s*-?\d+\s*", text) else text
    return re.sub(r"\s+", " ", text).lstrip(' ,;:"').rstrip(' .,;:"')


def without_qualifier(text: str) -> str:
    r"""Drop the condition behind an answer: `n = 3k` of `n = 3k, \text{ where } k \text{ is an integer}`.

    One of several values that each have a condition stays with it: `5 \text{ if } a > 0, 6 \text{ otherwise}`.
    """
    match = _QUALIFIER.search(text)
    if not match or _ALTERNATIVE.search(text, match.end()):
        return text
    head, shorter = "", text[: match.start()]
    while head != shorter:
        head = shorter
        shorter = head.rstrip(" \t\n,;:$~(\\")
        for opening in ("\\text{", "\\text {", "\\mathrm{", "\\textrm{", "\\mbox{", "\\quad", "\\qquad"):
            shorter = shorter.removesuffix(opening)
    bare = re.sub(r"\\[A-Za-z]+", "", head)
    is_value = bool(re.search(r"[\d=\\]|^\s*[A-Za-z]\s*$", head)) and not re.search("[A-Za-z]{4,}", bare)
    return head if is_value and head.count("(") <= head.count(")") else text


def repaired(text: str) -> str:
    r"""Put back backslashes that JSON has eaten: `\b` of `\boxed`, `\f` of `\frac`, `\t` of `\text`, `\r` of `\rho`."""
    text = text.replace("\b", "\\b").replace("\f", "\\f")
    text = re.sub(r"\t(?=ext|frac|imes|heta|an\b|riangle)", r"\\t", text)
    return re.sub(r"\r(?=ight|ho\b|m\b)", r"\\r", text)


def compact(text: str) -> str:
    """Drop the white space and the grouping of a cleaned answer that do not matter: what "the same text" means."""
    text = re.sub(r"(?<=\d)\s+(?=\d)", "~", text)  # 3 4 is not 34
    return re.sub(r"\s+|(?<=[_^])\{(\w)\}", lambda match: match[1] or "", text)


def without_text(text: str) -> str:
    r"""Replace each `\text{...}` by what it holds."""
    return re.sub(r"\s+", " ", _TEXT.sub(r" \1 ", text)).strip()


def uses_both_cases(text: str) -> bool:
    """Whether a symbol stands in an answer as upper and as lower case, as in `R - r`: there they are two symbols."""
    words = " ".join(_TEXT.findall(text))
    symbols = {*_SYMBOL.findall(_TEXT.sub(" ", text)), *_LONE_LETTER.findall(words)}
    return any(symbol.lower() in symbols for symbol in symbols if symbol != symbol.lower())


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split where `separator` matches outside of all brackets. `(` and `[` may be closed by either, as intervals do."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif depth == 0 and (match := separator.match(text, at)) and match.end() > at:
            parts.append(text[start:at])
            start = at = match.end()
            continue
        at += 1
    return [*parts, text[start:]]


def closing(text: str, start: int) -> int:
    """Find where the bracket that opens at `start` is closed; -1 where it is not."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
            if depth == 0:
                return at
    return -1


def depth(text: str) -> int:
    """Count how deep the brackets are nested."""
    deepest = level = 0
    for char in text:
        level += (char in "([{") - (char in ")]}")
        deepest = max(deepest, level)
    return deepest


def _plain_characters(text: str) -> str:
    if text.isascii():
        return text
    # Runs of raised and lowered digits first, then character by character.
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀-₉₊₋]+", lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", text)
    out = []
    for char in text:
        if char in _SYMBOLS:
            out.append(_SYMBOLS[char])
        elif unicodedata.category(char) in ("Cf", "Cc", "Cs") and char not in "\n\t":
            continue  # marks of writing direction, zero widths, null bytes, lone surrogates
        elif (digit := unicodedata.decimal(char, None)) is not None:
            out.append(str(digit))
        elif unicodedata.decomposition(char).startswith("<fraction>"):
            numerator, _, denominator = unicodedata.normalize("NFKC", char).partition("⁄")
            out.append(f"\\frac{{{numerator}}}{{{denominator}}}")
        else:
            out.append("".join(_SYMBOLS.get(c, c) for c in unicodedata.normalize("NFKC", char)))
    return "".join(out)


def _arc_degrees(match: re.Match[str]) -> str:
    """`22^\\circ 30'` in degrees alone."""
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return f"\\frac{{{seconds}}}{{3600}}^{{\\circ}}"


def _without_points(match: re.Match[str]) -> str:
    """`1.234,56` as `1234.56`."""
    return (match[1] or match[3]).replace(".", "") + (f".{match[2]}" if match[2] else "")


def _calls(text: str) -> str:
    """`sqrt(2)`, `\\sqrt(2)`, `exp(16)`, `Abs(x)` and `factorial(n)` in LaTeX."""
    while match := _CALL.search(text):
        end = closing(text, match.end() - 1)
        if end < 0:
            return text
        text = text[: match.start()] + _CALLS[match[1]] % text[match.end() : end] + text[end + 1 :]
    return text


def _arguments(text: str) -> str:
    """Braces around the arguments that LaTeX lets stand bare: `\\frac12`, `\\frac{1}2`, `\\sqrt3`, `x^(2)`."""
    # The arguments of each \frac are what follows it; one without a second argument stays as it is.
    head, *rest = text.split(r"\frac")
    text = head
    for part in rest:
        numerator, after = _argument(part)
        denominator, after = _argument(after)
        text += f"\\frac{{{numerator}}}{{{denominator}}}{after}" if denominator else r"\frac" + part
    text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s*(\\[a-z]+)", r"\\sqrt{\1}", text)
    text = re.sub(r"\^\s*\{\s*\\prime\s*\}|\^\s*\\prime", "'", text)
    return re.sub(r"\^\s*(?:\(([^(){}]*)\)|(-?\d+))", r"^{\1\2}", text)


def _argument(text: str) -> tuple[str, str]:
    """The argument at the start of `text`, and what follows it."""
    text = text.lstrip()
    if text.startswith("{") and (end := closing(text, 0)) > 0:
        return text[1:end], text[end + 1 :]
    if match := re.match(r"\\[A-Za-z]+|\w", text):
        return match[0], text[match.end() :]
    return "", text


def _join_thousands(text: str) -> str:
    """`20,000` inside of a fraction is a number; inside of a tuple or a set it may be two."""
    if not re.search(r"\d[,. ]\d{3}", text):
        return text
    if not re.search(r"[(\[]", text):
        text = _CONTINENTAL.sub(_without_points, text)
    if spaced := _SPACED_THOUSANDS.fullmatch(text.strip()):
        return spaced[1] + spaced[2].replace(" ", "") + spaced[3]
    out, start = [], 0
    for match in _THOUSANDS.finditer(text):
        # Inside of an open bracket the comma separates two numbers.
        before = text[: match.start()]
        if before.count("(") + before.count("[") + before.count(r"\{") > (
            before.count(")") + before.count("]") + before.count(r"\}")
        ):
            continue
        out += [text[start : match.start()], match[0].replace(",", "")]
        start = match.end()
    return "".join([*out, text[start:]])
