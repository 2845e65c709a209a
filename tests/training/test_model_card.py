"""The model card: what it says, and that nothing in it can be markup."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from sgpo.training.model_card import model_card, write_model_card
from sgpo.training.run_directory import RunDirectory
from tests.training.building import build_trainer, some_problems

EVIL = "<script>alert(1)</script> | [x](http://evil) `a` **b**"


def score(mean):
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


@pytest.fixture
def run(tmp_path):
    """A run with two evaluations of one set."""
    run = RunDirectory(tmp_path / "my_run")
    config = {
        "algorithm": "sgpo", "model": "Qwen/Qwen2.5-1.5B-Instruct",
        "args": {"num_autonomous": 8, "learning_rate": 1e-6, "output_dir": "x", "adam_beta1": 0.9},
        "problems": {"problems": 400, "too_long": 3},
        "strategies": {"path": "bank.db", "without_strategy": 7, "guided_prompt_too_long": 0, "retrieved": 0},
        "prompts": {"style": "math", "version": "9f86d081884c"},
        "versions": {"python": "3.11.7", "sgpo": "0.1.0"}, "git_commit": "0123abc+", "command": "sgpo train r.yaml",
        "started": "2026-11-23T13:49:00+00:00",
    }  # fmt: skip
    (run.path / "eval").mkdir(parents=True)
    run.final_model.mkdir(parents=True)
    run.config_file.write_text(json.dumps(config))
    run.append_metrics({"step": 1, "loss": 0.1, "completions": 192, "pass_rate/autonomous": 0.25})
    run.append_metrics({"step": 50, "loss": 0.1, "completions": 9600, "pass_rate/autonomous": 0.4375, "entropy": 0.51})
    run.append_metrics({"step": 50, "eval/avg@4": 0.5})
    for step, mean in ((0, 0.25), (25, 0.3), (50, 0.41)):
        content = {"name": "fresh", "step": step, "problems": 200, "k": 4, "avg@4": score(mean), "maj@4": score(0.6)}
        (run.path / "eval" / f"fresh-step-{step:06d}.json").write_text(json.dumps(content))
    return run


def edit(run, **changes):
    config = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(config | changes))


def test_what_a_card_says(run):
    card = model_card(run)
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["sgpo"],
        "base_model": "Qwen/Qwen2.5-1.5B-Instruct",
    }  # fmt: skip
    for said in (
        "# my\\_run",
        "| fresh | 0 | 200 | 4 | 0.250 \\[0.200, 0.300\\] |  | 0.600 \\[0.550, 0.650\\] |",
        "| fresh | 50 | 200 | 4 | 0.410 \\[0.360, 0.460\\] |  | 0.600 \\[0.550, 0.650\\] |",
        "Trained for 50 steps on 9,600 sampled completions.",
        "| pass\\_rate/autonomous | 0.438 |",
        "| problems | 400 |",
        "| problems without a strategy | 7 |",
        "| git commit | 0123abc+ |",
        "| command | sgpo train r.yaml |",
        "| sgpo | 0.1.0 |",
        "num_autonomous: 8",
        "eprint = {2606.24064}",
    ):
        assert said in card, said
    assert "0.300 [" not in card.replace("\\", "")  # of three evaluations the first and the last
    assert "adam_beta1" not in card  # options of our own, where there is no recipe
    assert write_model_card(run).read_text() == card


def test_a_card_without_evaluations_says_so(run):
    for file in run.path.glob("eval/*"):
        file.unlink()
    assert "The run made no evaluation." in model_card(run)


def evaluate(run, name, step, right):
    """An evaluation of 20 problems, the first `right` of which were solved."""
    samples = {f"p{number}": ["correct" if number < right else "wrong"] for number in range(20)}
    content = {"name": name, "step": step, "problems": 20, "k": 1, "avg@1": score(right / 20), "samples": samples}
    (run.path / "eval" / f"{name[0]}-step-{step:06d}.json").write_text(json.dumps(content))


def test_what_was_lost_stands_beside_what_was_won_above_the_tables(run):
    for name, before, after in (("algebra", 4, 14), ("kept", 18, 8), ("even", 10, 10), (f"x {EVIL}", 20, 0)):
        evaluate(run, name, 0, before)
        evaluate(run, name, 50, after)
    head = model_card(run).split("## Metrics")[0].replace("\\", "")
    assert "From the first to the last evaluation: better on algebra (avg@1 +0.500 [+0." in head
    assert "]); worse on kept (avg@1 -0.500 [-0." in head
    assert "; no clear change on even (avg@1 +0.000 [-" in head
    assert "<script" not in head
    assert "](http://evil)" not in model_card(run).replace("\\](http", "")


def test_a_card_says_why_training_failed(run):
    sampled = {"completions": 1, "verdicts/correct": 0, "verdicts/wrong": 5, "verdicts/unparsed": 163}
    run.append_metrics({"step": 1, "loss": 0.0, "truncated/autonomous": 0.97, **sampled})
    card = model_card(run)
    assert "Of the completions that training sampled, 0 of 168 right, 97 % truncated, 97 % unparsed." in card
    assert card.index("0 of 168 right") < card.index("## Metrics")


def test_the_base_of_a_warmed_up_run_is_the_model_before_it(run):
    edit(run, model="runs/x/checkpoints/warmup")
    assert "base_model" not in model_card(run)
    (run.path / "warmup.json").write_text(json.dumps({"model": "owner/base"}))
    assert "base_model: owner/base" in model_card(run)


def test_nothing_in_it_is_markup(run):
    strategies = {"path": EVIL, "without_strategy": 0}
    edit(run, model=EVIL, command=EVIL, strategies=strategies, prompts={"style": EVIL, "version": EVIL})
    run.recipe_file.write_text(f"out: '````\n{EVIL}\n````'\n")
    card = model_card(run)
    outside = re.sub(r"^(`{3,}).*?^\1$", "", card, flags=re.MULTILINE | re.DOTALL)
    assert "```" not in outside
    assert "<script" not in outside
    assert "](http://evil)" not in outside.replace("\\](http", "")
    assert not re.search(r"(?<!\\)\*\*b", outside)
    commands = [line for line in outside.splitlines() if line.startswith("| command")]
    assert len(re.findall(r"(?<!\\)\|", commands[0])) == 3
    assert card.count("`````") == 2  # a fence longer than the recipe's


def test_training_writes_it(tmp_path, tokenizer):
    trainer = build_trainer(
        tmp_path / "run", tokenizer, evaluation=some_problems(2), eval_strategy="steps", eval_steps=1, eval_samples=2
    )
    trainer.train()
    card = (tmp_path / "run" / "checkpoints" / "final" / "README.md").read_text()
    assert "| eval | 1 | 2 | 2 |" in card
    assert "Trained for 1 step on 48 sampled completions." in card
