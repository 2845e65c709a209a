"""Prompts of one's own, and those that lie beside weights."""

import json

import pytest
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.errors import InputError
from sgpo.prompts import STYLES, autonomous_prompt, guided_prompt, load_prompts, own_style, prompt_version
from sgpo.training.checkpoints import prompts_of
from sgpo.training.recipe import load_recipe
from tests.training.building import bank_of, build_trainer, policy, some_problems

TEXTS = {
    "autonomous": "Q: {problem}\nA:",
    "guided": "Q: {problem}\nHint: {strategy}\nA:",
    "strategy": "{steps}",
    "step": "{step}",
    "step_separator": "; ",
}


def test_own_texts_take_the_place_of_a_styles(tmp_path):
    own = own_style(TEXTS, base=STYLES["math"])
    strategy = bank_of(tmp_path / "bank.db", some_problems(1)).get("q0")
    assert autonomous_prompt("1+1?", style=own) == "Q: 1+1?\nA:"
    assert guided_prompt("1+1?", strategy, style=own) == "Q: 1+1?\nHint: do q0; !\nA:"
    assert own.solution_guided == STYLES["math"].solution_guided
    assert own.version != STYLES["math"].version
    assert own_style({}, base=STYLES["math"]) is STYLES["math"]
    braces = own_style({"autonomous": "{problem} \\boxed{{}}"}, base=STYLES["math"])
    assert autonomous_prompt("?", style=braces) == "? \\boxed{}"
    assert len(prompt_version("")) == 12


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"autonomus": "{problem}"}, "unknown text 'autonomus'; did you mean 'autonomous'"),
        ({"autonomous": 3}, r"prompts.autonomous: expected a text, got 3"),
        ({"autonomous": "Solve it."}, r"prompts.autonomous: it lacks {problem}"),
        ({"guided": "{problem}"}, r"prompts.guided: it lacks {strategy}"),
        ({"autonomous": "{problem} {strategy}"}, r"unknown placeholder {strategy}; known are {problem}"),
        ({"autonomous": "{problem} \\boxed{}"}, r"unknown placeholder {}"),
        ({"autonomous": "{problem} {"}, "write {{ and }} for braces"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(texts, message):
    with pytest.raises(InputError) as raised:
        own_style(texts, base=STYLES["math"])
    assert message in str(raised.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    """A run with prompts of its own, a checkpoint, and the directory of the model that it began with."""
    home = tmp_path_factory.mktemp("prompts")
    trainer = build_trainer(
        home / "run", tokenizer, model=policy(), prompts=TEXTS, max_completion_length=7, temperature=0.9,
        save_strategy="steps", save_steps=1, max_prompt_length=99,
    )  # fmt: skip
    trainer.train()
    return home / "run"


@pytest.mark.parametrize("place", ["", "checkpoints/final", "checkpoints/checkpoint-1"])
def test_the_prompts_lie_beside_every_weights(run, place):
    saved = prompts_of(run / place)
    assert saved.style.autonomous == TEXTS["autonomous"]
    assert (saved.max_completion_length, saved.temperature) == (7, 0.9)


def test_an_evaluation_takes_the_prompts_of_what_it_evaluates(run, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(json.dumps(problem.to_json()) + "\n" for problem in some_problems(2)))
    words = ["eval", "--problems", str(problems), "--samples", "1", "--out"]
    for number, place in enumerate(("", "checkpoints/final", "checkpoints/checkpoint-1")):
        out = tmp_path / str(number)
        result = CliRunner().invoke(app, [*words, str(out), "--model", str(run / place)])
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(line) for line in (out / "eval/p-step-000000.jsonl").read_text().splitlines()]
        assert [row["prompt"] for row in rows] == [f"Q: {problem.problem}\nA:" for problem in some_problems(2)]
        assert {row["max_tokens"] for row in rows} == {7}
        assert f"prompts own {prompts_of(run).style.version} ({run / place}); at most 7 tokens" in result.stderr
    other = [*words, str(tmp_path / "other"), "--model", str(run), "--prompt-style", "compact", "--max-tokens", "5"]
    assert "prompts compact" in CliRunner().invoke(app, other).stderr


def test_damaged_and_missing_prompts(run, tmp_path):
    assert load_prompts(tmp_path) is None
    (tmp_path / "prompts.json").write_text('{"style": {}}')
    with pytest.raises(InputError, match=r"prompts\.json: damaged"):
        load_prompts(tmp_path)


def test_a_recipe_names_prompts(tmp_path):
    recipe = {"model": "m", "problems": "p.jsonl", "out": "run", "prompts": TEXTS}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    assert load_recipe(tmp_path / "r.yaml").train["prompts"] == TEXTS
    (tmp_path / "texts.yaml").write_text(json.dumps(TEXTS))
    (tmp_path / "f.yaml").write_text(json.dumps(recipe | {"prompts": "texts.yaml"}))
    loaded = load_recipe(tmp_path / "f.yaml")
    assert (loaded.train["prompts"], loaded.prompts) == (TEXTS, None)
    for prompts, message in (
        ("none.yaml", "no such file"),
        ([1], "prompts"),
        ({"guided": "x"}, "r2.yaml, prompts.guided"),
    ):
        (tmp_path / "r2.yaml").write_text(json.dumps(recipe | {"prompts": prompts}))
        with pytest.raises(InputError, match=message):
            load_recipe(tmp_path / "r2.yaml")
