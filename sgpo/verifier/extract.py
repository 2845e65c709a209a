"""The answer in a completion: where a model said it, as it said it.

Statements are tried from the clearest to the vaguest, and the last of a kind counts:
1. a box, `<answer>`, `#### 5` or "final answer is ...", whichever comes last;
2. "answer is ...", "Answer: ...", "A: ...";
3. a completion that is nothing but an answer, else the end of its last sentence.
The strict policy takes the first alone. Thinking (`sgpo.reasoning`) is never searched. All patterns are linear in the
text.
"""

from __future__ import annotations

import re

from sgpo.reasoning import split_reasoning
from sgpo.verifier.math.numbers import SMALL

READ_LIMIT = 200_000  # characters at the end of a completion that are read; a 32k-token completion has about 120,000
PHRASE_LIMIT = 1500  # an "answer is" further from the end is about something else

# Where a model's turn ends, and what it says behind its answer.
_TURN_ENDS = re.compile(r"<\|(?:im_end|im_start|eot_id|endoftext|end_of_text|start_header_id)\|>|</s>")
_BOILERPLATE = re.compile(r"\s*I hope (?:it|this) is correct\.?|\s*Let me know if|\s*I hope this helps", re.IGNORECASE)

# 1. Clear statements.
_BOX = re.compile(r"\\f?boxed\s*")
_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FINAL = re.compile(r"final answer(?:[^.:\n$\\]{0,60}?\bis\b|[^\S\n]*\**[:=]|[^\w\n]{0,20}\n)[:\s]*", re.IGNORECASE)
_BETWEEN_BOXES = re.compile(
    r"[\s$,;.&:\\()\[\]*]|\b(?:and|or)\b|\\(?:text|quad|qquad|textbf)|\{\s*,?\s*(?:and|or)\s*,?\s*\}|和|或"
)
_LEAD_INSIDE = re.compile(
    r"(?:\\text\w*\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*\}?\s*(?=[^\s}])", re.IGNORECASE
)

# 2. "The answer is", also in Chinese, French, Spanish and German.
_ANSWER = re.compile(
    r"\banswer\b(?:[^.:\n$\\]{0,60}?\b(?:is|are|be)\b(?!\s+(?:worth|not|given|based|scored))|[^\S\n]*\**[:=])[:\s]*"
    r"|^[^\w\n]{0,20}answer[^\w\n]{0,20}\n|^[ \t]*A:[ \t]*"
    r"|(?:答案|réponse|respuesta|antwort)(?:[^\S\n]*(?:est|es|ist|是|为|：|:))*[:\s]*",
    re.IGNORECASE | re.MULTILINE,
)

# What an answer is written as: mathematics between delimiters, bold text, a number.
_MATH = re.compile(
    r"(?<!\\)\$\$((?:[^$\\]|\\.){1,2000})\$\$|(?<!\\)\$((?:[^$\\\n]|\\.){1,1000})\$(?!\d)|\\\[(.{1,2000}?)\\\]|\\\((.{1,1000}?)\\\)"
    r"|\\begin\{(?:align|equation|gather)\*?\}(.{1,2000}?)\\end\{(?:align|equation|gather)\*?\}",
    re.DOTALL,
)
_BOLD = re.compile(r"(?<![\w*])\*\*(?!\s)([^*\n]{1,300})(?<![:：])\*\*(?!\s?[:：])")
_NUMBER = re.compile(
    r"-?\\[dtc]?frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}|"
    r"(?<![\w.^_])(?:[-−]\s?)?(?:[$€£]\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+)?"
    r"(?:\s?(?:%|\\%|percent\b|pct\b|°))?",
    re.ASCII,
)
_LINK = re.compile(r"\b(?:and|or)\b|[\s,]")  # between the parts of one answer

