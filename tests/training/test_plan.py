"""`sgpo train --dry-run`: numbers worked out by hand, the prompts as rendered, and nothing loaded or written."""

import fcntl
import json

import pytest
import torch
from peft import LoraConfig
from transformers import MambaConfig, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from sgpo import SGPOConfig, Strategy
from sgpo.cli import app
from sgpo.training import launch
from sgpo.training.memory import memory_needed
from sgpo.training.options import installed_name
from sgpo.training.plan import percentiles
from tests.training.building import bank_of, policy, some_problems, with_chat_template


@pytest.fixture
def recipe(tmp_path, tokenizer):
    """A recipe on twelve problems and a model that has a config and no weights."""
    policy(max_position_embeddings=200).config.save_pretrained(tmp_path / "model")
    with_chat_template(tokenizer).save_pretrained(tmp_path / "model")
    bank_of(tmp_path / "bank.db", some_problems(9)).close()
    rows = [{**p.to_json(), "solution": "so"} for p in some_problems(12)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "num_autonomous": 4, "num_guided": 2, "per_device_train_batch_size": 3, "max_prompt_length": 80,
        "max_completion_length": 10, "num_train_epochs": 2, "use_cpu": True, "prompt_style": "compact",
        "system_prompt": "Be brief.", "rollout_fraction": 0.5,
    }  # fmt: skip
    content = {"model": str(tmp_path / "model"), "problems": str(tmp_path / "problems.jsonl"),
               "bank": str(tmp_path / "bank.db"), "out": str(tmp_path / "run"), "train": train}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))

    def run(*words, dry=True):
        return CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), *["--dry-run"] * dry, *words])

    return run


def test_the_numbers_of_a_plan(recipe, tmp_path):
    result = recipe("--json")
    plan = json.loads(result.stdout)
    assert plan["problems"]["train"] == 12
    assert plan["problems"]["without_strategy"] == 3
    assert plan["guided_fraction"] == 0.75
    assert plan["steps"] == 12 / 3 * 2
    assert plan["completions"] == 8 * 3 * (4 + 2)
    assert plan["max_completion_tokens"] == 144 * 10
    assert plan["rollout_bytes"] == 144 * 10 * 5 / 2
    assert plan["prompts"]["autonomous"].count("Be brief.") == 1
    assert "do q0" in plan["prompts"]["guided"]
    assert plan["prompts"]["problem_id"] == "q0"
    assert not (tmp_path / "run").exists()
    shown = recipe()
    assert "at most 144, and 1,440 tokens" in shown.stdout
    assert "Be brief." in shown.stdout


