"""Where a model's thinking begins and ends."""

# ruff: noqa: E501 (tables)

import pytest

from sgpo.reasoning import CLOSING_TAGS, OPENING_TAGS, opened_reasoning, split_reasoning, without_reasoning


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>a</think>b", "<think>a</think>", "b"), ("a</think>b", "a</think>", "b"), ("b", "", "b"), ("", "", ""),
        ("b<think>a", "<think>a", "b"), ("<think>a", "<think>a", ""), ("<think>a</think>", "<think>a</think>", ""),
        ("<think>a</think>b<think>c</think>d", "<think>a</think>b<think>c</think>", "d"),
        ("<think>a</think>b<think>c", "<think>a</think>", "b<think>c"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "<|begin_of_thought|>a<|end_of_thought|>", "b"), ("a###Response b", "a###Response", " b"),
        ("[THINK]a[/THINK]b", "[THINK]a[/THINK]", "b"), ("[THINK]a", "[THINK]a", ""),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>", "b"),
        ("<|channel|>analysis<|message|>a<|channel|>final <|constrain|>json<|message|>{}", "<|channel|>analysis<|message|>a<|channel|>final <|constrain|>json<|message|>", "{}"),
        ("<|channel|>analysis<|message|>a", "<|channel|>analysis<|message|>a", ""), ("<|channel|>final<|message|>b", "<|channel|>final<|message|>", "b"),
    ],
)  # fmt: skip
def test_split(text, reasoning, answer):
    assert split_reasoning(text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b<think>c</think>d", "d"), ("<think>a</think>b<think>c", "b"), ("a</think>b", "b"), ("a<think>b", "a"), ("a", "a"),
        ("<thinking>a</thinking>b</think>c", "c"), ("<think>a</think>b</thinking>c<reasoning>d", "c"),
        ("<|begin_of_thought|>a<|end_of_thought|>\nb", "\nb"),
    ],
)  # fmt: skip
def test_without_reasoning(text, answer):
    assert without_reasoning(text) == answer


def test_no_tag_stays_without_reasoning():
    texts = [f"a{first}b{second}c" for first in OPENING_TAGS + CLOSING_TAGS for second in OPENING_TAGS + CLOSING_TAGS]
    assert not [
        text for text in map(without_reasoning, texts) if any(tag in text for tag in OPENING_TAGS + CLOSING_TAGS)
    ]


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<|Assistant|><think>\n", "<think>\n"), ("assistant\n<|begin_of_thought|>\n\n", "<|begin_of_thought|>\n\n"),
        ("assistant\n<think>\n\n</think>\n\n", ""), ("Write your reasoning in <think> tags.", ""), ("assistant\n", ""), ("", ""),
        ("[/INST][THINK]", "[THINK]"), ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
    ],
)  # fmt: skip
def test_reasoning_that_a_prompt_opens(prompt, tag):
    assert opened_reasoning(prompt) == tag
