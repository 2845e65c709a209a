"""What a user of TRL types works, or is answered with our name for it."""

from dataclasses import fields

import pytest
from trl import GRPOConfig

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import BankError, InputError
from sgpo.training.options import TRL_NAMES
from sgpo.training.recipe import load_recipe
from tests.training.building import bank_of, build_trainer, some_problems


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
