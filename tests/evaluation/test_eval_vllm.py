"""`sgpo eval --engine vllm` with a stand-in for vLLM; the engine itself is in tests/rollouts/test_vllm.py."""

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.rollouts import vllm as adapter
from tests.conftest import tiny_qwen2

EOS = 1


class FakeLLM:
    """Ends every completion at once, and keeps how it was made and how many completions each call asked for."""

    made: ClassVar[list] = []
    calls: ClassVar[list] = []
    lives = 1_000_000  # calls until it is killed

    def __init__(self, model, **options):
        self.made.append(options)
        self.model_config = SimpleNamespace(max_model_len=options.get("max_model_len", 512))

    def generate(self, prompts, params, use_tqdm):
        if len(self.calls) == self.lives:
            raise KeyboardInterrupt
        self.calls.append(len(prompts))
        output = SimpleNamespace(token_ids=(EOS,), logprobs=[{EOS: SimpleNamespace(logprob=-1.0)}])
        return [SimpleNamespace(outputs=[output]) for _ in prompts]


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = type("LLM", (FakeLLM,), {"made": [], "calls": []}), SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(adapter, "find_spec", lambda name: name)
    return module.LLM


@pytest.fixture
def evaluate(tmp_path, tokenizer):
    tiny_qwen2().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"id": f"q{i}", "problem": f"What is {i}?", "answer": str(i), "kind": "exact"} for i in range(50)]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words):
        files = ["--model", tmp_path / "model", "--problems", tmp_path / "some.jsonl", "--out", tmp_path / "run"]
        return CliRunner().invoke(app, ["eval", *map(str, [*files, *words])])

    return run


def test_vllm_gets_thousands_at_a_time_and_its_options(vllm, evaluate):
    options = ["--vllm-tensor-parallel-size", 2, "--vllm-gpu-memory-utilization", 0.8, "--vllm-max-model-length", 300]
    result = evaluate("--engine", "vllm", "--samples", 100, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert vllm.calls == [4096, 904]
    assert vllm.made == [
        {
            "logprobs_mode": "processed_logprobs", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.8,
            "max_model_len": 300,
        }
    ]  # fmt: skip


def test_a_killed_run_loses_only_what_was_under_way(vllm, evaluate):
    vllm.lives = 2
    words = ["--engine", "vllm", "--samples", 1, "--batch-size", 20]
    assert evaluate(*words).exit_code == 130
    vllm.lives = 3
    assert evaluate(*words).exit_code == 0
    assert vllm.calls == [20, 20, 10]
    assert vllm.made[0] == {"logprobs_mode": "processed_logprobs"}  # the rest is vLLM's own


def test_its_options_are_refused_for_another_engine(evaluate):
    result = evaluate("--vllm-max-model-length", 300)
    assert (result.exit_code, result.stderr) == (2, "error: the options --vllm-... are for --engine vllm alone\n")
