import json
import shutil

import pytest
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.prompts import STYLES, load_prompts
from sgpo.puzzles import quickstart
from sgpo.strategies.bank import StrategyBank
from sgpo.training.recipe import load_recipe


def test_the_recipe_is_the_sgpo_run_of_the_quickstart():
    recipe, packaged = (load_recipe(path) for path in ("recipes/quickstart.yaml", quickstart.RECIPES["sgpo"]))
    assert recipe.train == packaged.train
    assert recipe.warmup is None  # its model is warmed up
    help_of_steps = CliRunner().invoke(app, ["quickstart", "--help"], env={"COLUMNS": "200"}).stdout
    assert f"default: {recipe.train['max_steps']}]" in help_of_steps
    assert recipe.train["eval_steps"] == recipe.train["max_steps"] // 6


def test_the_runs_differ_in_their_algorithm_and_its_options_alone():
    grpo, sgpo = (load_recipe(quickstart.RECIPES[name]).train for name in ("grpo", "sgpo"))
    differing = {name for name in sgpo | grpo if sgpo.get(name) != grpo.get(name)}
    assert {"algorithm", "num_autonomous"} <= differing <= {
        "algorithm", "num_autonomous", "num_guided", "target_sft_coef"
    }  # fmt: skip


def test_a_recipe_may_extend_a_packaged_one_from_anywhere(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: sgpo:puzzles/quickstart.yaml\ntrain: {max_steps: 7}\n", encoding="utf-8")
    assert load_recipe(path).train == load_recipe(quickstart.RECIPES["sgpo"]).train | {"max_steps": 7}


def test_both_runs_sample_the_same_number_of_completions():
    grpo, sgpo = (load_recipe(quickstart.RECIPES[name]).train for name in ("grpo", "sgpo"))
    assert grpo["num_autonomous"] == sgpo["num_autonomous"] + sgpo["num_guided"] == 12


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A quickstart with hardly any warm-up and two steps: every part runs, nothing is learnt."""
    return run_small(tmp_path_factory.mktemp("quickstart") / "home", "--seed", "3")


def run_small(out, *words):
    sizes = {"TRAIN_PUZZLES": 40, "FRESH_PUZZLES": 6, "UNTOUCHED_PUZZLES": 3, "PROBED_PUZZLES": 4, "WARMUP_ROWS": 64}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(quickstart, name, value)
        result = CliRunner().invoke(app, ["quickstart", "--steps", "2", "--out", str(out), "--json", *words])
    assert result.exit_code == 0, result.stderr
    return out, json.loads(result.stdout)


def subjects(file):
    return {json.loads(line)["subject"] for line in file.open()}


def test_the_result_has_every_part(small):
    out, result = small
    for name in ("warmup", "grpo", "sgpo", "difference"):
        assert result[name]["low"] <= result[name]["mean"] <= result[name]["high"]
    for name in ("warmup", "grpo", "sgpo"):
        assert result["untouched"][name]["low"] <= result["untouched"][name]["high"]
    assert 0 <= result["all_fail_share"] <= 1
    assert result["seconds"] > 0
    assert result["report"] == str(out / "report.html")
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")


def test_two_families_are_trained_and_a_third_one_is_only_warmed_up(small):
    out, _ = small
    assert subjects(out / "problems.jsonl") == subjects(out / "fresh.jsonl") == {"clues", "rewriting"}
    assert subjects(out / "untouched.jsonl") == {"clock"}
    assert sorted(path.name for path in (out / "sgpo" / "eval").glob("untouched-*.json")) == [
        f"untouched-step-00000{step}.json" for step in (0, 1, 2)
    ]


def test_families_are_chosen_by_name(tmp_path):
    out, result = run_small(tmp_path / "home", "--families", "clock, ordering")
    assert subjects(out / "problems.jsonl") == {"clock", "ordering"}
    assert "untouched" not in result  # the clock is trained: nothing is left that measures retention
    assert not (out / "untouched.jsonl").exists()


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ("sudoku", "unknown family of puzzles 'sudoku'; there are: clues, rewriting, ordering, clock"),
        ("clues,clues", "name one or more different families"),
        ("", "name one or more different families"),
    ],
)
def test_unknown_families_are_refused_in_one_line_before_anything_is_written(tmp_path, families, message):
    out = tmp_path / "home"
    result = CliRunner().invoke(app, ["quickstart", "--families", families, "--out", str(out)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_both_runs_start_from_one_policy_on_the_same_problems_and_completions(small):
    out, _ = small
    first = {
        name: json.loads((out / name / "eval" / "fresh-step-000000.json").read_text()) for name in ("grpo", "sgpo")
    }
    assert first["grpo"]["samples"] == first["sgpo"]["samples"]
    rows = {
        name: [json.loads(line) for line in (out / name / "rollouts" / "step-000002.jsonl").open()]
        for name in ("grpo", "sgpo")
    }
    assert [row["problem_id"] for row in rows["grpo"]][::12] == [row["problem_id"] for row in rows["sgpo"]][::12]
    assert len(rows["grpo"]) == len(rows["sgpo"]) == 16 * 12
    assert [row["group"] for row in rows["sgpo"]][:12] == ["autonomous"] * 8 + ["guided"] * 4
    assert {row["group"] for row in rows["grpo"]} == {"autonomous"}


@pytest.mark.parametrize("place", ["checkpoints/warmup", "grpo", "sgpo/checkpoints/final"])
def test_every_model_says_its_prompts(small, place):
    saved = load_prompts(small[0] / place)
    assert (saved.path.name, saved.style, saved.max_completion_length) == ("prompts.json", STYLES["compact"], 48)


def test_the_recipe_runs_on_what_the_quickstart_left(small, tmp_path):
    out, _ = small
    bank = shutil.copy(out / "bank.db", tmp_path)  # a run adds what it measured to its bank
    words = [
        "train",
        "recipes/quickstart.yaml",
        "--problems",
        out / "problems.jsonl",
        "--bank",
        bank,
        "--model",
        out / "checkpoints" / "warmup",
        "--out",
        tmp_path / "again",
        "--set",
        f"evaluation={out / 'fresh.jsonl'}",
        "--set",
        "max_steps=2",
        "--set",
        "seed=3",
        "--set",
        "eval_steps=1",
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    again = (tmp_path / "again" / "rollouts" / "step-000002.jsonl").read_text()
    assert again == (out / "sgpo" / "rollouts" / "step-000002.jsonl").read_text()


def test_a_second_quickstart_never_writes_over_the_first(small):
    out, _ = small
    result = CliRunner().invoke(app, ["quickstart", "--out", str(out)])
    assert result.exit_code == 2
    assert "holds a run already" in result.stderr


def test_the_bank_learns_what_its_strategies_did(small):
    out, _ = small
    rows = [json.loads(line) for path in (out / "sgpo" / "rollouts").glob("*.jsonl") for line in path.open()]
    with StrategyBank(out / "bank.db") as bank:
        effects = [bank.effect(strategy.id) for strategy in bank]
        # The probe before the training says its part, under the same condition: the same model, prompts and reward.
        probed = bank.db.execute(
            "SELECT sum(guided_total), sum(autonomous_total), sum(guided_passes + autonomous_passes) FROM run_effects "
            "WHERE run = 'probe'"
        ).fetchone()
    guided, autonomous = (sum(row["group"] == group for row in rows) for group in ("guided", "autonomous"))
    assert (guided, autonomous) == (128, 256)
    assert sum(effect.guided_total for effect in effects) - probed[0] == guided
    assert sum(effect.autonomous_total for effect in effects) - probed[1] == autonomous
    passes = sum(effect.guided_passes + effect.autonomous_passes for effect in effects) - probed[2]
    assert passes == sum(row["verdict"] == "correct" for row in rows)
    assert probed[0] * 2 == probed[1] > 0
