"""Answers in prose: what a value looks like among words, and what a completion that marks no answer says at its end.

All patterns are linear in the text.
"""

from __future__ import annotations

import re

from sgpo.verifier.math.numbers import SMALL

# What a model says behind its answer.
BOILERPLATE = re.compile(r"I hope (?:it|this) is correct\.?|Let me know if|I hope this helps", re.IGNORECASE)

# What an answer begins with.
NUMBER_WORD = r"(?i:" + "|".join(word for word in SMALL if word != "one") + r"|one(?!\s+of\b))(?![A-Za-z])"
VALUE = re.compile(
    r"[-−+±]?\s?(?:\\?[$€£¥₹]\s?|(?:Rs|USD)\b\.?\s?)?[-−]?"
    r"(?:\.?\d|[√π∞½¼¾]|\\[A-Za-z{]|[A-Za-z]\s?=|[(\[]\s?[-−\d\\]|\(?[A-HJ-Z]\)?(?=[\s.,;:)*]|$)|" + NUMBER_WORD + r")"
)
NEGATED = re.compile(
    r"\b(?:not|cannot be|can't be|isn't|aren't|rather than|instead of)\s+(?:equal to\s+|be\s+)?"
    r"(?:\$[^$\n]{1,60}\$|\\\([^\n]{1,60}?\\\)|\*\*[^*\n]{1,60}\*\*|-?[$€£]?\d[\d,./%]*)"
)

# What an answer is written as: mathematics between delimiters, bold text, a number.
MATH = re.compile(
    r"(?<!\\)\$\$((?:[^$\\]|\\.){1,2000})\$\$|(?<!\\)\$((?:[^$\\\n]|\\.){1,1000})\$(?!\d)"
    r"|\\\[(.{1,2000}?)\\\]|\\\((.{1,1000}?)\\\)"
    r"|\\begin\{(?:align|equation|gather)\*?\}(.{1,2000}?)\\end\{(?:align|equation|gather)\*?\}",
    re.DOTALL,
)
BOLD = re.compile(r"(?<![\w*])\*\*(?!\s)([^*\n]{1,300})(?<![:：])\*\*(?!\s?[:：])")
NUMBER = re.compile(
    r"-?\\[dtc]?frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}|"
    r"(?<![\w.^_])(?:[-−]\s?)?(?:[$€£]\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+)?"
    r"(?:\s?(?:%|\\%|percent\b|pct\b|°))?",
    re.ASCII,
)
_LINK = re.compile(r"\b(?:and|or)\b|[\s,]")  # between the parts of one answer
_CHOICE_OR_RANGE = re.compile(
    r"(?:\s|,)\s*+(?:(?:or|and|to|up to)\s++)?+"
)  # between numbers of which none is the answer alone

