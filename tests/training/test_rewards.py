"""Rewards of a user's own: in the advantages, not in what is correct; how they are found, called and refused."""

from __future__ import annotations

import json
import math
import statistics
import sys
from functools import partial

import pytest
import torch
import yaml
from trl.rewards import think_format_reward
from typer.testing import CliRunner

from sgpo import Problem, Verdict
from sgpo.cli import app
from sgpo.errors import InputError, RunDirectoryError
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup, judge, pass_rate
from sgpo.training import launch
from sgpo.training.launch import run_recipe
from sgpo.training.measure import judge_name
from sgpo.training.metrics import Averages, add_rollout_metrics
from sgpo.training.recipe import load_recipe
from sgpo.training.rewards import Rewards
from tests.training.building import build_trainer, metrics_of, number_of, policy, read_lines, some_problems

PROBLEM = Problem(id="q", problem="1+1?", answer="2", source="sums")


def group_of(*completions, problem=PROBLEM, guided=()):
    def rollouts(texts):
        return [Rollout(problem.problem, [5], [len(text)], text, [], truncated=False) for text in texts]

    return RolloutGroup(
        problem, PromptIds(problem.problem, [5]), autonomous=rollouts(completions), guided=rollouts(guided)
    )


def verdict_of_text(completion, problem):
    return Verdict({"2": "correct", "slow": "timeout"}.get(completion, "wrong"), completion)


def shortness(completion, problem):
    return 1 - len(completion) / 10


def trl_half(prompts, completions, completion_ids, answer, **kwargs):
    """TRL's convention: 0.5 where the gold answer is in the completion, None for an empty completion."""
    assert kwargs["source"] == ["sums"] * len(prompts)
    assert completion_ids == [[len(c)] if c else [] for c in completions] or completion_ids == [
        [len(c)] for c in completions
    ]
    return [None if not c else 0.5 * (a in c) for c, a in zip(completions, answer, strict=True)]


def judged(rewards, *completions, guided=()):
    group = group_of(*completions, guided=guided)
    judge(((r, group.problem) for r in (*group.autonomous, *group.guided)), verdict_of_text)
    rewards.give([group])
    return group


def test_the_sum_of_weighted_rewards_by_hand():
    rewards = Rewards.of(["verifier", shortness, trl_half], [1.0, 0.1, -2.0])
    group = judged(rewards, "2", "12", "333", "", "slow", guided=["2"])
    assert [r.rewards["shortness"] for r in group.autonomous] == pytest.approx([0.9, 0.8, 0.7, 1.0, 0.6])
    # 1 + 0.09 - 1;  0 + 0.08 - 1;  0 + 0.07 - 0;  0 + 0.1 and no reward of the third;  no verdict: no reward at all
    assert [r.total_reward for r in group.autonomous[:4]] == pytest.approx([0.09, -0.92, 0.07, 0.1])
    assert math.isnan(group.autonomous[3].rewards["trl_half"])
    assert math.isnan(group.autonomous[4].total_reward)
    # What is correct is the verifier's word alone; guided completions are judged, not rewarded.
    assert [r.correct for r in group.autonomous] == [True, False, False, False, False]
    assert pass_rate(group.autonomous) == 0.25
    assert group.guided[0].correct
    assert group.guided[0].rewards == {}


def test_a_completion_without_any_reward_is_left_out_of_its_group():
    scores = {"no": None, "nan": math.nan, "2": 2.0}
    rewards = Rewards.of(lambda text, problem: scores[text], None)
    group = judged(rewards, "no", "nan", "2")
    assert [math.isnan(r.total_reward) for r in group.autonomous] == [True, True, False]
    averages = Averages()
    add_rollout_metrics(averages, [group], [], guided=False)
    results = averages.results()
    assert results["groups/with_gradient"] == 0.0  # one reward alone differs from no other
    assert (results["reward"], results["rewards/<lambda>/missing"]) == (2.0, 2)


def test_functions_of_trl_get_chats_where_the_data_set_holds_chats():
    rows = [{"id": "q", "prompt": [{"role": "user", "content": "1+1?"}], "answer": "2", "level_of_it": "hard"}]
    seen = {}

    def look(completions, prompts, level_of_it):
        seen.update(prompts=prompts, levels=level_of_it)
        return [0.0] * len(completions)

    rewards = Rewards.of([think_format_reward, look], None, problems=[PROBLEM], dataset=rows)
    group = judged(rewards, "<think>a</think>2", "2")
    assert [r.rewards["think_format_reward"] for r in group.autonomous] == [1.0, 0.0]
    assert seen == {"prompts": [[{"role": "user", "content": "1+1?"}]] * 2, "levels": ["hard", "hard"]}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completion, problem: 1 / 0, r"^reward <lambda>: raised ZeroDivisionError: division by zero$"),
        (
            lambda completion, problem: "much",
            r"^reward <lambda>: returned 'much' for problem 'q'; a reward is a finite",
        ),
        (lambda completion, problem: math.inf, r"^reward <lambda>: returned inf for problem 'q'"),
        (lambda completions: [1.0], r"^reward <lambda>: returned 1 rewards for 2 completions$"),
        (lambda completions: 1.0, r"^reward <lambda>: raised TypeError: 'float' object is not iterable"),
        (lambda completions, gold: [1.0, 1.0], r"^reward <lambda>: raised TypeError: .*missing 1 required .*'gold'"),
    ],
)
def test_a_function_that_fails_ends_in_one_line_with_its_name(function, message):
    with pytest.raises(InputError, match=message):
        judged(Rewards.of(function, None), "2", "3")


