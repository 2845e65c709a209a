"""Prompts of a user's own, from the page's file to training, checkpoints, evaluation and comparison."""

from __future__ import annotations

import copy
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import app
from sgpo.cli.common import find_prompts
from sgpo.errors import InputError, RunDirectoryError
from sgpo.evaluation.compare import unlike_settings
from sgpo.prompts import load_prompts, own_style
from sgpo.report.facts import origin_facts
from sgpo.report.read import read_run
from sgpo.rollouts.hf import HFEngine
from sgpo.training import launch
from sgpo.training.launch import run_recipe
from sgpo.training.merge import merge_adapters
from sgpo.training.recipe import load_recipe
from tests.conftest import tiny_qwen2
from tests.strategies.chat_server import ChatServer, chat
from tests.training.building import bank_of, build_trainer, hash_verdict, policy, read_lines, some_problems

PAGE = (Path(__file__).resolve().parents[2] / "docs/prompts.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
PLACES = ("", "checkpoints/final", "checkpoints/checkpoint-2", "checkpoints/warmup")
TRAIN = {
    "per_device_train_batch_size": 4, "num_autonomous": 2, "num_guided": 2, "max_prompt_length": 400, "seed": 13,
    "max_completion_length": 7, "max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0,
    "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 2, "temperature": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """A folder with a model, a bank, problems, the page's example as prompts.yaml, and a recipe that names it."""
    folder = tmp_path_factory.mktemp("base")
    policy().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    bank_of(folder / "bank.db", some_problems()).close()
    rows = [
        {"id": p.id, "problem": p.problem, "answer": p.answer, "solution": p.answer, "kind": "exact"}
        for p in some_problems()
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "prompts.yaml").write_text(EXAMPLE, encoding="utf-8")
    recipe = {
        "model": str(folder / "model"), "problems": str(folder / "problems.jsonl"), "bank": str(folder / "bank.db"),
        "prompts": str(folder / "prompts.yaml"), "train": TRAIN,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


def train(base, *settings, resume=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "SGPOTrainer", partial(SGPOTrainer, verifier=hash_verdict))
        return run_recipe(load_recipe(base / "recipe.yaml", list(settings)), resume=resume).parents[1]


@pytest.fixture(scope="module")
def trained(base):
    return train(
        base, f"out={base / 'run'}", "warmup={fraction: 0.3, epochs: 1, learning_rate: 0.1}",
        f"evaluation={base / 'problems.jsonl'}", "eval_strategy=steps", "eval_steps=2", "eval_samples=3",
    )  # fmt: skip


def evaluate(model, *words):
    return CliRunner().invoke(app, ["eval", "--model", str(model), *map(str, words)])


def test_the_pages_example_is_what_training_shows(base, trained):
    autonomous, guided = yaml.safe_load(EXAMPLE)["autonomous"], yaml.safe_load(EXAMPLE)["guided"]
    rows = read_lines(trained / "rollouts/step-000001.jsonl")
    problems = {p.id: p.problem for p in some_problems()}
    for row in rows:
        text = autonomous if row["group"] == "autonomous" else guided
        shown = f"count\n- do {row['problem_id']}\n- !"
        assert row["prompt"] == text.replace("{problem}", problems[row["problem_id"]]).replace(
            "{strategy}", shown
        ).replace("{{1, 2}}", "{1, 2}")
    assert {row["group"] for row in rows} == {"autonomous", "guided"}


def test_the_run_directory_says_which_texts(base, trained):
    told = json.loads((trained / "config.json").read_text())["prompts"]
    style = own_style(yaml.safe_load(EXAMPLE))
    assert told == {"style": "own", "version": style.version, "texts": style.texts}
    # The recipe that is kept has the texts, so it is whole without the file.
    assert yaml.safe_load((trained / "recipe.yaml").read_text())["train"]["prompts"] == yaml.safe_load(EXAMPLE)
    assert f"own {style.version}" in (trained / "checkpoints/final/README.md").read_text()
    facts = dict(origin_facts([read_run(trained, "run")]))
    assert facts["Prompts"] == [f"own · {style.version}"]
    assert "Answer in one line" in facts["Their texts"][0]


@pytest.mark.parametrize("lora", [False, True])
def test_prompts_lie_beside_every_models_weights(base, trained, lora):
    run = trained
    if lora:
        run = train(base, f"out={base / 'lora'}", "warmup={fraction: 0.3, epochs: 1}", "lora.r=2")
    for place in PLACES:
        saved = load_prompts(run / place)
        assert saved.style == own_style(yaml.safe_load(EXAMPLE))
        assert (saved.max_completion_length, saved.temperature, saved.system_prompt) == (7, 0.9, None)
        assert saved.path.parent == run / (place or "checkpoints/final")
    if lora:
        merge_adapters(run, base / "merged")
        assert load_prompts(base / "merged").style == own_style(yaml.safe_load(EXAMPLE))
    manifest = json.loads((run / "checkpoints/checkpoint-2/manifest.json").read_text())
    assert "prompts.json" in manifest["files"]


@pytest.mark.parametrize("place", PLACES)
def test_evaluation_uses_the_prompts_and_the_limit_of_training(base, trained, place, tmp_path):
    out = tmp_path / "out"
    result = evaluate(trained / place, "--problems", base / "problems.jsonl", "--samples", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    version, file = load_prompts(trained).style.version, trained / (place or "checkpoints/final") / "prompts.json"
    assert f"prompts own {version} from {file}; at most 7 tokens\n" in result.stderr
    (row, *_) = read_lines(out / "eval/problems-step-000000.jsonl")
    assert row["prompt"] == yaml.safe_load(EXAMPLE)["autonomous"].format(problem=some_problems()[0].problem)
    assert max(row["tokens"] for row in read_lines(out / "eval/problems-step-000000.jsonl")) <= 7


@pytest.mark.parametrize("place", ["", "checkpoints/final", "checkpoints/checkpoint-2"])
def test_an_evaluation_samples_what_that_of_training_did(base, trained, place, tmp_path):
    words = ["--problems", base / "problems.jsonl", "--samples", 3, "--seed", TRAIN["seed"], "--out", tmp_path / "out"]
    assert evaluate(trained / place, *words).exit_code == 0
    files = (trained / "eval/problems-step-000002.jsonl", tmp_path / "out/eval/problems-step-000000.jsonl")
    ours, theirs = (
        {(row["problem_id"], row["sample"]): (row["prompt"], row["completion"]) for row in read_lines(file)}
        for file in files
    )
    assert ours == theirs
    assert len(ours) == 18


def test_an_evaluation_like_that_of_training_is_compared_without_a_caution(base, trained, tmp_path):
    words = ["--problems", base / "problems.jsonl", "--samples", 1, "--out"]
    assert evaluate(trained / "checkpoints/final", *words, tmp_path / "like").exit_code == 0
    assert unlike_settings([trained, tmp_path / "like"]) is None
    assert evaluate(trained / "checkpoints/final", *words, tmp_path / "math", "--prompt-style", "math").exit_code == 0
    style = load_prompts(trained).style
    assert f"prompt {style.title} against math" in unlike_settings([trained, tmp_path / "math"])
    facts = dict(origin_facts([read_run(tmp_path / "like", "like")]))
    assert facts["Prompts"] == [f"own · {style.version}"]


def test_flags_go_first(base, trained):
    words = ["--problems", base / "problems.jsonl", "--samples", 1]
    result = evaluate(trained, *words, "--prompt-style", "compact", "--max-tokens", 3)
    assert "prompts compact 59a468dea145; at most 3 tokens\n" in result.stderr
    # Another model under the prompts of the run, and a file of texts for it, before anything is trained.
    version = load_prompts(trained).style.version
    for path in (trained, trained / "checkpoints/warmup", trained / "checkpoints/final/prompts.json"):
        result = evaluate(base / "model", *words, "--prompts-from", path)
        assert re.search(rf"prompts own {version} from .*/prompts.json; at most 7 tokens\n", result.stderr)
    result = evaluate(base / "model", *words, "--prompts-from", base / "prompts.yaml", "--max-tokens", 4)
    assert f"prompts own {version} from {base / 'prompts.yaml'}; at most 4 tokens\n" in result.stderr
    result = evaluate(base / "model", *words, "--max-tokens", 4)
    assert "prompts math 7ede5ed8b0d6; at most 4 tokens\n" in result.stderr


def test_a_served_model_is_asked_as_it_was_trained(base, trained):
    server = ChatServer()
    server.script = lambda request, number: chat("1")
    words = ["--problems", base / "problems.jsonl", "--samples", 1, "--engine", "openai", "--base-url", server.url]
    assert evaluate("mine", *words, "--prompts-from", trained).exit_code == 0
    assert evaluate("mine", *words, "--prompt-style", "compact").exit_code == 0
    server.close()
    asked, compact = server.requests[0], server.requests[-1]
    assert asked["messages"][0]["content"].endswith("Sets are written as {1, 2}.")
    assert (asked["max_tokens"], compact["max_tokens"]) == (7, 2048)
    assert compact["messages"][0]["content"].startswith(" ")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--prompts-from", "BASE/model"], "no prompts here; name a run"),
     (["--prompts-from", "nothing"], "no prompts here"),
     (["--prompts-from", "BASE/problems.jsonl"], "problems.jsonl: ")],
)  # fmt: skip
def test_a_path_without_prompts_is_one_line(base, words, message, tmp_path):
    words = [word.replace("BASE", str(base)) for word in words]
    result = evaluate(base / "model", "--problems", base / "problems.jsonl", *words, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_strategies_are_measured_as_the_model_was_trained(base, trained):
    words = ["strategies", "measure", "--bank", base / "bank.db", "--problems", base / "problems.jsonl", "--model"]
    result = CliRunner().invoke(app, [*map(str, words), str(trained / "checkpoints/warmup"), "--samples", "1"])
    assert result.exit_code == 0, result.stderr
    assert "/checkpoints/warmup/prompts.json; at most 7 tokens\n" in result.stderr
    # A recipe says what training will use, whatever its model was trained with.
    recipe = base / "other.yaml"
    recipe.write_text((base / "recipe.yaml").read_text() + "out: unused\n")
    words = ["strategies", "measure", "--recipe", recipe, "--model", trained, "--samples", 1, "--max-tokens", 3]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert f"prompts {load_prompts(trained).style.title}; at most 3 tokens\n" in result.stderr


def test_a_resumed_run_keeps_its_prompts(base, tmp_path):
    out = train(base, f"out={tmp_path / 'run'}")
    with pytest.raises(RunDirectoryError, match=r"began with prompts.version='\w+' \(now '\w+'\), and another"):
        train(base, f"out={out}", "max_steps=3", "prompts={autonomous: '{problem}?'}", resume=True)
    # The same texts written otherwise are the same.
    whole = json.dumps(own_style(yaml.safe_load(EXAMPLE)).texts)
    train(base, f"out={out}", "max_steps=3", f"prompts={whole}", resume=True)
    assert json.loads((out / "config.json").read_text())["args"]["max_steps"] == 3


def test_texts_stand_at_the_top_of_a_recipe_and_are_checked_there(base, tmp_path, monkeypatch):
    def refused(*settings):
        with pytest.raises(InputError) as error:
            load_recipe(base / "recipe.yaml", [f"out={tmp_path / 'run'}", *settings])
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "recipe.yaml, prompts: guided: {strategy} is missing" in refused("prompts={guided: '{problem}'}")
    assert "no such file" in refused("prompts=nothing.yaml")
    assert "recipe.yaml, prompts: expected texts by name" in refused("prompts=[]")
    # A file is looked for in the working directory, then beside the recipe.
    beside = load_recipe(base / "recipe.yaml", [f"out={tmp_path / 'run'}", "prompts=prompts.yaml"])
    assert beside.train["prompts"] == yaml.safe_load(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.yaml").write_text("step: '{step}'")
    here = load_recipe(base / "recipe.yaml", [f"out={tmp_path / 'run'}", "prompts=prompts.yaml"])
    assert here.train["prompts"] == {"step": "{step}"}
    with pytest.raises(InputError, match="prompts: unknown text 'guide'; did you mean 'guided'"):
        SGPOConfig(output_dir=str(tmp_path), use_cpu=True, prompts={"guide": "x"})
    args = SGPOConfig(output_dir=str(tmp_path), use_cpu=True, prompts=str(base / "prompts.yaml"))
    assert args.style == own_style(yaml.safe_load(EXAMPLE))
    assert SGPOConfig(**{**args.to_dict(), "output_dir": str(tmp_path)}).style == args.style


def test_a_system_prompt_goes_with_the_prompts_and_into_comparisons(tmp_path, tokenizer):
    spoken = copy.deepcopy(tokenizer)
    spoken.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    tiny_qwen2().save_pretrained(tmp_path / "base")
    spoken.save_pretrained(tmp_path / "base")
    build_trainer(tmp_path / "run", copy.deepcopy(spoken), system_prompt="Be brief.").train()
    (tmp_path / "one.jsonl").write_text('{"id": "q", "problem": "1?", "answer": "1", "kind": "exact"}\n')
    runs = {}
    for name, model, more in (
        ("trained", tmp_path / "run/checkpoints/final", []),
        ("base", tmp_path / "base", ["--prompts-from", tmp_path / "run"]),
        ("bare", tmp_path / "base", ["--prompt-style", "compact", "--max-tokens", 10]),
    ):
        runs[name] = tmp_path / f"eval-{name}"
        words = ["--problems", tmp_path / "one.jsonl", "--samples", 1, "--out", runs[name], *more]
        assert evaluate(model, *words).exit_code == 0
    settings = {
        name: json.loads((run / "config.json").read_text())["evaluation"]["settings"] for name, run in runs.items()
    }
    assert settings["trained"]["chat"] == {"system_prompt": "Be brief.", "chat_template_kwargs": None}
    assert settings["base"]["chat"] == settings["trained"]["chat"]
    assert settings["bare"]["chat"] is None  # nobody knows
    assert unlike_settings([runs["trained"], runs["base"]]) is None
    # Another system prompt is said.
    (runs["base"] / "config.json").write_text(
        json.dumps({"evaluation": {"settings": settings["base"] | {"chat": {"system_prompt": None}}, "problems": {}}})
    )
    assert 'system_prompt "Be brief." against null' in unlike_settings([runs["trained"], runs["base"]])


def test_the_system_prompt_of_a_run_reaches_another_model(tmp_path, tokenizer, monkeypatch):
    spoken = copy.deepcopy(tokenizer)
    spoken.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    tiny_qwen2().save_pretrained(tmp_path / "base")
    spoken.save_pretrained(tmp_path / "base")
    build_trainer(tmp_path / "run", copy.deepcopy(spoken), system_prompt="Be brief.").train()
    (tmp_path / "one.jsonl").write_text('{"id": "q", "problem": "1?", "answer": "1", "kind": "exact"}\n')
    seen = []
    generate = HFEngine.generate

    def spy(self, prompts, sampling, *, seeds):
        seen.append(spoken.decode(list(prompts[0])))
        return generate(self, prompts, sampling, seeds=seeds)

    monkeypatch.setattr(HFEngine, "generate", spy)
    for words in (["--prompts-from", tmp_path / "run"], ["--prompt-style", "compact", "--max-tokens", 10]):
        evaluate(tmp_path / "base", "--problems", tmp_path / "one.jsonl", "--samples", 1, *words)
    assert seen == ["[Be brief.][ 1?]", "[ 1?]"]


def test_the_prompts_of_a_hub_model_come_with_it(base, tmp_path, monkeypatch):
    """A repository in the hub's cache, as a download leaves it, with prompts.json and without."""
    run_recipe(load_recipe(base / "recipe.yaml", [f"out={tmp_path / 'run'}"]))
    for name, left_out in (("mine", ""), ("other", "prompts.json")):
        folder = tmp_path / "hub" / f"models--me--{name}"
        snapshot = folder / "snapshots" / ("a" * 40)
        shutil.copytree(tmp_path / "run/checkpoints/final", snapshot, ignore=shutil.ignore_patterns(left_out))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    saved = find_prompts("me/mine", None, None)
    assert (saved.max_completion_length, saved.temperature) == (7, 0.9)
    assert saved.style == load_prompts(tmp_path / "run").style != find_prompts("me/other", None, None).style
    assert find_prompts("me/mine", None, "compact").style.name == "compact"
    assert find_prompts("./me/mine", None, None).path is None
    (tmp_path / f"hub/models--me--mine/snapshots/{'a' * 40}/prompts.json").write_text("[]")
    with pytest.raises(InputError, match=r"prompts\.json"):
        find_prompts("me/mine", None, None)
