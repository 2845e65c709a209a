"""The answer in a completion: where a model said it, as it said it.

Statements are tried from the clearest to the vaguest, and the last of a kind counts:
1. a box, `<answer>`, `#### 5` or "final answer is ...", whichever comes last;
2. "answer is ...", "Answer: ...", "A: ...";
3. a completion that is nothing but an answer, else the end of its last sentence.
The strict policy takes the first alone, and a completion that was cut off has no third. A statement is the value that
directly follows its marker: a later clause explains it. Thinking (`sgpo.reasoning`) is never searched. All patterns are
linear in the text.
"""

from __future__ import annotations

import re

from sgpo.reasoning import split_reasoning
from sgpo.verifier.math.latex import without_qualifier
from sgpo.verifier.prose import (
    BOILERPLATE,
    BOLD,
    MATH,
    NEGATED,
    NUMBER,
    NUMBER_WORD,
    SENTENCE_END,
    VALUE,
    VERB,
    find_ending,
    has_prose,
    last_match,
    math_list,
    plain_answer,
)

READ_LIMIT = 200_000  # characters at the end of a completion that are read; a 32k-token completion has about 120,000
PHRASE_LIMIT = 1500  # an "answer is" further from the end is about something else

# Where a model's turn ends.
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|im_start|eot_id|endoftext|end_of_text|start_header_id|return|end|end_of_solution|call|start)\|>|</s>"
)

# 1. Clear statements.
_BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)(?![A-Za-z])\s*")
_BARE = re.compile(r"-?\d+(?:\.\d+)?|[B-Zb-z](?![\w'])|\\[A-Za-z]+(?:\{[^{}]*\})+")  # the argument of `\boxed 7`
# A box that is only spoken of: `\boxed{}`, `\boxed{...}`, `\boxed{your answer}`.
_PLACEHOLDER = re.compile(
    r"(?:\\text\w*\s*\{)?[\s.…_?\[\]<>]*(?:\\[lc]?dots?\b)?"
    r"(?:(?:your|the|my|final|correct)\s+)*(?:answer|result|solution)?(?:\s+here)?[\s.…_?\[\]<>}]*",
    re.IGNORECASE,
)
_NOT = re.compile(r"(?:\bnot|n't(?:\s+be)?|\brather than|\binstead of)[\s$*(\\:]*$")
_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL)
# `#### 72`, which no heading is.
_HASHES = re.compile(
    r"^[ \t]*####[ \t]*+(?!\W*(?:conclusion|case|step|part|summary|solution|verification|explanation)\b)(\S[^\n]*)$",
    re.MULTILINE | re.IGNORECASE,
)
_FINAL = re.compile(r"final answer(?:[^.:\n$\\]{0,60}?\bis\b|[^\S\n]*\**[:=]|[^\w\n]{0,20}\n)[:\s]*", re.IGNORECASE)
# What may stand between the boxes of one list: links, names (`x_1 =`), the marks of an enumeration and its labels.
_BETWEEN_BOXES = re.compile(
    r"\n[ \t]*+(?:[-*•]|\(?(?:\d{1,2}|[a-z]{1,3})[.)])[ \t]*(?:[\w ]{1,30}:(?!\w))?"
    r"|\\(?:textbf|text|qquad|quad)|\{\s*+(?:,\s*+)?(?:and|or)\s*+(?:,\s*+)?\}|\b(?:and|or)\b|和|或"
    r"|(?<![A-Za-z])\\?[A-Za-z](?:_\{?\w{1,3}\}?|\([a-z]\)|')?\s*(?:=|:|\\in\b)|[\s$,;.&:\\()\[\]*]"
)
_LEAD_INSIDE = re.compile(
    r"(?:\\text\w*\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*\}?\s*(?=[^\s}])", re.IGNORECASE
)
_FILLER = re.compile(
    r"(?:(?:simply|exactly|just|only|about|approximately|roughly|around|therefore|thus|then|clearly|surely|for sure|"
    r"indeed|definitely|equal to|now|also)\b,?\s*)+",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"(?<!\s)\s*+;|(?<!\s)\s++[—–-]{1,2}\s++(?=[a-z]{2})"
    r"|(?:,|(?<![\s,]))\s++(?:because|since|(?<!or )so|where|whereas|which|given|assuming|although|though"
    r"|while|as\s+(?:there|the|we|it|he|she|they|each|every|a|an|in)|but|not"
    r"|and (?:not|so|the|then|it|this|there|we|he|she|they)|that is|i\.e|is|are|was|were|has"
    r"|have|had|will|would|can|due to|for (?:all|any|every|each))\b"
    r"|,\s++(?!(?:and|or)\b|[A-Za-z]+\s*[=(]|" + NUMBER_WORD + r")(?=[A-Za-z]{2})"
    r"|(?<!\s)\s++\((?!(?:mod|and|or)\b)(?=[A-Za-z]+(?:\.|,|\s+[a-z])|[A-Za-z]{2,}\)|=|≈)"
)
_REASON = re.compile(r"[,;(]|\s(?:because|since|as)\b")
_HEDGE = re.compile(
    r"\b(?:or|but)\b[^.\n]{0,40}?\b(?:might|may|could|maybe|perhaps|possibly)\b[^.\n]{0,20}?(?=[-\d$\\])"
)
_CORRECTED = re.compile(
    r"\b(?:wait|actually|correction|oops|sorry|hold on|no)\b[^\n]{0,80}?"
    r"\b(?:it is|it's|should be|must be)\s+(?=[-−$\\\d*(])",
    re.IGNORECASE,
)

