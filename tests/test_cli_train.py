"""The 1.5B recipe's code path from the command line, on real problems, with a model and a tokenizer made here."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
import yaml
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.training.recipe import load_recipe
from tests.conftest import tiny_qwen2

STRATEGIES = "examples/gsm8k_strategies.jsonl"


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def home(tmp_path_factory, shared_data):
    """Twelve real problems with strategies and six without, a BPE tokenizer with a chat template, a random Qwen2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("gsm8k")
    lines = (shared_data / "train" / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:18]
    (home / "problems.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [row[key] for row in map(json.loads, lines) for key in ("problem", "solution")]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=special[0], eos_token=special[2])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(home / "model")
    tiny_qwen2(vocabulary=len(tokenizer), eos_token_id=2).save_pretrained(home / "model")
    return home


def test_the_1_5b_recipe_on_real_problems(home):
    bank, out = home / "bank.db", home / "run"
    imported = run("strategies", "import", STRATEGIES, "--bank", bank, "--json")
    assert json.loads(imported.stdout)["imported"] == 12
    settings = [
        "use_cpu=true",
        "bf16=false",
        "activation_checkpointing=false",
        "max_steps=3",
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=2",
        "max_prompt_length=800",
        "max_completion_length=12",
        "num_autonomous=3",
        "num_guided=2",
        "save_steps=2",
        "warmup.epochs=1",
        "warmup.bf16=false",
        "warmup.max_length=2000",
        "warmup.per_device_train_batch_size=2",
        "warmup.gradient_accumulation_steps=1",
        "warmup.warmup_steps=1",
        "warmup.logging_steps=1",
    ]
    common = [
        "train",
        "recipes/qwen2.5-1.5b.yaml",
        "--problems",
        home / "problems.jsonl",
        "--bank",
        bank,
        "--model",
        home / "model",
        "--out",
        out,
        *(word for setting in settings for word in ("--set", setting)),
    ]
    result = run(*common, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["model"] == str(out / "checkpoints" / "final")

    split = json.loads((out / "split.json").read_text())
    assert (len(split["warmup"]), len(split["rl"])) == (6, 12)
    assert not set(split["warmup"]) & set(split["rl"])
    assert (out / "checkpoints" / "warmup" / "model.safetensors").exists()
    assert any("loss" in json.loads(line) for line in (out / "warmup.jsonl").read_text().splitlines())

    config = json.loads((out / "config.json").read_text())
    # The bank has a strategy for each of the first twelve.
    assert {int(id_.rpartition("-")[2]) for id_ in split["warmup"]} == set(range(12, 18))
    assert config["strategies"]["without_strategy"] == 0
    rollouts = [json.loads(line) for path in sorted(out.glob("rollouts/*.jsonl")) for line in path.open()]
    assert {row["problem_id"] for row in rollouts} <= set(split["rl"])
    assert {row["verdict"] for row in rollouts} <= {"wrong", "unparsed", "correct"}
    guided = [row for row in rollouts if row["group"] == "guided"]
    assert all("Here is a strategy" in row["prompt"] and row["strategy_id"] for row in guided)
    assert not any("Here is a strategy" in row["prompt"] for row in rollouts if row["group"] == "autonomous")
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "loss" in row] == [1, 2, 3]
    assert (out / "checkpoints" / "checkpoint-2" / "trainer_state.json").exists()

    again = run(*common)
    assert again.exit_code == 2
    assert "holds a run already" in again.stderr

    continued = run(*common, "--resume", "--set", "max_steps=4", "--json")
    assert continued.exit_code == 0, continued.stderr
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "loss" in row] == [1, 2, 3, 4]
    assert yaml.safe_load((out / "recipe.yaml").read_text())["train"]["max_steps"] == 4
    (change,) = json.loads((out / "config.json").read_text())["changes"]
    assert (change["step"], change["options"]) == (3, {"max_steps": {"before": 3, "now": 4}})

    evaluated = run(
        "eval", "--model", out, "--problems", home / "problems.jsonl", "--samples", 2, "--max-tokens", 8, "--json"
    )
    assert evaluated.exit_code == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert {"problems": 18, "k": 2}.items() <= scores.items()
    assert {"avg@2", "pass@1", "maj@2", "verdicts"} <= scores.keys()
    assert sum(scores["verdicts"].values()) == 36