# 3. The last sentence. What a calculation in it comes to: `96` of "64 cats + 32 dogs = 96 animals".
_RESULT = re.compile(r"=\s*([-−]?[$€£]?\s?\d[\d,]*+(?:\.\d++)?+%?+)(?!\s*[-−–+*×÷=]|\s*/\s*\d)")
_OPERATION = re.compile(r"\d[^\d=]{0,40}(?:[-−–+*/×÷]|\bx\b)\s*[$€£]?\s?[\d(.]")
_COMPUTED = re.compile(r"=\s*([-−]?\d[\d,]*(?:\.\d+)?)(?![\d\s]*[-+*/×·=−])")
_SENTENCE_END = re.compile(
    r"(?<=[.?])\s+(?=[A-Z\\$(*])|(?<=!)\s+(?=[A-Z])|(?<=。)|\n\s*\n|\n(?=[-*#]|Thus|Therefore|Hence|So )"
)
_FIRST_SENTENCE = re.compile(r"(?<=[^\d\s])\.\s+(?=[A-Z])|(?<=\d)\.(?=\s|$)|\.\s*$|\.?\s+I hope|\*\*")
_LEADING_WORDS = re.compile(
    r"^(?:[A-Za-z]+\s+){0,4}(?:[A-Za-z]+:|(?i:gets?|gives?|costs?|makes?|total|result|sum|value|answer))\s+(?:[—–:]\s*)?"
    r"(?=[-−\\$\d(])"
)
_VERB = re.compile(r"\b(?:is|are|equals)\b(?!\s+not\b)[:\s]*")
_LEADS = re.compile(r"(?:\b(?:is|are|equals|be|get|gets|have|has|of)\b(?!\s+not\b)|[=≈:：为是])\s*", re.IGNORECASE)

# What makes a text prose: verbs, ideographs, or more than three words that are not of mathematics.
_VERBS = {
    "is", "are", "equals", "be", "so", "thus", "therefore", "hence", "it", "there", "he", "she", "they", "we", "has",
    "have", "had", "takes", "costs", "answer", "choose",
}  # fmt: skip
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_NOT_PROSE = {"and", "or", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "percent", "pct", "exp", "theta"}


def extract_answer(completion: str, *, strict: bool = False) -> str | None:
    """Find the answer in a completion.

    Args:
        completion: what a model wrote, its thinking included or not.
        strict: take clear statements only (1 above).

    Returns:
        The answer as the model wrote it; None where there is none.
    """
    text = _own_turn(split_reasoning(completion[-READ_LIMIT:])[1])
    if not text.strip():
        return None
    for find in (_clear_statement,) if strict else (_clear_statement, _answer_phrase, _ending):
        if found := (find(text) or "").strip(' \t\n*`"'):
            return _without_lead(found)
    return None


def _without_lead(found: str) -> str:
    """`42` of a box that says "The answer is 42"."""
    lead = _LEAD_INSIDE.match(found)
    return found[lead.end() :] if lead else found


def gold_text(answer: str) -> str:
    """Find the answer in a gold text, which is most often nothing else; it may be a solution with a statement."""
    return (
        _clear_statement(answer) or _answer_phrase(answer) or (_ending(answer) if _has_prose(answer) else "") or answer
    )


def last_box(text: str) -> str | None:
    r"""Find the content of the last `\boxed{}`; None where there is no box.

    Boxes that "and", "or" or a comma link count as one, and give a list: `\boxed{7} and \boxed{-5}` is `7, -5`.
    """
    found = _boxes(text)
    return found and found[1]


def _own_turn(text: str) -> str:
    """The text up to where a model went on to speak for the user."""
    match = _TURN_ENDS.search(text)
    return text[: match.start()] if match else text


def _clear_statement(text: str) -> str | None:
    """The last box, answer tag, `####` line or "final answer is", whichever ends last."""
    found: list[tuple[int, str]] = []
    if boxes := _boxes(text):
        found.append(boxes)
    for pattern in (_TAG, _HASHES):
        if match := _last(pattern, text):
            found.append((match.end(), _inner(match[1])))
    if (match := _last(_FINAL, text)) and (statement := _statement(text[match.end() :])):
        found.append((match.end(), statement))
    return max(found)[1] if found else None


def _inner(text: str) -> str:
    return last_box(text) or text.strip()


