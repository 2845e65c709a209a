"""Where a model's thinking begins and ends: the one definition for the verifier, the engines and extraction.

A model that reasons writes its thinking between two tags, and what it answers behind the second:
`<think>Is it 3? No.</think>It is 4.` The first tag may stand in the prompt (some chat templates end in it), and the
second is missing where the completion was cut off while the model was still thinking. In the harmony format (gpt-oss)
the tags are those of two channels: `<|channel|>analysis<|message|>` and `<|channel|>final<|message|>`.

Many tokenizers hold these tags, or parts of them, as special tokens, which decoding leaves out unless it is told
otherwise (`is_part_of_a_tag`).
"""

from __future__ import annotations

OPENING_TAGS = (
    "<think>", "<thinking>", "<reasoning>", "<|begin_of_thought|>", "[THINK]", "<seed:think>", "<|START_THINKING|>",
    "<|channel|>analysis<|message|>",
)  # fmt: skip
# In the order in which they are looked for: the first one that occurs ends the thinking, where it stands last.
CLOSING_TAGS = (
    "</think>", "</thinking>", "</reasoning>", "<|end_of_thought|>", "[/THINK]", "</seed:think>", "<|END_THINKING|>",
    "<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>", "###Response",
)  # fmt: skip
TAG_TOKENS = 16  # more than an opening tag and the white space behind it have in any tokenizer


def split_reasoning(text: str) -> tuple[str, str]:
    """Split a completion into its thinking and its answer.

    An opening tag behind the end of the thinking stays in the answer: a verdict rests on all that follows the end.

    Args:
        text: what a model wrote, with or without thinking, its opening tag included or not.

    Returns:
        The thinking with its tags, and the answer. A completion that was cut off while thinking has as its answer what
        stands before the opening tag, most often nothing. One without tags is all answer.
    """
    for tag in CLOSING_TAGS:
        before, found, answer = text.rpartition(tag)
        if found:
            return before + tag, answer
    start = min((text.index(tag) for tag in OPENING_TAGS if tag in text), default=len(text))
    return text[start:], text[:start]


def without_reasoning(text: str) -> str:
    """Drop all thinking from a text, also thinking that begins anew behind an answer.

    For texts that a model is shown or that are read by a program. Of several answers the last one stays.

    Args:
        text: what a model wrote.

    Returns:
        The answer, without any tag of `OPENING_TAGS` or `CLOSING_TAGS`.
    """
    answer = split_reasoning(text)[1]
    # Each round ends at least one kind of closing tag, the last one all that is opened.
    while answer != text:
        text, answer = answer, split_reasoning(answer)[1]
    return answer


def opened_reasoning(prompt_end: str) -> str:
    r"""Find the tag in which a prompt ends, if that opens thinking, as some chat templates do (`<think>\n`).

    A completion is judged behind it: alone it would not tell that all of it, or its beginning, is thinking.

    Args:
        prompt_end: the prompt, or its last `TAG_TOKENS` tokens as text.

    Returns:
        The tag and the white space behind it; an empty text where the prompt opens no thinking.
    """
    tag = next((tag for tag in OPENING_TAGS if prompt_end.rstrip().endswith(tag)), None)
    return prompt_end[prompt_end.rindex(tag) :] if tag else ""


def is_part_of_a_tag(token: str) -> bool:
    """Whether a special token is one of the tags or a part of one, so that decoding must keep it.

    Args:
        token: a special token as text.

    Returns:
        True for `</think>`, and for `<|channel|>`; False for an end of turn.
    """
    return bool(token) and any(token in tag for tag in OPENING_TAGS + CLOSING_TAGS)