# The last sentence. What a calculation in it comes to: `96` of "64 cats + 32 dogs = 96 animals".
_RESULT = re.compile(r"=\s*([-−]?[$€£]?\s?\d[\d,]*+(?:\.\d++)?+%?+)(?!\s*[-−–+*×÷=]|\s*/\s*\d)")
_OPERATION = re.compile(r"\d[^\d=]{0,40}(?:[-−–+*/×÷]|\bx\b)\s*[$€£]?\s?[\d(.]")
_COMPUTED = re.compile(r"=\s*([-−]?\d[\d,]*(?:\.\d+)?)(?![\d\s]*[-+*/×·=−])")
SENTENCE_END = re.compile(
    r"(?<=[.?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)\s+(?=[A-Z$(*]|\\(?!\]|\)|end\b))"
    r"|(?<=!)\s+(?=[A-Z])|(?<=。)|\n\s*\n|\n(?=[-*#]|Thus|Therefore|Hence|So )"
)
_LEADING_WORDS = re.compile(
    r"^(?:[A-Za-z]+\s+){0,4}(?:[A-Za-z]+:|(?i:gets?|gives?|costs?|makes?|total|result|sum|value|answer))\s+(?:[—–:]\s*)?"
    r"(?=[-−\\$\d(])"
)
VERB = re.compile(r"\b(?:is|are|equals)\b(?!\s+not\b)[:\s]*")
_LEADS = re.compile(r"(?:\b(?:is|are|equals|be|get|gets|have|has|of)\b(?!\s+not\b)|[=≈:：为是])\s*", re.IGNORECASE)
# A value that its sentence says behind the mathematics that it is about, or before the reason for it.
_GOES_ON = re.compile(r"\s*(?:is|are|equals|has|have)\s+(?:exactly\s+|equal to\s+)?(?=[-−$\d])")
_SAID_LAST = re.compile(r"\b(?:is|are|equals)[:\s]\s*+(?=[-−$\d])")
_REASON = re.compile(r"(?:,|(?<![\s,]))\s++(?:because|since)\b")
# A sentence that says that there is nothing to say.
_NO_VALUE = re.compile(
    r"\W*(?:[A-Za-z]+,? ){0,6}?([Nn]o (?:(?:real|integer|rational|positive|such|valid|possible) )?solutions?)"
    r"(?: exists?)?\W*"
    r"|\W*(?:[A-Za-z]+,? ){0,3}?((?:[Tt]he )?(?:limit|value) does(?: not|n't) exist)\W*"
)
_ASIDE = re.compile(r"\s*\((?:i\.e\.|that is|or|about|=|≈)[^()]*\)")
_CHANGES_MIND = re.compile(
    r"\W*(?:but\s+)?(?:wait|hold on|hmm+|oops|actually|no[,.]|that(?:'s| is) (?:wrong|not)"
    r"|let me (?:re-?)?(?:check|count|do))",
    re.IGNORECASE,
)
# A text that ends in the middle of a sentence.
_UNFINISHED = re.compile(
    r"(?:[:=+*/(\[{\\^_<−–]|\s(?:the|an|of|to|by|for|from|with|and|or|that|than|which|who|is|are|was|were|be|been|we|he|she"
    r"|they|must|have|has|so|as|but|if|because|their|his|its|into|per|between|when|where)|[a-z]{2}\sa)\s*$",
    re.IGNORECASE,
)
# A line before the last that is a part of the answer too, not the work that leads to it.
_ONE_VALUE = re.compile(
    r"\s*\$?(?:[A-Za-z]\w{0,2}\s*=\s*)?[-−]?[$€£]?(?:\d[\d.,/]*|\\d?frac\{\d+\}\{\d+\}|\\sqrt\{\d+\})\s*[%€]?\$?\s*"
)

# What makes a text prose: verbs, ideographs, or more than three words that are not of mathematics.
_VERBS = {
    "is", "are", "equals", "be", "so", "thus", "therefore", "hence", "it", "there", "he", "she", "they", "we", "has",
    "have", "had", "takes", "costs", "answer", "choose",
}  # fmt: skip
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_PREPOSITIONS = {"of", "in", "on", "at", "for", "to", "by", "from", "with"}  # "12 of them": no unit
_NOT_PROSE = {"and", "or", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "percent", "pct", "exp", "theta"}


def math_list(text: str) -> str:
    """The mathematics at the start of `text`, with what is linked to it by "and", "or" or a comma."""
    parts: list[str] = []
    end = 0
    for match in MATH.finditer(text):
        if parts and _LINK.sub("", text[end : match.start()]):
            break
        parts.append(next(group for group in match.groups() if group))
        end = match.end()
    unit = re.match(r"\s*(%|percent\b|pct\b)", text[end:])
    return ", ".join(parts) + (r"\%" if unit else "")


def plain_answer(line: str) -> str:
    """A plain answer without the words around it: `for sure 34 apples` is `34 apples`."""
    line = line.strip(" \t*\"'.")
    if letter := re.match(r"(\(?[A-HJ-Z]\)?)[.,:]?\s+(?=[a-z]{2})", line):
        return letter[1]
    if not has_prose(line):
        return line
    return _first_numbers(line) or next(iter(number_words_in(line)), line)


