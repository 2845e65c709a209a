"""What a recipe may ask of training, each on a random model: adapters, precision, accumulation, schedules, lengths."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sgpo import SGPOTrainer
from sgpo.errors import InputError
from sgpo.prompts import guided_prompt
from sgpo.rollouts.models import load_policy
from sgpo.strategies.bank import StrategyBank
from sgpo.training import launch
from sgpo.training.guidance import warmup_prompts
from sgpo.training.launch import run_recipe
from sgpo.training.recipe import load_recipe
from tests.training.building import bank_of, hash_verdict, policy, read_lines, some_problems


@pytest.fixture
def recipe(tmp_path, tokenizer, monkeypatch):
    """A recipe on six problems and a random model; answers are judged by their hash, so that there is a gradient."""
    monkeypatch.setattr(launch, "SGPOTrainer", partial(SGPOTrainer, verifier=hash_verdict))
    policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    bank_of(tmp_path / "bank.db", some_problems()).close()
    rows = [{"id": p.id, "problem": p.problem, "answer": p.answer, "solution": "so"} for p in some_problems()]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    train = {
        "per_device_train_batch_size": 6, "num_autonomous": 4, "num_guided": 4, "max_prompt_length": 64, "seed": 13,
        "max_completion_length": 10, "prompt_style": "compact", "max_steps": 2, "optim": "sgd", "learning_rate": 0.1,
        "max_grad_norm": 0.0, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    content = {"model": str(tmp_path / "base"), "problems": str(tmp_path / "problems.jsonl"),
               "bank": str(tmp_path / "bank.db"), "train": train}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def run(name, *settings):
        out = tmp_path / name
        run_recipe(load_recipe(tmp_path / "recipe.yaml", [f"out={out}", *settings]))
        return out

    return run


def weights(out, file="model.safetensors"):
    return load_file(out / "checkpoints" / "final" / file)


def metrics(out, key):
    return [row[key] for row in read_lines(out / "metrics.jsonl") if "loss" in row]


def furthest(ours, theirs):
    return max((ours[name].float() - theirs[name].float()).abs().max().item() for name in ours)


def test_the_bank_is_written_at_the_end_alone(recipe, tmp_path, monkeypatch):
    beside = []

    def build(*arguments, bank, **options):
        beside.extend(path.name for path in tmp_path.glob("bank.db*"))
        return SGPOTrainer(*arguments, bank=bank, verifier=hash_verdict, **options)

    monkeypatch.setattr(launch, "SGPOTrainer", build)
    recipe("run", "max_steps=1")
    assert beside == ["bank.db"]  # no files of a writer
    with StrategyBank(tmp_path / "bank.db", read_only=True) as bank:
        assert bank.total_effect()[1].guided_total == 6 * 4


def test_full_fine_tuning_with_and_without_accumulation_and_sixteen_bits(recipe):
    base = policy().state_dict()
    plain = weights(recipe("plain"))
    accumulated = recipe("accumulated", "per_device_train_batch_size=2", "gradient_accumulation_steps=3")
    assert furthest(weights(accumulated), plain) < 1e-5 < 1e-2 < furthest(plain, base)
    # Only the arithmetic has 16 bits; its gradient is compared with the equation's in test_models.py.
    bf16 = weights(recipe("bf16", "bf16=true"))
    assert {tensor.dtype for tensor in bf16.values()} == {torch.float32}
    assert furthest(bf16, plain) > 1e-6
    assert furthest(bf16, base) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        ["lora={}"],
        ["lora.r=2", "lora.target_modules=[q_proj, v_proj]", "lora.use_rslora=true", "bf16=true"],
        ["lora.r=4", "per_device_train_batch_size=2", "gradient_accumulation_steps=3", "activation_checkpointing=true"],
        ["lora.r=4", "model=untied", "lora.modules_to_save=[lm_head]"],
    ],
    ids=["plain", "few modules, bf16", "accumulated, checkpointed", "head trained"],
)
def test_adapters_are_trained_saved_and_loaded(recipe, settings, tmp_path, tokenizer):
    base = policy(tie_word_embeddings="model=untied" not in settings)
    base.save_pretrained(tmp_path / "untied")
    tokenizer.save_pretrained(tmp_path / "untied")
    out = recipe("run", *(s.replace("=untied", f"={tmp_path}/untied") for s in settings))
    final = out / "checkpoints" / "final"
    files = {path.name for path in final.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files
    assert any(loss != 0 for loss in metrics(out, "loss"))
    loaded = load_policy(out)
    assert not hasattr(loaded, "peft_config")
    changed = {name for name, w in loaded.state_dict().items() if (w - base.state_dict()[name]).abs().max() > 1e-7}
    trained = {"lm_head.weight"} if "modules_to_save" in settings[-1] else set()
    assert trained <= changed
    assert all("_proj" in name for name in changed - trained)
    assert any("q_proj" in name for name in changed)


def test_an_adapter_finds_its_warm_up_after_the_run_was_moved(recipe, tmp_path):
    sft = ["warmup.fraction=0.34", "warmup.epochs=1", "per_device_train_batch_size=4", "warmup.warmup_steps=0"]
    out = recipe("run", "lora.r=2", *sft)
    before = load_policy(out).state_dict()
    shutil.move(out, tmp_path / "elsewhere")
    assert furthest(load_policy(tmp_path / "elsewhere").state_dict(), before) == 0.0


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (["lr_scheduler_type=constant"], [0.1, 0.1, 0.1, 0.1]),
        (["lr_scheduler_type=linear"], [0.1, 0.075, 0.05, 0.025]),
        (["lr_scheduler_type=cosine"], [0.1, 0.0853553, 0.05, 0.0146447]),  # 0.05 (1 + cos(pi k / 4))
        (["lr_scheduler_type=constant_with_warmup", "warmup_steps=2"], [0.0, 0.05, 0.1, 0.1]),
        (
            ["lr_scheduler_type=cosine_with_min_lr", "lr_scheduler_kwargs={min_lr: 0.02}"],
            [0.1, 0.0882843, 0.06, 0.0317157],  # 0.02 + 0.04 (1 + cos(pi k / 4))
        ),
    ],
    ids=lambda value: value[0].partition("=")[2] if isinstance(value[0], str) else "",
)
def test_schedules(recipe, settings, rates):
    out = recipe("run", "algorithm=grpo", "max_steps=4", *settings)
    assert metrics(out, "learning_rate") == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["max_steps=5"], 5),  # over the end of an epoch
        (["max_steps=-1", "num_train_epochs=2"], 6),
        (["max_steps=-1", "num_train_epochs=1.3"], 4),
        (["max_steps=4", "num_train_epochs=9"], 4),  # max_steps goes first
    ],
)
def test_a_run_is_as_long_as_its_steps_or_epochs(recipe, settings, steps):
    out = recipe("run", "algorithm=grpo", "per_device_train_batch_size=2", *settings)
    assert metrics(out, "step") == list(range(1, steps + 1))


def test_the_recipe_is_kept_in_the_run_and_in_its_model_card(recipe):
    out = recipe("run", "lora.r=2", "learning_rate=0.05")
    again = load_recipe(out / "recipe.yaml")
    assert (again.out, again.lora.r, again.lora.target_modules) == (str(out), 2, "all-linear")
    assert again.train["learning_rate"] == 0.05
    card = (out / "checkpoints" / "final" / "README.md").read_text(encoding="utf-8")
    assert (out / "recipe.yaml").read_text(encoding="utf-8").rstrip() in card


def test_a_part_of_the_warm_up_is_shown_with_strategies(recipe, tmp_path):
    """As many rows as asked for, among problems that have one; without any it is refused, and nothing is written."""
    sft = ["warmup.fraction=0.67", "warmup.epochs=1", "per_device_train_batch_size=2", "max_steps=1"]
    out = recipe("half", "warmup.guided_fraction=0.5", *sft)
    record = json.loads((out / "warmup.json").read_text())
    assert (record["problems"], record["guided"]) == (4, 2)
    assert json.loads((recipe("none", *sft) / "warmup.json").read_text())["guided"] == 0
    with pytest.raises(InputError, match="guided_fraction: no problem of the warm-up has a strategy"):
        recipe("refused", "warmup.guided_fraction=0.5", "bank=null", "algorithm=grpo", *sft)
    assert not (tmp_path / "refused").exists()


def test_the_prompts_of_a_guided_warm_up(tmp_path):
    problems = some_problems(20)
    bank = bank_of(tmp_path / "b.db", problems[:10])
    prompts = warmup_prompts(problems, bank, fraction=0.25, style="compact", seed=3)
    assert len(prompts) == 5
    assert prompts.keys() < {problem.id for problem in problems[:10]}
    assert all(
        prompts[p.id] == guided_prompt(p.problem, bank.get(p.id), style="compact") for p in problems if p.id in prompts
    )
    assert prompts.keys() < warmup_prompts(problems, bank, fraction=0.4, style="compact", seed=3).keys()
    assert len(warmup_prompts(problems, bank, fraction=0.9, style="compact", seed=3)) == 10
    assert warmup_prompts(problems, None, fraction=0.0, style="compact", seed=3) == {}
