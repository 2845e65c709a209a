"""A model of the shape of Qwen2.5-1.5B (random, bfloat16) takes a whole step on a CPU within 20 GiB.

By hand, some minutes: `python -m pytest -m slow tests/training/test_large_shape.py`. The step runs in a process of its
own (this file as a script), whose peak of resident memory is what counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_step_of_the_1_5b_shape_fits_in_20_gib(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.test_large_shape", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][:1]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print({"peak_gib": round(peak, 1), "row": row})
    assert row["loss/distill"] > 0
    assert row["grad_norm"] > 0
    assert peak < 20


def take_a_step(home: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from tests.training.building import build_trainer, some_problems

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = list(range(1, 151_936, 8))  # so that completions end, and can be targets
    verdicts = cycle([1.0, 0.0])
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    trainer = build_trainer(
        home / "run", tokenizer, model=model, problems=some_problems(2), per_device_train_batch_size=2,
        distill_weight="constant", max_completion_length=16, optim="adamw_torch", learning_rate=1e-6, bf16=True,
        verifier=lambda completion, problem: next(verdicts), gradient_checkpointing=True,
        max_tokens_per_batch=256, max_grad_norm=1.0,
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    take_a_step(Path(sys.argv[1]))