def _first_numbers(line: str) -> str:
    """The first number of a line, with those that "or" or "to" links to it: `50 or 60` of "50 or 60, as x is"."""
    numbers = list(NUMBER.finditer(line))
    if not numbers:
        return ""
    end = linked = numbers[0].end()
    for number in numbers[1:]:
        if not (link := _CHOICE_OR_RANGE.fullmatch(line, end, number.start())):
            break
        end = number.end()
        linked = end if link[0].strip(" ,") else linked
    return line[numbers[0].start() : linked].strip()


def find_ending(text: str) -> str | None:
    """The answer of a completion that marks none: the whole of a bare answer, else the end of the last sentence."""
    text = _drop_bold(BOILERPLATE.split(text)[0]).strip()
    if lines := _last_lines(text):
        return lines
    # Nothing but an answer: no prose around it, or around its mathematics.
    spans = list(MATH.finditer(text[-3000:]))
    around = MATH.sub(" ", text[-3000:]) if spans else text
    if not (_LINK.sub(" ", around).strip(" .;:*") if spans else has_prose(text)) and "\n\n" not in text:
        return _LEADING_WORDS.sub("", text)
    if _UNFINISHED.search(text[-40:].rstrip("*")) and has_prose(text):
        return None
    # Else the last sentence with an answer, at most the last but two.
    sentences = [part for part in SENTENCE_END.split(text[-3000:]) if part.strip(" \n─-=*#")]
    if not sentences or sentences[-1].rstrip(" *\n").endswith(":"):
        return None  # it was cut off just before its answer
    for back in range(min(3, len(sentences))):
        said = sentences[: len(sentences) - back]
        if found := _sentence_answer([*said[:-1], NEGATED.sub(" ", said[-1])]):
            return found
        if _CHANGES_MIND.match(said[-1]):
            return None
    return None


def _last_lines(text: str) -> str | None:
    """The value that is the last line, with the lines of nothing but values just before it: `42` of "6 * 7 =\\n42"."""
    lines = text[-1000:].splitlines()
    if len(lines) < 2 or len(lines[-1]) > 60 or not VALUE.match(lines[-1]) or re.search("[A-Za-z]{3}", lines[-1]):
        return None
    values: list[str] = []
    for line in reversed(lines):
        if values and not _ONE_VALUE.fullmatch(line):
            break
        values.append(line.strip(" $"))
    return ", ".join(reversed(values))


def _sentence_answer(sentences: list[str]) -> str | None:
    """What the last of the sentences says."""
    last = _ASIDE.sub("", sentences[-1])
    if none := _NO_VALUE.fullmatch(last):
        return none[1] or none[2]
    if (reason := _REASON.search(last)) and (lead := last_match(VERB, last[: reason.start()])):
        last = last[: reason.start()] if VALUE.match(last[lead.end() :]) else last
    # From the clearest mark to the vaguest: mathematics, bold, a sentence without words, a calculation.
    spans = [span for span in MATH.finditer(last) if not re.search(r"[-+*/=]\s*\$$", span[0])]  # "$500 - $ 155"
    if spans:
        return _last_math(last, spans)
    if bold := last_match(BOLD, last):
        return _sentence_answer([bold[1]]) if VERB.search(bold[1]) else plain_answer(bold[1])
    if not has_prose(last):
        return _LEADING_WORDS.sub("", last.strip())
    if calculated := _calculated(last):
        return calculated
    # What follows "is", else what follows "has", "=" and the like: a number with its unit, or a short expression.
    for pattern in (VERB, _LEADS):
        lead = last_match(pattern, last)
        after = last[lead.end() :].strip(" .*") if lead else ""
        after = after.rstrip(")") if after.count(")") > after.count("(") else after
        if number := _only_number(after):
            return number
        letter = r"|^\(?[A-Z]\)?$" if lead and "=" not in lead[0] else ""
        if not after or has_prose(after) or not re.search(rf"[\d\\√π]{letter}", after):
            continue
        return next(iter(numbers_in(after)), after) if re.match(r"[A-Za-z]{3}", after) else after
    # No lead: the last number.
    concludes = len(sentences) == 1 or bool(re.match(r"\W*(?:So|Thus|Therefore|Hence)\b", last))
    numbers = numbers_in(last) or (number_words_in(last) if concludes else [])
    if not numbers:
        return None
    # Of several numbers the one that was just computed: "= 28. So 28 of the 56 ...".
    computed = _COMPUTED.findall(" ".join(sentences)[-600:])
    return computed[-1] if computed and computed[-1] in numbers else numbers[-1]