def test_a_judge_that_raises_ends_in_one_line_with_its_name():
    with pytest.raises(InputError, match=r"^shortness raised TypeError for problem 'q': "):
        judge([(group_of("2").autonomous[0], PROBLEM)], partial(shortness, problem=PROBLEM))


async def later(completion, problem):
    return 1.0


@pytest.mark.parametrize(
    ("functions", "weights", "message"),
    [
        (None, [1.0], "reward_weights needs reward_funcs"),
        ([], None, "reward_funcs is empty"),
        ([shortness], [1.0, 2.0], "reward_weights holds 2 weights, for 1 reward_funcs"),
        ([shortness], [math.nan], "reward_weights: nan is no finite number"),
        ([shortness, shortness], None, "2 are called shortness"),
        (["org/reward-model"], None, "'org/reward-model' would be a reward model"),
        ([torch.nn.Linear(1, 1)], None, "'Linear' would be a reward model"),
        ([3], None, "3 is no function"),
        ([lambda completion: 1.0], None, r"<lambda>: must take \(completion, problem\), or prompts"),
        ([later], None, "reward later: is asynchronous"),
        (["nowhere_at_all:f"], None, "reward 'nowhere_at_all:f' names no function that can be imported: No module"),
        (["math:pi"], None, "reward 'math:pi' names no function, but a float"),
    ],
)
def test_what_is_no_reward_is_refused(functions, weights, message):
    with pytest.raises(InputError, match=message):
        Rewards.of(functions, weights)


# -- in training


def half(completion, problem):
    """0 to 1, and has nothing to do with the verdict."""
    return number_of("half", completion)


def test_training_takes_advantages_from_rewards_and_targets_from_verdicts(tmp_path, tokenizer):
    plain = build_trainer(tmp_path / "plain", tokenizer)
    graded = build_trainer(tmp_path / "graded", tokenizer, reward_funcs=["verifier", half], reward_weights=[1.0, 0.5])
    plain.train(), graded.train()
    before, after = metrics_of(plain)[0], metrics_of(graded)[0]
    # The first step samples alike: what is correct is the same, and so are the targets.
    for key in ("pass_rate/autonomous", "pass_rate/guided", "targets/fraction", "distill_weight", "loss/distill"):
        assert after[key] == before[key]
    assert after["grad_norm"] != before["grad_norm"]
    rows = read_lines(next((tmp_path / "graded" / "rollouts").iterdir()))
    own = [row for row in rows if row["group"] == "autonomous"]
    assert all(row["rewards"] == {"verifier": row["reward"], "half": half(row["completion"], None)} for row in own)
    assert not any("rewards" in row for row in rows if row["group"] == "guided")
    sums = [row["reward"] + 0.5 * row["rewards"]["half"] for row in own]
    trained = [row.advantage for row in graded.pending.rows if row.advantage is not None]
    for start in range(0, len(own), 4):
        of_group = sums[start : start + 4]
        spread = statistics.stdev(of_group) + 1e-4
        wanted = [(value - statistics.mean(of_group)) / spread for value in of_group]
        assert trained[start : start + 4] == pytest.approx(wanted, rel=1e-4)
    mean = sum(row["rewards"]["half"] for row in own) / len(own)
    assert after["rewards/half/mean"] == pytest.approx(mean)
    assert after["rewards/half/missing"] == 0
    assert after["reward"] == pytest.approx(sum(sums) / len(own))
    assert not any(key.startswith("reward") for key in before)
    config = json.loads((tmp_path / "graded" / "config.json").read_text())
    assert (config["rewards"], config["correct"]) == ({"verifier": 1.0, "half": 0.5}, "hash_verdict")


def test_completions_without_a_reward_are_counted(tmp_path, tokenizer):
    def rarely(completions, **columns):
        return [None if number % 4 else 1.0 for number, _ in enumerate(completions)]

    trainer = build_trainer(tmp_path / "run", tokenizer, reward_funcs=rarely)
    trainer.train()
    row = metrics_of(trainer)[0]
    assert (row["rewards/rarely/mean"], row["rewards/rarely/missing"]) == (1.0, 18)  # of 6 x 4