def _boxes(text: str) -> tuple[int, str] | None:
    """Where the last box ends, and its content."""
    contents: list[str] = []
    first, end = -1, -1  # where the boxes found so far begin, and where they end
    # From the last box backwards, as long as what stands between two of them links them.
    for match in reversed(list(_BOX.finditer(text))[-12:]):
        box = _box_at(text, match.end())
        if box is None or (contents and box[0] > first):
            continue  # cut off, or a box around the one that was found
        if contents and not _linked(text[box[0] : first]):
            break
        if not contents:
            end = box[0]
        if box[1] not in contents:
            contents.append(box[1])
        first = match.start()
    return (end, ", ".join(reversed(contents))) if contents else None


def _box_at(text: str, start: int) -> tuple[int, str] | None:
    """Where the box whose argument begins at `start` ends, and its content."""
    if text.startswith("{", start):
        # Count braces; an escaped one is text.
        level = 0
        for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
            level += {"{": 1, "}": -1}.get(match[0], 0)
            if level == 0:
                return match.end(), text[start + 1 : match.start()].strip()
        # Never closed: a completion that was cut off inside of its answer has none, unless a delimiter ends it.
        cut = re.compile(r"\$|\\\]|\\\)").search(text, start + 1, start + 300)
        return (cut.end(), text[start + 1 : cut.start()].strip()) if cut else None
    bare = re.compile(r"\\?[\w.]+").match(text, start)
    return (bare.end(), bare[0]) if bare else None


def _linked(between: str) -> bool:
    """Whether the text between two boxes makes them one list."""
    if len(between) > 70:
        return False
    if not _BETWEEN_BOXES.sub("", between).strip():
        return True
    return bool(re.search(r"\b(?:and|or)\b", between)) and len(between.split()) <= 4


def _answer_phrase(text: str) -> str | None:
    """What follows the last "the answer is" that anything follows."""
    for match in reversed(list(_ANSWER.finditer(text[-PHRASE_LIMIT:]))[-3:]):
        if statement := _statement(text[-PHRASE_LIMIT:][match.end() :]):
            return statement
    return None


def _statement(text: str) -> str | None:
    """What stands right after "the answer is": mathematics, something bold, else the rest of the sentence."""
    text = re.sub(r"^[\s:*\"'─—]*", "", text[:2000])
    if not text:
        return None
    if not _MATH.match(text):
        # Words first: the answer is in the rest of the line, of which the first sentence counts.
        line = text.splitlines()[0]
        if bold := _BOLD.search(line):
            return _tail(bold[1])
        line = _FIRST_SENTENCE.split(line)[0]
        # "The answer is: the value of x is 5" says it behind its last verb.
        if lead := _last(_VERB, line):
            text = text[lead.end() :]
            line = line[lead.end() :]
        match = _MATH.search(line)
        if not match or (_NUMBER.match(line) and match.start() > 0):
            return _tail(line) or None
        text = text[match.start() :]
    return _math_list(text.split("\n\n")[0]) or None


def _math_list(text: str) -> str:
    """The mathematics at the start of `text`, with what is linked to it by "and", "or" or a comma."""
    parts: list[str] = []
    end = 0
    for match in _MATH.finditer(text):
        if parts and _LINK.sub("", text[end : match.start()]):
            break
        parts.append(next(group for group in match.groups() if group))
        end = match.end()
    unit = re.match(r"\s*(%|percent\b|pct\b)", text[end:])
    return ", ".join(parts) + (r"\%" if unit else "")


def _tail(line: str) -> str:
    """A plain answer without the words around it: `for sure 34 apples` is `34 apples`."""
    line = line.strip(" \t*\"'.")
    if letter := re.match(r"(\(?[A-HJ-Z]\)?)[.,:]?\s+(?=[a-z]{2})", line):
        return letter[1]
    if not _has_prose(line):
        return line
    return next(iter(_numbers(line)), line)


