"""A study file, what is refused in it, its runs, its page; and one small study from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from research.__main__ import main, make_study
from research.page import write_page
from research.plan import SHIPPED, SPLITS, load_study, runs_of, settings_of, stages_of
from research.results import best_rates, read_result
from sgpo.io import write_json

ROOT = Path(__file__).resolve().parents[2]
RESEARCH = ROOT / "research/recipes"


def study_file(tmp_path, **changes):
    """A small study of three arms."""
    recipes = ROOT / "recipes"
    content = {
        "compared": "sgpo",
        "results": str(tmp_path / "results"),
        "page": str(tmp_path / "study.md"),
        "work": str(tmp_path / "work"),
        "problems": 6,
        "pool": 32,
        "samples": 2,
        "warmups": 2,
        "warmup_rows": 96,
        "solution_rows": 12,
        "train": {
            "max_steps": 2, "prompt_style": "compact", "max_prompt_length": 128, "max_completion_length": 16,
            "per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True,
            "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        },
        "rates": {"sgpo": 1e-4, "sft_grpo": 3e-4},
        "arms": {
            "warm_up": {"recipes": []},
            "sgpo": {"recipes": [str(recipes / "quickstart.yaml")]},
            "sft_grpo": {
                "recipes": [str(recipes / "baselines/sft.yaml"), str(recipes / "baselines/sft_grpo.yaml")],
                "style": "leap",
            },
            "clamp": {"recipes": [str(RESEARCH / "ablations/clamp.yaml")], "rate_of": "sgpo"},
        },
        "tables": {
            "rates": {"arms": ["sgpo"], "replicates": 1, "held_out": "validation", "rates": [1e-4, 1e-3]},
            "main": {"arms": ["warm_up", "sgpo", "sft_grpo"], "replicates": 3},
            "ablations": {"arms": ["sgpo", "clamp"], "replicates": 2},
        },
    }  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False), encoding="utf-8")
    return path


def test_the_shipped_study_loads_and_says_enough():
    for quick in (False, True):
        study = load_study(SHIPPED, quick=quick)
        assert {"learning_rates", "main"} <= study.tables.keys()
    study = load_study(SHIPPED)
    main = study.tables["main"]
    assert main.replicates >= 5
    assert study.warmups >= 3
    baselines = {Path(recipe).stem for arm in main.arms for recipe in study.arms[arm].recipes}
    assert baselines == {path.stem for path in (ROOT / "recipes/baselines").iterdir()} | {"paper"}
    ablations = {Path(recipe).stem for arm in study.tables["ablations"].arms for recipe in study.arms[arm].recipes}
    assert ablations == {path.stem for path in (RESEARCH / "ablations").iterdir()} | {"paper"}
    for arm, rate in study.rates.items():
        assert rate in study.tables["learning_rates"].rates, arm


def test_the_runs_of_a_table(tmp_path):
    study = load_study(study_file(tmp_path))
    names = [run.name for run in runs_of(study, study.tables["main"])]
    assert names[:4] == [
        "little-fresh/warm_up-r0", "little-fresh/sgpo-1e-4-r0", "little-fresh/sft_grpo-3e-4-r0",
        "little-fresh/warm_up-r1",
    ]  # fmt: skip
    assert [run.warmup for run in runs_of(study, study.tables["main"])] == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert [run.name for run in runs_of(study, study.tables["rates"])] == [
        "little-validation/sgpo-1e-4-r0", "little-validation/sgpo-1e-3-r0",
    ]  # fmt: skip
    # The same runs of SGPO serve both tables, and an ablation takes SGPO's learning rate.
    ablations = runs_of(study, study.tables["ablations"])
    assert set(ablations) & set(runs_of(study, study.tables["main"])) == {ablations[0], ablations[2]}
    assert ablations[1].name == "little-fresh/clamp-1e-4-r0"


def test_rates_that_differ_have_names_that_differ(tmp_path):
    rates = [1e-4, 1.5e-4, 2.5e-4, 3e-4, 3.4e-4, 1.0]
    tables = {"rates": {"arms": ["sgpo"], "replicates": 1, "held_out": "validation", "rates": rates}}
    study = load_study(study_file(tmp_path, tables=tables))
    names = [run.name.removeprefix("little-validation/sgpo-") for run in runs_of(study, study.tables["rates"])]
    assert names == ["1e-4-r0", "1.5e-4-r0", "2.5e-4-r0", "3e-4-r0", "3.4e-4-r0", "1e0-r0"]


def test_a_table_counts_its_replicates_and_warm_ups_from_where_it_says(tmp_path):
    table = {"arms": ["sgpo"], "replicates": 3, "first_replicate": 4, "first_warmup": 7, "warmup_kind": "readers"}
    study = load_study(study_file(tmp_path, tables={"main": {"arms": ["sgpo"], "replicates": 2}, "other": table}))
    runs = runs_of(study, study.tables["other"])
    assert [(run.replicate, run.warmup) for run in runs] == [(4, 7), (5, 8), (6, 7)]
    assert runs[0].name == "readers-fresh/sgpo-1e-4-r4"
    table |= {"first_replicate": 1, "warmup_kind": "little"}
    with pytest.raises(ValueError, match=r"tables.other: replicate 1 of 'sgpo' starts from warm-up 8, .* from 1; give"):
        load_study(study_file(tmp_path, tables={"main": {"arms": ["sgpo"], "replicates": 2}, "other": table}))


def test_a_result_of_other_settings_is_refused(tmp_path):
    study = load_study(study_file(tmp_path))
    run = runs_of(study, study.tables["main"])[1]
    write_json(study.results / f"{run.name}.json", result(run, 0.5) | {"settings": settings_of(study, run)})
    found = read_result(study, run)
    assert found is not None
    assert found["scores"]["fresh"]["avg@2"] == 0.5
    other = load_study(study_file(tmp_path, pool=64))
    with pytest.raises(ValueError, match=r"sgpo-1e-4-r0.json: made with pool=32, the study has 64; remove the file"):
        read_result(other, run)
    spelled_out = study.train | {"kl_clip": 1.0, "distill_loss": "forward_kl"}
    assert read_result(study.model_copy(update={"train": spelled_out}), run) == found
    longer = study.train | {"max_steps": 3}
    with pytest.raises(ValueError, match=r"made with stages=.*'max_steps': 2.* remove the file to make the run again"):
        read_result(study.model_copy(update={"train": longer}), run)


def test_a_result_whose_option_was_renamed_is_read(tmp_path):
    """The first results say `wrong_strategy_share`; the option is `wrong_strategy_fraction` now."""
    arms = {"sgpo": {"recipes": [str(RESEARCH / "ablations/wrong_25.yaml")]}}
    changes = {"arms": arms, "rates": {"sgpo": 1e-4}, "tables": {"main": {"arms": ["sgpo"], "replicates": 1}}}
    study = load_study(study_file(tmp_path, **changes))
    (run,) = runs_of(study, study.tables["main"])
    settings = settings_of(study, run)
    fraction = settings["stages"][0].pop("wrong_strategy_fraction")
    for kept, accepted in ((fraction, True), (0.5, False)):
        settings["stages"][0]["wrong_strategy_share"] = kept
        write_json(study.results / f"{run.name}.json", result(run, 0.5) | {"settings": settings})
        if accepted:
            assert read_result(study, run) is not None
        else:
            with pytest.raises(ValueError, match=r"made with stages=.*'wrong_strategy_fraction': 0.5"):
                read_result(study, run)


def test_stages_share_the_steps_and_take_the_recipes_options(tmp_path):
    study = load_study(study_file(tmp_path, train={"max_steps": 5, "per_device_train_batch_size": 2}))
    run = next(run for run in runs_of(study, study.tables["main"]) if run.arm == "sft_grpo" and run.replicate == 1)
    first, second = stages_of(study, run)
    assert (first["algorithm"], first["max_steps"]) == ("sft", 2)
    assert (second["algorithm"], second["max_steps"], second["num_autonomous"]) == ("grpo", 3, 12)
    assert {stage["learning_rate"] for stage in (first, second)} == {3e-4}
    assert {stage["seed"] for stage in (first, second)} == {1}
    assert first["prompt_style"] == "compact"  # the recipe's own
    assert stages_of(study, runs_of(study, study.tables["main"])[0]) == []  # the policy as it is


def test_stages_may_have_rates_of_their_own(tmp_path):
    recipes = [str(ROOT / f"recipes/baselines/{name}.yaml") for name in ("sft", "sft_grpo")]
    arms = {"sgpo": {"recipes": recipes, "rate_factors": [0.1, 2.0]}}
    changes = {"arms": arms, "rates": {"sgpo": 3e-4}, "tables": {"main": {"arms": ["sgpo"], "replicates": 1}}}
    study = load_study(study_file(tmp_path, **changes))
    (run,) = runs_of(study, study.tables["main"])
    assert [stage["learning_rate"] for stage in stages_of(study, run)] == pytest.approx([3e-5, 6e-4])
    arms["sgpo"]["rate_factors"] = [0.1]
    with pytest.raises(ValueError, match=r"arms.sgpo.rate_factors: 1 for 2 recipes; give one each"):
        load_study(study_file(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compared": "ppo"}, "study.yaml: compared: no arm 'ppo'; there are: warm_up, sgpo"),
        ({"rates": {"sgpoo": 1e-4}}, "rates: no arm 'sgpoo'"),
        ({"tables": {"main": {"arms": ["grpo"], "replicates": 1}}}, "tables.main.arms: no arm 'grpo'"),
        (
            {"tables": {"main": {"arms": ["sgpo"], "replicates": 1, "compared": ["luffy"]}}},
            "tables.main.compared: no arm 'luffy'",
        ),
        ({"tables": {"main": {"arms": ["sgpo"], "replicates": 0}}}, "tables.main.replicates: Input should be greater"),
        ({"arms": {"sgpo": {"recipes": ["missing.yaml"]}}, "rates": {}, "tables": {}}, "missing.yaml: no such recipe"),
        ({"train": {"max_stepz": 3}}, "train: unknown option 'max_stepz'"),
        ({"problemz": 3}, "problemz: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_study_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_study(study_file(tmp_path, **changes))


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    for arguments, message in [
        ([str(tmp_path / "none.yaml")], "no such study"),
        ([str(study_file(tmp_path)), "--table", "minor"], "no table 'minor'; there are: rates, main, ablations"),
        ([str(study_file(tmp_path, rates={})), "--table", "main"], "no learning rate for the arm 'sgpo'"),
    ]:
        assert main(arguments) == 2
        output = capsys.readouterr()
        assert message in output.err
        assert output.err.count("\n") == 1
        assert output.out == ""
    assert not (tmp_path / "work").exists()


def result(run, score):
    return {
        **run.to_json(), "completions": 1000 * score, "trained_tokens": 10, "seconds": 1.0, "cpu_seconds": 2.0,
        "curve": [{"completions": at, "trained_tokens": at, "score": score * at} for at in (0, 1)],
        "scores": {split: {"avg@2": score, "pass@2": score} for split in SPLITS},
        "distinct_solutions": dict.fromkeys(SPLITS, 1.5), "entropy": 0.25,
        "git_commit": "abcdef0123", "started": "2026-11-25",
    }  # fmt: skip


def test_the_page_says_what_was_run_and_who_is_ahead(tmp_path):
    study = load_study(study_file(tmp_path))
    scores = {"warm_up": (0.2, 0.2, 0.2), "sgpo": (0.7, 0.8, 0.9), "sft_grpo": (0.71, 0.74, 0.9)}
    for run in runs_of(study, study.tables["main"]):
        write_json(study.results / f"{run.name}.json", result(run, scores[run.arm][run.replicate]))
    page = write_page(study, "python -m research study.yaml").read_text(encoding="utf-8")
    assert "| `main` | 9 of 9 | abcdef01 |" in page
    assert "| `ablations` | 2 of 4 |" in page
    assert "| `rates` | 0 of 2 |  |  |" in page
    assert "## `rates`" not in page
    assert "| sgpo | 3 | 0.800 |" in page
    # 0.5, 0.6, 0.7 ahead of the warm-up: 0.6 +- 4.303 * 0.1 / sqrt(3)
    assert "| warm_up | +0.600 [+0.352, +0.848] ahead |" in page
    assert "| sft_grpo | +0.017 [" in page
    assert "ahead in 6, level in 6, behind in 0, open in 0" in page
    assert {path.name for path in (tmp_path / "study/main").iterdir()} == {"completions.svg", "trained_tokens.svg"}
    assert "](study/main/completions.svg)" in page


def test_a_table_may_compare_other_arms(tmp_path):
    tables = {"main": {"arms": ["warm_up", "sgpo"], "replicates": 3, "compared": ["warm_up", "sgpo"]}}
    study = load_study(study_file(tmp_path, tables=tables))
    for run in runs_of(study, study.tables["main"]):
        score = 0.2 if run.arm == "warm_up" else 0.7 + 0.1 * run.replicate
        write_json(study.results / f"{run.name}.json", result(run, score))
    page = write_page(study, "python -m research study.yaml").read_text(encoding="utf-8")
    first, second = (page.index(f"**`{arm}` minus each**") for arm in ("warm_up", "sgpo"))
    assert "| sgpo | -0.600 [-0.848, -0.352] behind |" in page[first:second]
    assert "| warm_up | +0.600 [+0.352, +0.848] ahead |" in page[second:]


def test_more_methods_than_colours_take_more_figures(tmp_path):
    """13 methods, 12 of them in a style of the expert's too: 9 beside the compared one, then 3."""
    recipe = {"recipes": [str(ROOT / "recipes/paper.yaml")], "rate_of": "sgpo"}
    others = [f"m{number}{style}" for number in range(12) for style in ("_own", "_foreign")]
    study = load_study(
        study_file(
            tmp_path,
            arms={"sgpo": recipe, **dict.fromkeys(others, recipe)},
            rates={"sgpo": 1e-4},
            tables={"main": {"arms": ["sgpo", *others], "replicates": 1}},
        )
    )
    for run in runs_of(study, study.tables["main"]):
        write_json(study.results / f"{run.name}.json", result(run, 0.5))
    write_page(study, "x")
    first, second = (
        (tmp_path / f"study/main/completions{part}.svg").read_text(encoding="utf-8") for part in ("", "-2")
    )
    names = ["sgpo", *(f"m{number}" for number in range(12))]
    assert [name for name in names if f">{name}</text>" in first] == names[:10]
    assert [name for name in names if f">{name}</text>" in second] == ["sgpo", *names[10:]]
    assert not (tmp_path / "study/main/completions-3.svg").exists()


