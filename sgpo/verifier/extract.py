"""The answer in a completion: where a model said it, as it said it.

Statements are tried from the clearest to the vaguest, and the last of a kind counts:
1. a box, `<answer>`, `#### 5` or "final answer is ...", whichever comes last;
2. "answer is ...", "Answer: ...", "A: ...";
3. a completion that is nothing but an answer, else the end of its last sentence.
The strict policy takes the first alone. Reasoning (`<think>...</think>`) is never searched. All patterns are linear in
the text.
"""

from __future__ import annotations

import re

from sgpo.verifier.math.numbers import SMALL

READ_LIMIT = 200_000  # characters at the end of a completion that are read; a 32k-token completion has about 120,000
PHRASE_LIMIT = 1500  # an "answer is" further from the end is about something else

_REASONING_ENDS = ("</think>", "</thinking>", "</reasoning>", "<|end_of_thought|>", "###Response")
_REASONING_STARTS = ("<think>", "<thinking>", "<reasoning>", "<|begin_of_thought|>")
_TURN_ENDS = re.compile(r"<\|(?:im_end|im_start|eot_id|endoftext|end_of_text|start_header_id)\|>|</s>")
_BOILERPLATE = re.compile(r"\s*I hope (?:it|this) is correct\.?|\s*Let me know if|\s*I hope this helps", re.IGNORECASE)
_LINK = re.compile(r"\b(?:and|or)\b|[\s,]")
_BOX = re.compile(r"\\f?boxed\s*")
_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FINAL = re.compile(r"final answer(?:[^.:\n$\\]{0,60}?\bis\b|[^\S\n]*\**[:=]|[^\w\n]{0,20}\n)[:\s]*", re.IGNORECASE)
_ANSWER = re.compile(
    r"\banswer\b(?:[^.:\n$\\]{0,60}?\b(?:is|are|be)\b(?!\s+(?:worth|not|given|based|scored))|[^\S\n]*\**[:=])[:\s]*"
    r"|^[^\w\n]{0,20}answer[^\w\n]{0,20}\n|^[ \t]*A:[ \t]*"
    r"|(?:答案|réponse|respuesta|antwort)(?:[^\S\n]*(?:est|es|ist|是|为|：|:))*[:\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_BETWEEN_BOXES = re.compile(
    r"[\s$,;.&:\\()\[\]*]|\b(?:and|or)\b|\\(?:text|quad|qquad|textbf)|\{\s*,?\s*(?:and|or)\s*,?\s*\}|和|或"
)
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
# What a calculation comes to: `96` of "64 cats + 32 dogs = 96 animals".
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
_LEAD_INSIDE = re.compile(
    r"(?:\\text\w*\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*\}?\s*(?=[^\s}])", re.IGNORECASE
)
_VERB = re.compile(r"\b(?:is|are|equals)\b(?!\s+not\b)[:\s]*")
_LEADS = re.compile(r"(?:\b(?:is|are|equals|be|get|gets|have|has|of)\b(?!\s+not\b)|[=≈:：为是])\s*", re.IGNORECASE)


def extract(completion: str, *, strict: bool = False) -> str | None:
    """The answer's text, None where there is none."""
    text = _own_turn(_after_reasoning(completion[-READ_LIMIT:]))
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
    """The answer in a gold text, which is most often nothing else; a solution with a box or a statement will do."""
    return (
        _clear_statement(answer) or _answer_phrase(answer) or (_ending(answer) if _has_prose(answer) else "") or answer
    )


def opened_reasoning(prompt: str) -> str:
    """The tag in which a prompt ends if that opens reasoning, as some chat templates do (`<think>\\n`); else nothing.

    A completion is to be judged behind it: alone it would not tell that all of it, or its beginning, is reasoning.
    """
    tag = next((tag for tag in _REASONING_STARTS if prompt.rstrip().endswith(tag)), None)
    return prompt[prompt.rindex(tag) :] if tag else ""


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{}`; of several that "and", "or" or a comma link, all, as a list."""
    found = _boxes(text)
    return found and found[1]


def _after_reasoning(text: str) -> str:
    for end in _REASONING_ENDS:
        _, marker, after = text.rpartition(end)
        if marker:
            return after
    # Cut off while it was still thinking: nothing was answered.
    starts = [text.find(start) for start in _REASONING_STARTS if start in text]
    return text[: min(starts)] if starts else text


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
    first, end = -1, -1
    for match in reversed(list(_BOX.finditer(text))[-12:]):
        box = _box_at(text, match.end())
        if box is None or (contents and box[0] > first):
            continue  # the second: a box around the one that was found
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
        line = text.splitlines()[0]
        if bold := _BOLD.search(line):
            return _tail(bold[1])
        line = _FIRST_SENTENCE.split(line)[0]
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
    spans = list(_MATH.finditer(text[-3000:]))
    around = _MATH.sub(" ", text[-3000:]) if spans else text
    if not (_LINK.sub(" ", around).strip(" .;:*") if spans else _has_prose(text)) and "\n\n" not in text:
        return _LEADING_WORDS.sub("", text)
    sentences = [part for part in _SENTENCE_END.split(text[-3000:]) if part.strip(" \n─-=*#")]
    if not sentences or sentences[-1].rstrip(" *\n").endswith(":"):
        return None  # it was cut off just before its answer
    found = (_sentence_answer(sentences[: len(sentences) - back]) for back in range(min(3, len(sentences))))
    return next(filter(None, found), None)


def _sentence_answer(sentences: list[str]) -> str | None:
    """What the last of the sentences says."""
    last = sentences[-1]
    spans = [span for span in _MATH.finditer(last) if not re.search(r"[-+*/=]\s*\$$", span[0])]  # "$500 - $ 155"
    if spans:
        return _last_math(last, spans)
    if bold := _last(_BOLD, last):
        return _tail(bold[1])
    if not _has_prose(last):
        return last.strip()
    if calculated := _calculated(last):
        return calculated
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
        return numbers[-1]
    if valued:
        spans = spans[: spans.index(valued[-1]) + 1]
    elif len(spans) > 1 or not _LEADS.search(last[: spans[0].start()]):
        return None  # letters that a sentence is about, not its answer
    start = len(spans) - 1
    while start > 0 and not _LINK.sub("", last[spans[start - 1].end() : spans[start].start()]):
        start -= 1
    return _math_list(last[spans[start].start() :])


def _numbers(text: str) -> list[str]:
    return [match[0].strip() for match in _NUMBER.finditer(text)]


def _calculated(sentence: str) -> str | None:
    """The result of the last calculation in a sentence that goes on to say no other number."""
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


_VERBS = {
    "is", "are", "equals", "be", "so", "thus", "therefore", "hence", "it", "there", "he", "she", "they", "we", "has",
    "have", "had", "takes", "costs", "answer", "choose",
}  # fmt: skip
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_NOT_PROSE = {"and", "or", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "percent", "pct", "exp", "theta"}


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007
        pass
    return match