def _ending(text: str) -> str | None:
    """The answer of a completion that marks none: the whole of a bare answer, else the end of the last sentence."""
    if "\\boxed" in text:
        return None  # it was cut off inside of its box
    text = _drop_bold(_BOILERPLATE.split(text)[0]).strip()
    # Nothing but an answer: no prose around it, or around its mathematics.
    spans = list(_MATH.finditer(text[-3000:]))
    around = _MATH.sub(" ", text[-3000:]) if spans else text
    if not (_LINK.sub(" ", around).strip(" .;:*") if spans else _has_prose(text)) and "\n\n" not in text:
        return _LEADING_WORDS.sub("", text)
    # Else the last sentence with an answer, at most the last but two.
    sentences = [part for part in _SENTENCE_END.split(text[-3000:]) if part.strip(" \n─-=*#")]
    if not sentences or sentences[-1].rstrip(" *\n").endswith(":"):
        return None  # it was cut off just before its answer
    found = (_sentence_answer(sentences[: len(sentences) - back]) for back in range(min(3, len(sentences))))
    return next(filter(None, found), None)


def _sentence_answer(sentences: list[str]) -> str | None:
    """What the last of the sentences says."""
    last = sentences[-1]
    # From the clearest mark to the vaguest: mathematics, bold, a sentence without words, a calculation.
    spans = [span for span in _MATH.finditer(last) if not re.search(r"[-+*/=]\s*\$$", span[0])]  # "$500 - $ 155"
    if spans:
        return _last_math(last, spans)
    if bold := _last(_BOLD, last):
        return _tail(bold[1])
    if not _has_prose(last):
        return last.strip()
    if calculated := _calculated(last):
        return calculated
    # What follows "is", else what follows "has", "=" and the like: a number with its unit, or a short expression.
    for pattern in (_VERB, _LEADS):
        lead = _last(pattern, last)
        after = last[lead.end() :].strip(" .*") if lead else ""
        after = after.rstrip(")") if after.count(")") > after.count("(") else after
        if number := _only_number(after):
            return number
        letter = r"|^\(?[A-Z]\)?$" if lead and "=" not in lead[0] else ""
        if not after or _has_prose(after) or not re.search(rf"[\d\\√π]{letter}", after):
            continue
        return next(iter(_numbers(after)), after) if re.match(r"[A-Za-z]{3}", after) else after
    # No lead: the last number.
    numbers = _numbers(last) or (_number_words(last) if len(sentences) == 1 else [])
    if not numbers:
        return None
    # Of several numbers the one that was just computed: "= 28. So 28 of the 56 ...".
    computed = _COMPUTED.findall(" ".join(sentences)[-600:])
    return computed[-1] if computed and computed[-1] in numbers else numbers[-1]


def _last_math(last: str, spans: list[re.Match[str]]) -> str | None:
    """The last mathematics of a sentence that has a value, with all that is linked to it."""
    numbers = _numbers(last[spans[-1].end() :])
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
    return _math_list(last[spans[start].start() :])


def _numbers(text: str) -> list[str]:
    return [match[0].strip() for match in _NUMBER.finditer(text)]


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
    match = re.match(rf"({_NUMBER.pattern})\s+([A-Za-z]+)\s+[A-Za-z]", text, re.ASCII)
    if not match or len(_numbers(text)) != 1 or match[2] in _NOT_PROSE or re.search(r"[=\\^_]", text):
        return None
    return f"{match[1]} {match[2]}"


def _number_words(text: str) -> list[str]:
    """The one number that a sentence spells out: `seventeen` in "There are seventeen". ("One" is too often none; and in
    a longer text words count its cases.)"""
    spelled = re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower())
    found = [word for word in spelled if all(part in SMALL for part in word.split("-"))]
    return found if len(found) == 1 and found != ["one"] else []


def _drop_bold(text: str) -> str:
    """The text without a `**` pair around all of it."""
    text = text.strip()
    return text[2:-2] if text.count("**") == 2 and text.startswith("**") and text.endswith("**") else text


def _has_prose(text: str) -> bool:
    """Whether there are words around the mathematics."""
    if len(text) > 400:
        return True
    words = re.findall(r"(?<![A-Za-z])[A-Za-z]{2,}+(?![({}_^])", re.sub(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?", " ", text))
    words = [word.lower() for word in words if word.lower() not in _NOT_PROSE]
    return len(words) > 3 or not _VERBS.isdisjoint(words) or bool(_IDEOGRAPH.search(text))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007
        pass
    return match
