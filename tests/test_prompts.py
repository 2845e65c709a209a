"""Prompts of a user's own: what is refused, what stays, and where the prompts of a model are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgpo.errors import InputError
from sgpo.prompts import (
    STYLES,
    ExtractionPrompts,
    SavedPrompts,
    autonomous_prompt,
    check_texts,
    guided_prompt,
    load_prompts,
    own_extraction,
    own_style,
    rank_prompt,
    read_texts,
)
from sgpo.strategies import Strategy

STRATEGY = Strategy(problem_id="q", problem_type="sums", approach="count", steps=("add", "check"))
OWN = {"autonomous": "Q: {problem} {{x}}", "guided": "{problem} / {strategy}", "strategy": "{approach}: {steps}"}


def test_shipped_styles_keep_their_versions():
    assert {name: style.version for name, style in STYLES.items()} == {
        "math": "7ede5ed8b0d6",
        "compact": "59a468dea145",
    }
    # Strategies of a bank and outcomes of an extraction are found again by these.
    assert ExtractionPrompts().versions == ("d56e5389d491", "73c39c426b0d")


def test_own_texts_take_the_place_of_a_style():
    style = own_style(check_texts(OWN, where="prompts"), "compact")
    assert style.name == "own"
    assert style.version not in {each.version for each in STYLES.values()}
    assert autonomous_prompt("{1}+1?", style=style) == "Q: {1}+1? {x}"
    assert guided_prompt("1+1?", STRATEGY, style=style) == "1+1? / count: add ; check"  # the steps are compact's
    assert own_style({}, "compact") is STYLES["compact"]
    assert own_style({"step": STYLES["math"].step}, "math") is STYLES["math"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"autonomous": "Solve."}, "prompts: autonomous: {problem} is missing"),
        ({"guided": "{problem}"}, "prompts: guided: {strategy} is missing"),
        ({"solution_guided": "{problem}"}, "solution_guided: {solution} is missing"),
        ({"strategy": "be clever"}, "strategy: has no placeholder"),
        ({"step": "{number}."}, "step: {step} is missing"),
        ({"extract": "{problem}"}, "extract: {solution} is missing"),
        ({"rank": "{problem}"}, "rank: {strategy} is missing"),
        ({"autonomous": "{problem} {strategy}"}, "{strategy} is no placeholder of it, these are: {problem}"),
        ({"autonomous": "{problem} \\boxed{}"}, "{} is no placeholder of it, these are: {problem}; a brace that is"),
        ({"autonomous": "{problem!r}"}, "{problem!r} is no placeholder"),
        ({"autonomous": "{problem:>9}"}, "{problem:>9} is no placeholder"),
        ({"autonomous": "{problem.__class__}"}, "{problem.__class__} is no placeholder"),
        ({"autonomous": "{problem"}, "a brace that is part of the text is written twice"),
        ({"autonomous": "{problem} }"}, "a brace that is part of the text is written twice"),
        ({"autonomous": "{problem} \ud800"}, "prompts: autonomous has half a surrogate pair"),
        ({"autonomos": "{problem}"}, "unknown text 'autonomos'; did you mean 'autonomous'?"),
        ({"step": 3}, "step must be a text, got 3"),
        (["{problem}"], "expected texts by name"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused(texts, message):
    with pytest.raises(InputError) as refused:
        check_texts(texts, where="prompts")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("a: [", "not a readable YAML file"), ("", "expected texts by name"),
     ("autonomous: 'x'", "own.yaml: autonomous: {problem} is missing"), (b"\xff", "row 1: not UTF-8")],
)  # fmt: skip
def test_a_file_that_holds_no_prompts_is_named(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"own\.yaml") as refused:
        read_texts(file, where="prompts")
    assert message in str(refused.value)


def test_one_file_serves_the_policy_and_the_strong_model():
    texts = check_texts(OWN | {"extract": "{problem} {solution}", "rank": "{strategy}?"}, where="prompts")
    asked = own_extraction(texts)
    assert own_style(texts) == own_style(OWN)
    assert rank_prompt("1+1?", "2", STRATEGY, prompts=asked) == "count: 1. add\n2. check?"
    assert autonomous_prompt("1+1?", style=asked.style) == "Q: 1+1? {x}"
    ours = ExtractionPrompts().versions
    assert all(version not in ours for version in asked.versions)
    # The guided prompt is not for the strong model: it changes nothing that was asked.
    assert own_extraction({"guided": OWN["guided"]}).versions == ours
    assert own_extraction({"rank": texts["rank"]}).versions[0] == ours[0]


SAVED = SavedPrompts(
    style=own_style(OWN, "compact"),
    system_prompt="Be brief.",
    chat_template_kwargs={"enable_thinking": False},
    max_completion_length=48,
    temperature=0.7,
)


def found(path):
    saved = load_prompts(path)
    return saved and (saved.style, saved.system_prompt, saved.max_completion_length, saved.temperature)


@pytest.mark.parametrize("beside", ["final", "checkpoint-50", "warmup"])
def test_prompts_are_found_beside_the_weights(tmp_path, beside):
    folder = tmp_path / "run/checkpoints" / beside
    SAVED.save(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    read = load_prompts(folder)
    assert read.path == folder / "prompts.json"
    assert (read.style, read.chat) == (SAVED.style, SAVED.chat)
    assert found(folder) == (SAVED.style, "Be brief.", 48, 0.7)
    assert json.loads(read.path.read_text())["version"] == SAVED.style.version
    assert (found(tmp_path / "run") is None) == (beside != "final")


@pytest.mark.parametrize("name", ["", "checkpoints/final", "checkpoints/checkpoint-50", "checkpoints/warmup"])
def test_a_run_of_0_1_says_it_in_its_config(tmp_path, name, monkeypatch):
    run = tmp_path / "run"
    (run / name).mkdir(parents=True)
    args = {"max_completion_length": 31, "temperature": 1.0, "system_prompt": None}
    (run / "config.json").write_text(json.dumps({"prompts": {"style": "compact", "version": "?"}, "args": args}))
    assert found(run / name) == (STYLES["compact"], None, 31, 1.0)
    monkeypatch.chdir((run / name).parent)
    assert found(Path((run / name).name)) == (STYLES["compact"], None, 31, 1.0)


def test_a_run_without_a_model_yet_has_its_own_texts_in_its_config(tmp_path):
    config = {"prompts": SAVED.style.describe(), "args": {"max_completion_length": 31}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert found(tmp_path) == (SAVED.style, None, 31, None)


def test_other_models_have_no_prompts(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "prompts": null}')
    assert load_prompts(tmp_path) is None
    assert load_prompts("owner/model") is None


@pytest.mark.parametrize(
    "change",
    [{"texts": {}}, {"texts": {**SAVED.style.texts, "autonomous": "x"}}, {"texts": None}, {"temperature": "hot"},
     {"texts": {**SAVED.style.texts, "rank": "{strategy}"}}],
    ids=["empty", "no placeholder", "none", "temperature", "one too many"],
)  # fmt: skip
def test_damaged_prompts_are_one_line_that_names_the_file(tmp_path, change):
    SAVED.save(tmp_path)
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError) as refused:
        load_prompts(tmp_path)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)