def test_the_plan_of_a_warm_up_and_of_fixed_steps(recipe, tmp_path):
    """Of the four that the warm-up takes, the three without a strategy first, one has a wrong solution."""
    rows = [
        {**p.to_json(), "solution": f"= \\boxed{{{'-1' if p.id == 'q10' else p.answer}}}"} for p in some_problems(12)
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--set", "warmup.fraction=0.34", "--set", "warmup.guided_fraction=0", "--set", "max_steps=7"]
    plan = json.loads(recipe(*words, "--json").stdout)
    assert (plan["warmup"]["problems"], plan["problems"]["train"], plan["steps"]) == (4, 8, 7)
    assert (plan["warmup"]["wrong_solution"], plan["warmup"]["rows"], plan["warmup"]["epochs"]) == (1, 3, 10)
    # The longest row is [Be brief.], [ 11++?], >, = \\boxed{11} and the end token, a token a letter.
    assert plan["warmup"]["row_tokens"]["max"] == 11 + 8 + 1 + 12 + 1
    assert plan["completions"] == 7 * 3 * 6
    shown = recipe(*words, "--stage", "warmup").stdout
    assert "3 rows, 0 guided, 10 epochs" in shown
    assert "completions" not in shown


def test_completions_of_dynamic_sampling_are_in_the_bound(recipe):
    plan = json.loads(recipe("--set", "dynamic_sampling=2", "--json").stdout)
    assert plan["completions"] == 144 * 3


def test_strategies_are_counted_by_what_they_are(recipe, tmp_path):
    """Eleven have their own; one of these gives its answer away; the last problem may take one of another."""
    bank = bank_of(tmp_path / "bank.db", some_problems(11)[9:])
    bank.add(Strategy(problem_id="q7", problem_type="sum", approach="the answer is 7", steps=("7",)))
    bank.close()
    rows = [p.to_json() for p in some_problems(11)] + [{"id": "q11", "problem": "count the sum?", "answer": "11"}]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = json.loads(recipe("--json").stdout)["strategies"]
    assert own == {"own": 10, "retrieved": 0, "other_guidance": 0, "leaking": 1, "guided_prompt_too_long": 0,
                   "without_strategy": 1}  # fmt: skip
    both = json.loads(recipe("--set", "strategies=both", "--json").stdout)["strategies"]
    assert both == own | {"retrieved": 1, "without_strategy": 0}
    kinds = json.loads(recipe("--set", "strategy_content=empty", "--json").stdout)["strategies"]
    assert (kinds["own"], kinds["other_guidance"]) == (0, 11)


WARM_UP = ("--set", "warmup.fraction=0.25", "--set", "warmup.guided_fraction=0")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_plan_is_alone_on_standard_output(recipe, tmp_path, capfd, words):
    """As the system sees it: what is done goes to standard error below Python, too."""
    app(["train", str(tmp_path / "recipe.yaml"), "--dry-run", *words], standalone_mode=False)
    out, err = capfd.readouterr()
    assert "Be brief." in out
    assert "Be brief." not in err
    if words:
        assert json.loads(out)["steps"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "max_prompt_length=1"], "are longer than max_prompt_length=1"),
        (["--set", "max_completion_length=500"], "made for 200 tokens"),
        (["--set", "per_device_train_batch_size=50"], "fewer than one batch of 50"),
        (["--set", "bank=null"], "learns from guided prompts"),
        (["--set", "eval_strategy=steps"], "no problems to evaluate on"),
        (["--model", "./nowhere"], "./nowhere: no such model directory"),
        (["--stage", "warmup"], "this recipe has no 'warmup' section"),
        (["--resume"], "no run to continue here"),
        ([*WARM_UP, "--stage", "rl"], "no warm-up here for --stage rl"),
        ([*WARM_UP, "--set", "warmup.max_length=5"], "nothing to warm up on: of 3 problems 0 without a solution"),
        ([*WARM_UP, "--set", "warmup.fraction=0.9"], "fewer than one batch of 3"),
    ],
)
def test_what_training_refuses_a_plan_refuses_in_the_same_line(recipe, tmp_path, words, message):
    """The model has no weights: training that went further would end with another line."""
    planned, trained = recipe(*words), recipe(*words, dry=False)
    assert (planned.exit_code, trained.exit_code) == (2, 2)
    assert message in planned.stderr
    assert planned.stderr.splitlines()[-1] == trained.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", ["a warm-up", "a run", "another process", "a file", "below a file", "one process"])
