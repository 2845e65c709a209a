from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgpo.prompts import extract_prompt, rank_prompt
from sgpo.reasoning import without_reasoning
from sgpo.strategies.replies import UnusableReplyError, WrittenScores, WrittenStrategy, read_object
from sgpo.strategies.strategy import strategy_from_json

STRATEGY = {
    "problem_type": "Sums",
    "approach": "Add what is there",
    "steps": ["Name the parts", "Add them"],
    "when_to_use": "When a total is asked for",
}
PLAIN = json.dumps(STRATEGY)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        json.dumps(STRATEGY, indent=2),
        f"```json\n{PLAIN}\n```",
        f"Sure! Here is the strategy:\n\n{PLAIN}\n\nI hope this {{helps}}.",
        f'<think>\nMaybe {{"problem_type": "Draft", "approach": "d", "steps": ["d"]}}?\n</think>\n\n{PLAIN}',
        f"The template opened the block. {{not json}} </think> {PLAIN}",
        f"{{broken {PLAIN}",
        json.dumps({"strategy": STRATEGY}),
        json.dumps([STRATEGY]),
        json.dumps({"strategies": [{"note": 1}, STRATEGY]}),
        json.dumps({"Problem Type": "Sums", "When-to-use": STRATEGY["when_to_use"], "strategy": "Add what is there"})[
            :-1
        ]
        + ', "STEPS": "1. Name the parts\\n2. Add them"}',
        json.dumps({**STRATEGY, "steps": ["1. Name the parts", "Step 2: Add them"]}),
        json.dumps({**STRATEGY, "steps": [{"step": 1, "text": "Name the parts"}, {"step": 2, "text": "Add them"}]}),
        json.dumps({**STRATEGY, "confidence": 0.9}),
        PLAIN.replace("Add what", "Add\n what"),
    ],
)
def test_a_strategy_is_found_in_what_models_write(text: str) -> None:
    assert read_object(text, WrittenStrategy).model_dump() == STRATEGY


DRAFT = json.dumps({**STRATEGY, "approach": "A first idea"})


@pytest.mark.parametrize(
    "text",
    [
        f"Draft: {DRAFT}\nBetter: {PLAIN}",
        f"[{DRAFT}, {PLAIN}]",
        json.dumps({"strategies": [json.loads(DRAFT), STRATEGY]}),
        json.dumps({"draft": json.loads(DRAFT), "final": STRATEGY}),
        f'{DRAFT}\n{PLAIN}\n{{"note": "done"}}',  # the last one is no strategy
        f"{DRAFT}\n{PLAIN}\nFor sets such as {{1, 2}} it is the same.",
        json.dumps({**STRATEGY, "steps": {"1": "Name the parts", "2": "Add them"}}),
        json.dumps({**STRATEGY, "steps": {"1": {"do": "Name the parts"}, "2": {"do": "Add them"}}}),
    ],
)
def test_of_several_objects_the_last_strategy_is_the_answer(text: str) -> None:
    assert read_object(text, WrittenStrategy).model_dump() == STRATEGY


def test_where_the_answer_was_cut_off_a_draft_is_none() -> None:
    for end in (12, 60, len(PLAIN) - 1):
        with pytest.raises(UnusableReplyError, match="broken or cut off"):
            read_object(f"Draft: {DRAFT}\nBetter: {PLAIN[:end]}", WrittenStrategy)


ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final"


@pytest.mark.parametrize(
    ("thinking", "end"),
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        (ANALYSIS, f"{FINAL}<|message|>"),
        (ANALYSIS, f"{FINAL} <|constrain|>json<|message|>"),  # what is sampled under a JSON schema
    ],
)
def test_a_draft_inside_thinking_is_no_answer(thinking: str, end: str) -> None:
    with pytest.raises(UnusableReplyError, match="it was empty"):
        read_object(f"{thinking}Perhaps {DRAFT}, or", WrittenStrategy)
    with pytest.raises(UnusableReplyError, match="no JSON object"):
        read_object(f"{thinking}Perhaps {DRAFT}.{end}I cannot say.", WrittenStrategy)
    assert read_object(f"{thinking}Perhaps {DRAFT}.{end}{PLAIN}", WrittenStrategy).model_dump() == STRATEGY


def test_braces_inside_a_text_with_latex_are_no_other_object() -> None:
    text = r'{"problem_type": "t", "approach": "Join \( {\"a\", \"b\"} \)", "steps": ["s"]}'
    assert read_object(text, WrittenStrategy).approach == r'Join \( {"a", "b"} \)'


