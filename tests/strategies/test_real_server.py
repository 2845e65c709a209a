"""Extraction against `transformers serve` with a tiny random model: its garbage must end as counted failures."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sgpo.problems import Problem
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import Extraction, extract_strategies
from sgpo.strategies.ledger import Ledger
from sgpo.strategies.stats import bank_stats
from sgpo.strategies.strong_model import StrongModel
from sgpo.verifier import Verifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("uvicorn") or not find_spec("fastapi"), reason="pip install fastapi uvicorn"),
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
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.max_new_tokens = 64
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a running `transformers serve`, and the model's name there."""
    folder = tmp_path_factory.mktemp("model")
    save_random_model(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--port", str(port)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                if process.poll() is not None:
                    pytest.fail((folder / "log").read_text()[-3000:])
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(30)


def test_a_random_models_garbage_ends_as_counted_failures(served: tuple[str, str], tmp_path: Path) -> None:
    url, name = served
    problem = Problem(id="p", problem="What is 1 plus 1?", answer="2", solution="The answer is 2", kind="exact")

    async def run(bank: StrategyBank) -> Extraction:
        async with StrongModel(
            base_url=url, model=name, key="x", cache=Ledger(bank), concurrency=2, timeout=120
        ) as model:
            with Verifier() as verifier:
                return await extract_strategies([problem], bank, model, verifier, candidates=2)

    with StrategyBank(tmp_path / "bank.db") as bank:
        report = asyncio.run(run(bank))
        assert (report.failed, report.kept, report.unfinished) == (1, 0, 0)
        assert report.unusable_answers == 3 * 2  # two candidates, asked for three times
        counts = bank_stats(bank)
        # This server gives one choice at a time, whatever `n` says.
        assert (counts["failed"], counts["requests"]) == (1, 6)
        assert Ledger(bank).failures()[0]["raw"]