def test_so_it_does_with_a_directory_and_a_launch(recipe, tmp_path, monkeypatch, case):
    run, words = tmp_path / "run", []
    if case == "a warm-up":
        (run / "checkpoints" / "warmup").mkdir(parents=True)
        words, message = WARM_UP, "holds a warm-up already"
    elif case == "a run":
        (run / "checkpoints" / "final").mkdir(parents=True)
        (run / "config.json").write_text("{}")
        message = "holds a run already"
    elif case == "another process":
        run.mkdir()
        lock = (run / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = "in use by another process"
    elif case == "one process":
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        message = "started for several processes, but this is the only one"
    else:
        run.write_text("")
        words, message = (["--out", str(run / "deeper")], "Not a directory") if case == "below a file" else ([], "run")
    before = sorted(tmp_path.rglob("*"))
    planned = recipe(*words)
    assert sorted(tmp_path.rglob("*")) == before
    trained = recipe(*words, dry=False)
    assert (planned.exit_code, trained.exit_code) == (2, 2)
    assert message in planned.stderr
    assert planned.stderr.splitlines()[-1] == trained.stderr.splitlines()[-1]


STAYS = ("weights", "gradients", "optimizer", "reference")


def test_memory_is_that_of_the_page():
    """Qwen2.5-1.5B: the table of docs/training.md, in GiB."""
    config = Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    args = SGPOConfig(
        output_dir="", use_cpu=True, max_tokens_per_batch=16384, generation_batch_size=32, max_completion_length=4096
    )
    full = memory_needed(config, args, None, longest=1024)
    assert full["parameters"] == full["trained"] == 1_543_714_304
    assert sum(full[name] for name in STAYS) / 2**30 == pytest.approx(23.0, abs=0.06)
    assert full["generation"] / 2**30 == pytest.approx(8.8, abs=0.06)
    lora = memory_needed(config, args, LoraConfig(r=32, target_modules="all-linear"), longest=1024)
    assert lora["trained"] == pytest.approx(37e6, rel=0.02)
    assert sum(lora[name] for name in STAYS) / 2**30 == pytest.approx(6.3, abs=0.06)


def test_percentiles():
    assert percentiles([5]) == {"p50": 5, "p95": 5, "max": 5}
    assert percentiles(list(range(1, 101))) == {"p50": 50, "p95": 95, "max": 100}
    assert percentiles([]) is None


def test_a_plan_is_made_of_what_training_prepares(recipe, monkeypatch):
    """The one function that training calls."""
    calls = []
    original = launch.prepare_problems
    monkeypatch.setattr(launch, "prepare_problems", lambda *a, **k: calls.append(1) or original(*a, **k))
    assert recipe().exit_code == 0
    assert calls == [1]


def kept_for_the_backward(model, tokens):
    """The bytes that a forward of one row keeps, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, tensors = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)  # so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=torch.zeros((1, tokens), dtype=torch.long), use_cache=False)
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_a_forward_keeps(checkpointing):
    """A Qwen2 of the proportions of 1.5B. Checkpointed, one layer's (8 x 48 + 4 x 280 numbers a token) come later."""
    config = Qwen2Config(
        vocab_size=100, hidden_size=48, intermediate_size=280, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).train()
    options = {installed_name(SGPOConfig, "activation_checkpointing"): checkpointing}
    args = SGPOConfig(output_dir="", use_cpu=True, max_tokens_per_batch=512, max_completion_length=9, **options)
    computed = memory_needed(config, args, None, longest=9)["activations"]
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        computed -= 512 * 4 * (8 * 48 + 4 * 280)
    assert computed == pytest.approx(kept_for_the_backward(model, 512), rel=0.25)


def test_each_option_that_takes_memory_is_counted():
    """A model of 1,000 x 8 embeddings and no more to speak of."""
    config = Qwen2Config(
        vocab_size=1000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip

    def needed(lora=None, **options):
        args = SGPOConfig(output_dir="", use_cpu=True, **options)
        return memory_needed(config, args, lora, longest=76)

    plain = needed(max_completion_length=100, generation_batch_size=3)
    count = plain["parameters"]
    assert count == pytest.approx(8500, abs=100)
    assert [plain[name] for name in STAYS] == [4 * count, 4 * count, 8 * count, 0]
    assert plain["generation"] == 3 * 176 * 2 * 8 * 4  # keys and values of 8 numbers
    assert plain["total"] == 16 * count + plain["activations"]  # which is more than generation takes
    assert needed(beta=0.1)["reference"] == needed(algorithm="opsd")["reference"] == 4 * count
    assert needed(bf16=True)["copies"] == 2 * count
    lora = LoraConfig(r=1, target_modules=["q_proj"])
    assert needed(lora)["trained"] == 8 + 8
    assert needed(lora, beta=0.1)["reference"] == 0
    assert needed(lora)["weights"] == 4 * count + 4 * 16
    in_16_bits = needed(lora, bf16=True, model_init_kwargs={"dtype": "bfloat16"})
    assert (in_16_bits["weights"], in_16_bits["copies"]) == (2 * count + 4 * 16, 0)
    # A completion that is longer than max_tokens_per_batch is a batch of its own.
    assert needed(max_completion_length=1924, max_tokens_per_batch=1)["activations"] == 2000 * 4 * (8 * 8 + 4 * 8)


def test_a_base_in_4_bits_is_that_of_the_page():
    """Qwen2.5-7B: about 7 GiB, with embeddings and head in float32."""
    config = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    quantized = {"quantization_config": {"load_in_4bit": True}}
    args = SGPOConfig(output_dir="", use_cpu=True, model_init_kwargs=quantized)
    found = memory_needed(config, args, LoraConfig(r=1, target_modules=["q_proj"]), longest=1)
    assert found["weights"] / 2**30 == pytest.approx(7, abs=0.6)


def test_models_without_attention_have_a_plan_too():
    config = MambaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2)
    found = memory_needed(config, SGPOConfig(output_dir="", use_cpu=True), None, longest=1)
    assert found["generation"] == 0
    assert found["total"] > 16 * found["parameters"]