def test_an_answer_is_judged_by_its_value(home):
    """math-verify is what judges: 72.0 and \\frac{144}{2} are 72."""
    from sgpo.problems import load_problems
    from sgpo.verifier import Verifier

    problem = load_problems(home / "problems.jsonl")[0]
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify_many(
            [(f"so we get \\boxed{{{answer}}}", problem) for answer in ("72", "72.0", "\\frac{144}{2}", "73")]
        )
    assert [verdict.kind for verdict in verdicts] == ["correct", "correct", "correct", "wrong"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["--set", "num_autonomus=4"], "did you mean 'num_autonomous'"),
        (["--set", "num_autonomous=many"], "num_autonomous='many'"),
        (["--set", "num_autonomous=1"], "num_autonomous must be at least 2"),
        (["--set", "top_p=0.9"], "top_p must be 1 in training"),
        (["--set", "probelms.limit=3"], "did you mean 'problems'"),
        (["--set", "problems.fields.problm=question"], "a problem has no field 'problm'; its fields are id, problem"),
        (["--set", "lora.rank=8"], "unknown option 'rank'; the options are those of LoraConfig"),
        (["--set", "eval_strategy=steps"], "name a problem file with --set evaluation=FILE"),
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl: no such problem file"),
        (["--bank", "nowhere.db"], "nowhere.db"),
        (["--model", "./no-model"], "./no-model: no such model directory"),
        (["--set", "algorithm=sgppo"], "unknown algorithm 'sgppo'"),
        (["--set", "prompt_style=maths"], "unknown prompt style 'maths'"),
        (["--set", "per_device_train_batch_size=100"], "fewer than one batch"),
        (["--set", "max_prompt_length=3"], "max_prompt_length=3; raise it"),
        (["--stage", "warmup", "--set", "warmup=null"], "no 'warmup' section"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(home, setting, message):
    assert_refused(home, setting, message)


def assert_refused(home, setting, message):
    """`sgpo train` with these words ends in one line and leaves no file."""
    out = home / "refused"
    bank = home / "bank.db"
    run("strategies", "import", STRATEGIES, "--bank", bank)
    settings = ["use_cpu=true", "bf16=false", "gradient_accumulation_steps=1", "warmup.bf16=false"]
    words = ["--problems", home / "problems.jsonl", "--bank", bank, "--model", home / "model", "--out", out]
    words += [word for one in settings for word in ("--set", one)]
    result = run("train", "recipes/qwen2.5-1.5b.yaml", *words, "--stage", "rl", *setting)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not list(out.rglob("*.*"))


@pytest.mark.parametrize(
    ("begun", "setting", "message"),
    [
        (
            {"algorithm": "sgpo"},
            "algorithm=grpo",
            "the run began with algorithm='sgpo' (now 'grpo'), and",
        ),
        ({"args": {"kl_clip": 1.0}}, "kl_clip=null", "the run began with kl_clip=1.0 (now None), and"),
    ],
)
def test_a_run_does_not_go_on_with_what_changes_it(home, tmp_path, begun, setting, message):
    (tmp_path / "config.json").write_text(json.dumps(begun))
    assert_refused(home, ["--out", tmp_path, "--resume", "--set", setting], message)


@pytest.mark.parametrize(("setting", "now"), [("warmup.epochs=3", "'epochs': 3.0"), ("lora.r=8", "lora=None (now {")])
def test_nor_with_another_warm_up_or_adapter(home, tmp_path, setting, now):
    """Of these the run's recipe is the record."""
    recipe = load_recipe("recipes/qwen2.5-1.5b.yaml", ["warmup.bf16=false"]).model_dump(include={"warmup", "lora"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "config.json").write_text("{}")
    assert_refused(home, ["--out", tmp_path, "--resume", "--set", setting], now)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda db: db.execute("PRAGMA user_version = 999"), "a bank of schema version 999, but this sgpo knows"),
        (lambda db: db.execute("PRAGMA application_id = 1"), "a SQLite file, but no strategy bank"),
    ],
)
def test_a_bank_that_is_none_or_of_another_version_is_refused(home, tmp_path, change, message):
    bank = tmp_path / "other.db"
    run("strategies", "import", STRATEGIES, "--bank", bank)
    with closing(sqlite3.connect(bank)) as db:
        change(db)
    before = bank.read_bytes()
    assert_refused(home, ["--bank", bank], f"{bank}: {message}")
    assert bank.read_bytes() == before


@pytest.mark.parametrize("token", ["pad_token", "eos_token"])
def test_a_tokenizer_without_pad_or_eos_is_refused(home, tmp_path, token):
    from transformers import AutoTokenizer

    model = shutil.copytree(home / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    setattr(tokenizer, token, None)
    tokenizer.save_pretrained(model)
    assert_refused(home, ["--model", model], f"{model}: the tokenizer has no {token.replace('_', ' ')}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no problems in it"),
        ('{"id": "a", "problem": "1+1?", "answer": "2"}\nnot json\n', "row 2: not JSON"),
        ('{"id": "a", "problem": "1+1?"}\n', "row 1: no 'answer'"),
        ('{"id": "a", "problem": "1?", "answer": "1"}\n{"id": "a", "problem": "2?", "answer": "2"}\n', "row 2: id 'a'"),
        ("[1, 2]\n", "row 1: a JSON list, expected an object"),
    ],
)
def test_a_bad_problem_file_is_named_with_its_row(home, tmp_path, content, message):
    problems = tmp_path / "bad.jsonl"
    problems.write_text(content)
    for words in (
        [
            "train",
            "recipes/qwen2.5-1.5b.yaml",
            "--model",
            home / "model",
            "--out",
            tmp_path / "run",
            "--set",
            "bank=null",
        ],
        ["eval", "--model", home / "model"],
    ):
        result = run(
            *words,
            "--problems",
            problems,
            *(["--set", "use_cpu=true", "--set", "bf16=false"] if words[0] == "train" else []),
        )
        assert result.exit_code == 2
        assert message in result.stderr
        assert str(problems) in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