def test_rewards_that_nothing_would_read_are_refused(tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"rewards are read by algorithm sgpo, grpo, luffy, hpt, not by guided_sft"):
        build_trainer(tmp_path / "run", tokenizer, algorithm="guided_sft", reward_funcs=half)
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_under_its_own_rewards(tmp_path, tokenizer):
    options = {"save_strategy": "steps", "save_steps": 1}
    build_trainer(tmp_path / "run", tokenizer, reward_funcs=half, **options).train()
    other = build_trainer(tmp_path / "run", tokenizer, reward_funcs=["verifier", half], max_steps=2, **options)
    with pytest.raises(RunDirectoryError, match=r"began with rewards=\{'half': 1.0\}"):
        other.train(resume_from_checkpoint=True)


# -- in a recipe

MODULE = """
from sgpo import Verdict

def short_enough(completion, problem):
    return 1 / (1 + len(completion))

def ends_well(completion, problem):
    return sum(map(ord, completion)) % 2 == 0

def check(completion, answer):
    return True
"""


@pytest.fixture
def recipe(tmp_path, tokenizer, monkeypatch):
    """A recipe on six problems, and a module of functions in the working directory."""
    policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{**p.to_json(), "solution": "so"} for p in some_problems()]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "algorithm": "grpo", "per_device_train_batch_size": 6, "num_autonomous": 4, "max_completion_length": 10,
        "prompt_style": "compact", "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        "verifier_workers": 1,
    }  # fmt: skip
    content = {"model": str(tmp_path / "base"), "problems": str(tmp_path / "problems.jsonl"),
               "out": str(tmp_path / "run"), "train": train,
               "rewards": [{"kind": "verifier"}, {"function": "mine_of_rewards:short_enough", "weight": 0.1}],
               "correct": "mine_of_rewards:ends_well"}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "mine_of_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine_of_rewards", raising=False)
    return tmp_path / "recipe.yaml"


def test_a_recipe_trains_with_functions_of_the_working_directory(recipe, tmp_path):
    run_recipe(load_recipe(recipe))
    rows = read_lines(next((tmp_path / "run" / "rollouts").iterdir()))
    for row in rows:
        assert row["reward"] == (sum(map(ord, row["completion"])) % 2 == 0) == row["rewards"]["verifier"]
        assert row["rewards"]["short_enough"] == 1 / (1 + len(row["completion"]))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["rewards"], config["correct"]) == ({"verifier": 1.0, "short_enough": 0.1}, "ends_well")
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert again.rewards == load_recipe(recipe).rewards
    with pytest.raises(RunDirectoryError, match="began with rewards="):
        run_recipe(load_recipe(recipe, ["rewards=null", "max_steps=2"]), resume=True)


def test_the_plan_says_the_reward(recipe):
    found = launch.plan_recipe(load_recipe(recipe))
    assert found["reward"] == "1 x mine_of_rewards:ends_well + 0.1 x short_enough"
    shown = CliRunner().invoke(app, ["train", str(recipe), "--dry-run"])
    assert "short_enough" in shown.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rewards=[]"], r"recipe.yaml: rewards: List should have at least 1 item"),
        (["rewards=[{weight: 2}]"], r"rewards.0: .*give either kind: verifier, or function: module:function"),
        (["rewards=[{kind: math}]"], r"rewards.0.kind: Input should be 'verifier'"),
        (["rewards=[{function: f, wieght: 2}]"], r"unknown key 'rewards.0.wieght'; did you mean 'weight'\?"),
        (["rewards=[{function: 'mine_of_rewards:long'}]"], r"'mine_of_rewards:long' names no function that can be"),
        (["reward_weights=[1, 2]"], r"reward_weights: in a recipe each of its rewards has its own weight"),
        (["correct=mine_of_rewards:check"], r"takes an answer, so it is a kind of problem: name it as problems.kind"),
        (["correct=ends_well"], r"correct: 'ends_well' is no function; write it as module:function"),
        (["reward_funcs=[len]"], r"reward_funcs is an option of TRL's GRPOConfig; here it is the recipe's `rewards`"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said_before_anything_is_loaded(recipe, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(launch, "load_tokenizer", None)
    with pytest.raises(InputError, match=message):
        run_recipe(load_recipe(recipe, settings))
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_stops_a_run_before_its_model_is_loaded(recipe, tmp_path, monkeypatch):
    (tmp_path / "mine_of_rewards.py").write_text(MODULE.replace("1 / (1 + len(completion))", "1 / len(completion)"))
    monkeypatch.setattr("sgpo.training.trainer.load_policy", None)
    with pytest.raises(InputError, match="reward short_enough: raised ZeroDivisionError"):
        run_recipe(load_recipe(recipe))
    assert not (tmp_path / "run" / "config.json").exists()
    (tmp_path / "mine_of_rewards.py").write_text("what = this is no Python\n")
    monkeypatch.delitem(sys.modules, "mine_of_rewards")
    with pytest.raises(InputError, match=r"correct 'mine_of_rewards:ends_well' names no function .*invalid syntax"):
        run_recipe(load_recipe(recipe))


def test_a_measurement_names_the_function_that_judged():
    assert judge_name(None, "strict") == "verifier strict"
    assert judge_name(half, "strict") == f"{__name__}:half"