def test_a_strategy_may_lack_when_to_use() -> None:
    text = json.dumps({name: value for name, value in STRATEGY.items() if name != "when_to_use"})
    assert read_object(text, WrittenStrategy).when_to_use == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"Write \\(x\\) as \\frac{a}{b}", r"Write \(x\) as \frac{a}{b}"),  # as JSON wants it
        (r"Write \(x\) as \frac{a}{b} \neq \theta", r"Write \(x\) as \frac{a}{b} \neq \theta"),  # not escaped
        (r"Use \frac, \times, \beta and \rho", r"Use \frac, \times, \beta and \rho"),  # all of them valid escapes
        (r"Caf\u00e9 and \(x\)", r"Café and \(x\)"),
        (r"Say \"so\" and \(x\)", r'Say "so" and \(x\)'),
    ],
)
def test_latex_survives(written: str, meant: str) -> None:
    text = '{"problem_type": "t", "approach": "%s", "steps": ["s"]}' % written  # noqa: UP031
    assert read_object(text, WrittenStrategy).approach == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it was empty"),
        ("<think>I never stop", "it was empty"),
        ("I cannot do that.", "no JSON object"),
        (PLAIN[:-20], "broken or cut off"),
        ("{" * 100_000, "broken or cut off"),
        ('{"a":' * 20_000, "broken or cut off"),
        ('{"a":' * 600 + "1" + "}" * 600, "broken or cut off"),  # JSON reads it, but it is no strategy
        ("<html><body>{}</body></html>", "problem_type: Field required"),
        (json.dumps({**STRATEGY, "steps": []}), "steps: Value should have at least 1 item"),
        (json.dumps({**STRATEGY, "approach": " "}), "approach: Value error, '' says nothing"),
        (json.dumps({**STRATEGY, "steps": ["...", "..."]}), "steps.0: Value error, '...' says nothing"),
        (json.dumps({**STRATEGY, "approach": None}), "approach: Input should be a valid string"),
        (json.dumps({**STRATEGY, "steps": ["s"] * 21}), "steps: Value should have at most 20"),
        (json.dumps({**STRATEGY, "approach": "a" * 3000}), "approach: Value should have at most"),
        ("{" + " " * 300_000, "far too long"),
        # A random model that a server holds to the schema: broken UTF-8, control characters, points of no character.
        (json.dumps({**STRATEGY, "approach": "add \ufffdcl"}), "approach: Value error, it holds what is no text"),
        (json.dumps({**STRATEGY, "steps": ["add \x01 it"]}), "steps.0: Value error, it holds what is no text"),
        (json.dumps({**STRATEGY, "when_to_use": "\U000f0000 \u0378"}), "when_to_use: Value error, it holds what"),
    ],
)
def test_what_cannot_be_mended_says_why(text: str, message: str) -> None:
    with pytest.raises(UnusableReplyError, match=message):
        read_object(text, WrittenStrategy)


def test_scores() -> None:
    scores = {"faithful": 5, "general": "4", "actionable": 3.0, "Leak free": 1}
    assert read_object(json.dumps(scores), WrittenScores).model_dump() == {
        "faithful": 5,
        "general": 4,
        "actionable": 3,
        "leak_free": 1,
    }
    for bad in (0, 6, 2.5, None, "high"):
        with pytest.raises(UnusableReplyError, match="general"):
            read_object(json.dumps({**scores, "general": bad}), WrittenScores)


def test_without_reasoning() -> None:
    assert without_reasoning("<think>a</think>b<think>c</think>d") == "d"
    assert without_reasoning("a</think>b") == "b"
    assert without_reasoning("a<think>b") == "a"
    assert without_reasoning("a") == "a"


@given(st.text() | st.text(alphabet='{}[]":,\\ \nntf0123<think>/'))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        answer = read_object(text, WrittenStrategy)
    except UnusableReplyError:
        return
    assert answer.steps


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert read_object(PLAIN.replace("Sums", "Sums \\ud800"), WrittenStrategy).problem_type == "Sums ?"


def test_a_question_that_is_repeated_before_the_answer_is_no_answer() -> None:
    strategy = strategy_from_json({**STRATEGY, "problem_id": "p"})
    for prompt, kind in [
        (extract_prompt("What is 1 + 1?", "It is 2."), WrittenStrategy),
        (rank_prompt("What is 1 + 1?", "It is 2.", strategy), WrittenScores),
    ]:
        with pytest.raises(UnusableReplyError):
            read_object(prompt, kind)
    assert read_object(extract_prompt("What?", "So.") + PLAIN, WrittenStrategy).problem_type == "Sums"
