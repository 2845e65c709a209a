"""What a user of TRL types works, or is answered with our name for it."""

import json
import shutil
from dataclasses import fields

import datasets
import pytest
from trl import GRPOConfig

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import BankError, InputError
from sgpo.prompts import load_prompts
from sgpo.training.launch import plan_recipe, run_recipe
from sgpo.training.options import TRL_NAMES
from sgpo.training.recipe import load_recipe
from tests.training.building import bank_of, build_trainer, policy, read_lines, some_problems, with_chat_template


@pytest.mark.parametrize("name", TRL_NAMES)
def test_a_name_of_trl_is_answered_with_ours(name, tmp_path):
    with pytest.raises(InputError, match=f"^{name} is an option of TRL's GRPOConfig; here it is "):
        SGPOConfig(output_dir="", **{name: 1})
    (tmp_path / "r.yaml").write_text(f"model: m\nproblems: p.jsonl\nout: run\ntrain: {{{name}: 1}}\n")
    with pytest.raises(InputError, match=f"r\\.yaml, train: {name} is an option of TRL's GRPOConfig"):
        load_recipe(tmp_path / "r.yaml")


def test_the_names_are_trls_and_the_answers_ours():
    ours = {field.name for field in fields(SGPOConfig)}
    trls = {field.name for field in fields(GRPOConfig)} | {"reward_funcs"}
    assert TRL_NAMES.keys() <= trls - ours
    for answer in TRL_NAMES.values():
        first = answer.replace("=", " ").replace(":", " ").split()[0]
        assert first in ours | {"nothing", "the", "verifier"}


def test_options_of_another_trainer_are_refused(tmp_path):
    with pytest.raises(InputError, match="args is a GRPOConfig; SGPOTrainer takes an sgpo"):
        SGPOTrainer("model", GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), some_problems())


def test_a_bank_may_be_named_by_its_file(tmp_path, tokenizer):
    bank_of(tmp_path / "x.db", some_problems()).close()
    for name in (tmp_path / "x.db", str(tmp_path / "x.db")):
        trainer = build_trainer(tmp_path / "run", tokenizer, bank=name)
        assert trainer.prepared.guided_fraction == 1.0
    with pytest.raises(BankError, match="no such strategy bank"):
        build_trainer(tmp_path / "other", tokenizer, bank=str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


# -- data as TRL and verl have it

SYSTEM = {"role": "system", "content": "Think first."}


def chat_rows(count=6, system=(SYSTEM,)):
    """What TRL's GRPOTrainer takes: prompts as chats, and a column for its reward functions."""
    chats = [[*system, {"role": "user", "content": f"{n}?"}] for n in range(count)]
    return [{"prompt": chat, "solution": str(n), "hardness": n / 2} for n, chat in enumerate(chats)]


def test_a_dataset_of_chats_trains_with_its_system_prompt_and_its_columns(tmp_path, tokenizer):
    def hard(completions, hardness, **columns):
        assert all(message["role"] == "assistant" for (message,) in completions)
        return hardness

    chat = with_chat_template(tokenizer)
    trainer = build_trainer(
        tmp_path / "run", chat, problems=datasets.Dataset.from_list(chat_rows()), bank=None, algorithm="grpo",
        reward_funcs=hard,
    )  # fmt: skip
    assert chat.decode(next(iter(trainer.prepared.groups.values())).prompt.ids).startswith("[Think first.][ 0?]")
    trainer.train()
    own = read_lines(next((tmp_path / "run" / "rollouts").iterdir()))
    assert sorted({row["rewards"]["hard"] for row in own}) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert load_prompts(trainer.run.final_model).system_prompt == "Think first."


def test_rows_with_different_system_prompts_are_refused_unless_one_is_set(tmp_path, tokenizer):
    rows = [*chat_rows(3), *({**row, "prompt": row["prompt"][1:]} for row in chat_rows(6)[3:])]
    options = {"problems": rows, "bank": None, "algorithm": "grpo"}
    with pytest.raises(InputError, match=r"2 different system prompts, such as 'Think first.' .* and None "):
        build_trainer(tmp_path / "run", with_chat_template(tokenizer), **options)
    trainer = build_trainer(tmp_path / "run", with_chat_template(tokenizer), system_prompt="Mine.", **options)
    assert trainer.args.system_prompt == "Mine."


def test_verls_rows_train_by_a_recipe_and_resume(tmp_path, tokenizer):
    policy().save_pretrained(tmp_path / "base")
    with_chat_template(tokenizer).save_pretrained(tmp_path / "base")
    rows = [{"prompt": row["prompt"], "reward_model": {"ground_truth": row["solution"]}} for row in chat_rows()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "algorithm": "grpo", "per_device_train_batch_size": 6, "num_autonomous": 2, "max_completion_length": 6,
        "max_steps": 2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 1,
        "prompt_style": "compact", "verifier_workers": 1,
    }  # fmt: skip
    content = {"model": str(tmp_path / "base"), "problems": "p", "out": str(tmp_path / "run"), "train": train}
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    recipe = load_recipe(tmp_path / "recipe.yaml", problems=tmp_path / "train.jsonl", kind="exact")
    assert {problem.kind for problem in recipe.problems.load()} == {"exact"}
    assert plan_recipe(recipe)["prompts"]["autonomous"].startswith("[Think first.]")
    run_recipe(recipe)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["args"]["system_prompt"] == "Think first."
    # As if it had been stopped after its first step.
    for name in ("checkpoint-2", "final"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    run_recipe(recipe, resume=True)
    assert (tmp_path / "run" / "checkpoints" / "final").is_dir()