# "The answer is", also in Chinese, French, Spanish and German.
_ANSWER = re.compile(
    r"\banswer\b(?:[^.:\n$\\]{0,60}?\b(?:is|are|be)\b(?!\s+(?:worth|not|given|based|scored))|[^\S\n]*\**[:=])[:\s]*"
    r"|^[^\w\n]{0,20}answer[^\w\n]{0,20}\n|^[ \t]*A:[ \t]*"
    r"|(?:答案|réponse|respuesta|antwort)(?:[^\S\n]*(?:est|es|ist|是|为|：|:))*[:\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_FIRST_SENTENCE = re.compile(r"(?<=[^\d\s])\.\s+(?=[A-Z])|(?<=\d)\.(?=\s|$)|\.\s*$|\.?\s+I hope|\*\*")

# A gold answer in words; "yes" and "no" say too little. What a sentence begins with is no name.
_WORDS = re.compile(r"(?:[Nn]o )?[A-Za-z][A-Za-z'-]{2,}(?: [A-Za-z][A-Za-z'-]*){0,2}")
_NOT_SAID = {"yes", "no", "true", "false", "none"}
_FIRST_WORDS = {
    "So", "Thus", "Therefore", "Hence", "The", "This", "That", "It", "He", "She", "They",
    "We", "In", "On", "At", "As", "Then", "Since", "And", "But", "Finally",
}  # fmt: skip


def extract_answer(completion: str, *, strict: bool = False, finished: bool = True) -> str | None:
    """Find the answer in a completion.

    Args:
        completion: what a model wrote, its thinking included or not.
        strict: take clear statements only (1 above).
        finished: whether it ends where the model ended it. One that was cut off has no answer in plain prose (3 above).

    Returns:
        The answer as the model wrote it; None where there is none.
    """
    text = own_text(completion)
    if not text.strip():
        return None
    for find in (_clear_statement, _answer_phrase, find_ending)[: 1 if strict else 2 + finished]:
        found = find(text)
        if found == "" or (found and not finished and find is not find_ending and _reaches_the_end(found, text)):
            return None  # it was cut off inside of its answer
        found = (found or "").strip(' \t\n*`"')
        if _BOX.sub("", found).strip("{}$. "):  # "the answer is \\boxed{}" says nothing
            return _without_lead(found)
    return None


def own_text(completion: str) -> str:
    """Read what a model says to its user: without its thinking, up to where it went on to speak for the user."""
    text = split_reasoning(completion[-READ_LIMIT:])[1]
    match = _TURN_ENDS.search(text)
    return text[: match.start()] if match else text


def _reaches_the_end(found: str, text: str) -> bool:
    """Whether more of an answer may have followed; a box is closed."""
    return text.rstrip().endswith(found)


def _without_lead(found: str) -> str:
    """`42` of a box that says "The answer is 42"."""
    lead = _LEAD_INSIDE.match(found)
    return found[lead.end() :] if lead else found


def words_said(completion: str, words: str) -> str | None:
    """Find a gold answer in words (`west`, a name) in the last sentence of a completion that marks no answer.

    The sentence must say nothing else of the kind: no other name, no "not"; a common word must be its last.

    Args:
        completion: what a model wrote.
        words: the gold answer.

    Returns:
        The words as they stand there; None where they do not, or where the answer is looked for otherwise.
    """
    if not _WORDS.fullmatch(words) or words.lower() in _NOT_SAID:
        return None
    text = own_text(completion)
    if _clear_statement(text) is not None or _answer_phrase(text) or not has_prose(text):
        return None
    sentences = [part for part in SENTENCE_END.split(BOILERPLATE.split(text)[0][-3000:]) if part.strip(" \n─-=*#")]
    last = sentences[-1] if sentences else ""
    places = list(re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", last, 0 if words[0].isupper() else re.IGNORECASE))
    around = last.replace(words, " ")
    if len(places) != 1 or re.search(r"\b(?:not|no|never|cannot|or|if)\b|n't\b", around):
        return None
    names = set(re.findall(r"(?<![\w$\\])[A-Z][a-z]+", last)) - set(words.split()) - _FIRST_WORDS
    ends_it = not last[places[0].end() :].strip(" .!*\n")
    return places[0][0] if ends_it or (words[0].isupper() and not names) else None


def gold_text(answer: str) -> str:
    """Find the answer in a gold text, which is most often nothing else; it may be a solution with a statement."""
    if statement := _clear_statement(answer) or _answer_phrase(answer):
        return statement
    value = without_qualifier(answer)
    return (find_ending(answer) if has_prose(value) else "") or answer


def last_box(text: str) -> str | None:
    r"""Find the content of the last `\boxed{}`; None where there is no box.

    Boxes that "and", "or" or a comma link count as one, and give a list: `\boxed{7} and \boxed{-5}` is `7, -5`.
    """
    found = _boxes(text)
    return found and found[1]


def _clear_statement(text: str) -> str | None:
    """The last box, answer tag, `####` line or "final answer is", whichever ends last; empty where that was cut off."""
    found: list[tuple[int, str]] = []
    if boxes := _boxes(text):
        found.append(boxes)
    for pattern in (_TAG, _HASHES):
        if match := last_match(pattern, text):
            found.append((match.end(), _inner(match[1])))
    if found and (opened := text.rfind("<answer>")) > max(found)[0]:
        found.append((opened, ""))
    if (match := last_match(_FINAL, text)) and (statement := _statement(text[match.end() :])):
        found.append((match.end(), statement))
    return max(found)[1] if found else None


def _inner(text: str) -> str:
    return last_box(text) or text.strip()


def _boxes(text: str) -> tuple[int, str] | None:
    """Where the last box ends, and its content; an empty content where that box was cut off."""
    contents: dict[str, None] = {}  # each once, from the last on
    first, end = -1, -1  # where the boxes found so far begin, and where they end
    skipped = 0
    # From the last box backwards, as long as what stands between two of them links them.
    for match in reversed(list(_BOX.finditer(text))):
        box = _box_at(text, match.end())
        if box is None and not contents:
            return match.end(), ""
        if (
            box is None
            or _PLACEHOLDER.fullmatch(box[1])
            or _NOT.search(text[max(0, match.start() - 30) : match.start()])
        ):
            skipped += 1
        elif contents and box[0] > first:
            skipped += 1  # a box around the one that was found
        elif contents and not _linked(text[box[0] : first]):
            break
        else:
            end = end if contents else box[0]
            contents.setdefault(box[1])
            first = match.start()
        if skipped > 12:
            break
    return (end, ", ".join(reversed(contents))) if contents else None


def _box_at(text: str, start: int) -> tuple[int, str] | None:
    """Where the box whose argument begins at `start` ends, and its content; None where it was cut off."""
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
    if bare := _BARE.match(text, start):
        return bare.end(), bare[0]
    return (start, "") if text[start:].strip() else None  # without an argument: the instruction is quoted


def _linked(between: str) -> bool:
    """Whether the text between two boxes makes them one list."""
    if len(between) > 70:
        return False
    if not _BETWEEN_BOXES.sub("", between).strip():
        return True
    return bool(re.search(r"\b(?:and|or)\b", between)) and len(between.split()) <= 4


def _answer_phrase(text: str) -> str | None:
    """What follows the last "the answer is" that anything follows, unless the text corrects it later."""
    text = text[-PHRASE_LIMIT:]
    for match in reversed(list(_ANSWER.finditer(text))[-3:]):
        if statement := _statement(text[match.end() :]):
            later = last_match(_CORRECTED, text[match.end() :])
            return (_statement(text[match.end() + later.end() :]) if later else None) or statement
    return None


def _statement(text: str) -> str | None:
    """What stands right after "the answer is"; where that is no value, the one that its sentence goes on to give."""
    text = re.sub(r"^[\s:*\"'─—]*", "", text[:2000])
    text = _FILLER.sub("", text, count=1) if _FILLER.match(text) else text
    if not text:
        return None
    if negated := NEGATED.match(text):
        rest = re.match(
            r"[\s,;]*(?:but|it's|it is|it must be|is)\s+(?:rather\s+|it is\s+|it's\s+)?", text[negated.end() :]
        )
        return _statement(text[negated.end() + rest.end() :]) if rest else None
    if MATH.match(text):
        return math_list(text.split("\n\n")[0]) or None
    line = text.splitlines()[0]
    if VALUE.match(line):
        return _direct(line)
    # Words first: the answer is in the rest of the line, of which the first sentence counts.
    if bold := BOLD.search(line):
        return plain_answer(bold[1])
    sentence = _FIRST_SENTENCE.split(line)[0]
    # "The answer is: the value of x is 5" says it behind its first verb that a value follows.
    for verb in VERB.finditer(sentence):
        after = text[verb.end() :].lstrip()
        if MATH.match(after):
            return math_list(after.split("\n\n")[0]) or None
        if VALUE.match(sentence[verb.end() :]):
            return _direct(line[verb.end() :])
    # A word or a name, as "Monday, because 5 days pass"; else what follows the last verb.
    words = _REASON.split(sentence)[0].strip(" .*")
    if words != sentence.strip(" .*") and re.fullmatch(
        r"(?!(?:the|an?|that|it|this|there|we|he|she|they|you)\b)[A-Za-z]+", words
    ):
        return words
    start = lead.end() if (lead := last_match(VERB, sentence)) else 0
    if math := MATH.search(line, start):
        return math_list(text[math.start() :].split("\n\n")[0]) or None
    return plain_answer(sentence[start:]) or None


def _direct(line: str) -> str | None:
    """The value at the start of `line`, up to the clause that explains it: `15` of "15, as there are 3 groups of 5"."""
    line = _FIRST_SENTENCE.split(line)[0]
    end = _CLAUSE_END.search(line, 1)
    said = plain_answer(line[: end.start()] if end else line)
    if said and (hedge := _HEDGE.search(line)) and (other := NUMBER.search(line, hedge.end())):
        return f"{said} or {other[0].strip()}"
    return said or None