def test_the_best_rate_is_chosen_among_complete_ones(tmp_path):
    study = load_study(study_file(tmp_path))
    table = study.tables["rates"]
    for run, score in zip(runs_of(study, table), (0.4, 0.6), strict=True):
        write_json(study.results / f"{run.name}.json", result(run, score))
        best = best_rates(study, table)
        assert best == {"sgpo": run.learning_rate}
    assert "| sgpo | 0.400 | 0.600 | 0.001 | 0.0001 |" in write_page(study, "x").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_study_from_end_to_end(tmp_path):
    path = study_file(tmp_path, tables={"small": {"arms": ["warm_up", "sgpo", "clamp"], "replicates": 2}})
    outcome = make_study(path, table="small", quick=False, page_only=False)
    assert outcome["tables"] == {"small": {"finished": 6, "planned": 6}}
    files = sorted((tmp_path / "results/little-fresh").iterdir())
    assert [file.name for file in files] == [
        *(f"{arm}-1e-4-r{r}.json" for arm in ("clamp", "sgpo") for r in (0, 1)), "warm_up-r0.json", "warm_up-r1.json",
    ]  # fmt: skip
    assert json.loads(files[-1].read_text(encoding="utf-8"))["curve"] == []  # nothing was trained
    run = json.loads(files[0].read_text(encoding="utf-8"))
    assert run["scores"].keys() == set(SPLITS)
    assert run["completions"] == 2 * 2 * 12
    assert [point["completions"] for point in run["curve"]] == [0, 24, 48]
    assert run["curve"][-1]["trained_tokens"] == run["trained_tokens"]
    assert not list((tmp_path / "work/runs").rglob("*.safetensors"))
    written = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert make_study(path, table="small", quick=False, page_only=False)["made"] == 1
    assert files[0].stat().st_mtime_ns == written
    again = make_study(path, table=None, quick=False, page_only=True)
    assert (again["made"], again["tables"]["small"]["finished"]) == (0, 6)