def _last_math(last: str, spans: list[re.Match[str]]) -> str | None:
    """The last mathematics of a sentence that has a value, with all that is linked to it."""
    behind = last[spans[-1].end() :]
    if (verb := _GOES_ON.match(behind)) and (number := NUMBER.match(behind, verb.end())):
        return number[0].strip()  # "the degree of \\(x^2 + 1\\) is 2"
    if (verb := last_match(_SAID_LAST, behind)) and (number := NUMBER.fullmatch(behind[verb.end() :].rstrip(" .*\n"))):
        return number[0].strip()  # "the remainder of \\(2^{10}\\) by 11, added to 17, is 18"
    numbers = numbers_in(behind)
    valued = [span for span in spans if re.search(r"\d", span[0])]
    if numbers and not valued:
        return numbers[-1]  # "so $n$ is at least 5"
    if valued:
        spans = spans[: spans.index(valued[-1]) + 1]
    elif len(spans) > 1 or not _LEADS.search(last[: spans[0].start()]):
        return None  # letters that a sentence is about, not its answer
    start = len(spans) - 1  # back to the first span of the list
    while start > 0 and not _LINK.sub("", last[spans[start - 1].end() : spans[start].start()]):
        start -= 1
    return math_list(last[spans[start].start() :])


def numbers_in(text: str) -> list[str]:
    return [match[0].strip() for match in NUMBER.finditer(text)]


def _calculated(sentence: str) -> str | None:
    """The result of the last calculation in a sentence that says no other number after it."""
    for match in reversed(list(_RESULT.finditer(sentence))):
        if _OPERATION.search(sentence[: match.start()].rpartition("=")[2]):
            after = sentence[match.end() :]
            said = any(re.match(r"\$?\d", after[lead.end() :]) for lead in _LEADS.finditer(after))
            return None if said else match[1]
    return None


def _only_number(text: str) -> str | None:
    """`300 cents` of "300 cents left at the end": the one number of a text that begins with it, and its unit."""
    match = re.match(rf"({NUMBER.pattern})\s+([A-Za-z]+)\s+[A-Za-z]", text, re.ASCII)
    if not match or len(numbers_in(text)) != 1 or match[2] in _NOT_PROSE or re.search(r"[=\\^_]", text):
        return None
    return match[1] if match[2] in _PREPOSITIONS else f"{match[1]} {match[2]}"


def number_words_in(text: str) -> list[str]:
    """The one number that a sentence spells out: `seventeen` in "There are seventeen". ("One" is too often none; and in
    a longer text words count its cases.)"""
    spelled = re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower())
    found = [word for word in spelled if word != "one" and all(part in SMALL for part in word.split("-"))]
    return found if len(found) == 1 and "one or" not in text.lower() else []


def _drop_bold(text: str) -> str:
    """The text without a `**` pair around all of it."""
    text = text.strip()
    return text[2:-2] if text.count("**") == 2 and text.startswith("**") and text.endswith("**") else text


def has_prose(text: str) -> bool:
    """Whether there are words around the mathematics."""
    if len(text) > 400:
        return True
    words = re.findall(r"(?<![A-Za-z])[A-Za-z]{2,}+(?![({}_^])", re.sub(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?", " ", text))
    words = [word.lower() for word in words if word.lower() not in _NOT_PROSE]
    return len(words) > 3 or not _VERBS.isdisjoint(words) or bool(_IDEOGRAPH.search(text))


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007
        pass
    return match
