"""`sgpo merge`: adapters into weights."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import app
from sgpo.training.merge import merge_adapters
from tests.training.building import bank_of, hash_verdict, policy, some_problems


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    """A run with adapters on a base, and its system prompt in the chat template."""
    home = tmp_path_factory.mktemp("home")
    policy().save_pretrained(home / "base")
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat.save_pretrained(home / "base")
    args = SGPOConfig(
        output_dir=str(home / "run"), per_device_train_batch_size=6, num_autonomous=4, max_prompt_length=64,
        max_completion_length=10, prompt_style="compact", max_steps=2, learning_rate=0.01, use_cpu=True,
        disable_tqdm=True, save_steps=1, system_prompt="Be brief.",
    )  # fmt: skip
    problems = some_problems()
    torch.manual_seed(0)
    adapters = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    SGPOTrainer(
        str(home / "base"), args, problems, bank=bank_of(home / "bank.db", problems), verifier=hash_verdict,
        peft_config=adapters,
    ).train()  # fmt: skip
    return home


def merge(*words):
    return CliRunner().invoke(app, ["merge", *map(str, words)])


@torch.no_grad()
def logits(model):
    return model.eval()(torch.arange(5, 25).unsqueeze(0)).logits


def test_the_merged_model_is_the_base_with_its_adapters(home, tmp_path):
    out = tmp_path / "merged"
    result = merge(home / "run", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"run": str(home / "run"), "model": str(out), "dtype": "float32"}
    base = AutoModelForCausalLM.from_pretrained(home / "base")
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, home / "run/checkpoints/final"))
    merged = logits(AutoModelForCausalLM.from_pretrained(out))
    assert (merged - adapted).abs().max() < 1e-5
    assert (merged - before).abs().max() > 0.1
    # Whole weights, the tokenizer of training and the run's card; nothing of the adapters or of training.
    final = home / "run/checkpoints/final"
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "chat_template.jinja", "tokenizer.json"} <= names
    assert not [name for name in names if "adapter" in name or name == "training_args.bin"]
    assert (out / "README.md").read_text() == (final / "README.md").read_text()
    message = [{"role": "user", "content": "one"}]
    rendered = [AutoTokenizer.from_pretrained(p).apply_chat_template(message, tokenize=False) for p in (final, out)]
    assert rendered == ["Be brief.one"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]
    assert oct(out.stat().st_mode & 0o777) == oct(0o777 & ~_umask())


def _umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_a_checkpoint_in_sixteen_bits(home, tmp_path):
    out = tmp_path / "merged"
    result = merge(home / "run/checkpoints/checkpoint-1", "--out", out, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}: the merged model, with its tokenizer and chat template\n"
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    # Merged in float32, and rounded once.
    merge_adapters(home / "run/checkpoints/checkpoint-1", tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    assert all(torch.equal(values, whole[name].bfloat16()) for name, values in model.state_dict().items())
    names = {path.name for path in out.iterdir()}
    assert not names & {"README.md", "manifest.json", "trainer_state.json", "optimizer.pt", "adapter_config.json"}


def test_what_cannot_be_merged_is_refused_in_one_line_and_nothing_is_left(home, tmp_path):
    (tmp_path / "there").mkdir()
    torch.manual_seed(0)
    on_tied = get_peft_model(policy(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["lm_head"]))
    on_tied.peft_config["default"].base_model_name_or_path = str(home / "base")
    on_tied.save_pretrained(tmp_path / "tied")
    cases = {
        (home / "run", tmp_path / "there"): "there: exists already, and nothing is written over",
        (home / "run", tmp_path / "no/where"): f"no such directory {tmp_path}/no",
        (home / "base", tmp_path / "new"): "no adapters here to merge; .* is a whole model already",
        (home / "nothing", tmp_path / "new"): "nothing: no such model directory",
        (tmp_path / "tied", tmp_path / "new"): "lora: adapters on lm_head of a model whose input and output embeddings",
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    for (run, out), message in cases.items():
        result = merge(run, "--out", out)
        assert result.exit_code == 2
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        with pytest.raises(ValueError, match=message):
            merge_adapters(run, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing(home, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sgpo.training.merge.shutil.copy", full)
    result = merge(home / "run", "--out", tmp_path / "merged")
    assert result.exit_code == 2
    assert "merged: cannot be written (No space left on device)" in result.stderr
    assert list(tmp_path.iterdir()) == []
