"""Seconds of a training step: SGPO and GRPO here, and TRL's GRPOTrainer, side by side.

    OMP_NUM_THREADS=2 python benchmarks/step.py [--steps 6] [--rounds 2] [--only NAME ...] [--json]
    OMP_NUM_THREADS=2 python benchmarks/step.py --profile

One random Qwen2 of 1.4M parameters over 48 words, so that a completion of up to 96 tokens ends by chance (41 on
average); 16 prompts x 12 completions a step, half of them rewarded, so that every group has a gradient; for SGPO 8 + 4,
a constant weight and a target for every problem, which costs it the most. TRL runs in the ways that could suit it best:
all rows at once, in four micro-batches, and with a static cache. Each measurement runs in a process of its own and the
first step does not count; the forms take turns. Seconds are the processor's, all threads together.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as sgpo/cli/__init__.py

PROBLEMS, GROUP, NEW_TOKENS = 16, 12, 96
WORDS = [f"w{i}" for i in range(45)]
OURS = {
    "grpo": {"algorithm": "grpo", "num_autonomous": GROUP},
    "sgpo": {"algorithm": "sgpo", "num_autonomous": 8, "num_guided": 4, "distill_weight": "constant"},
    "grpo, 4,096 tokens a batch": {"algorithm": "grpo", "num_autonomous": GROUP, "max_tokens_per_batch": 4096},
}
TRL = {
    "trl": {"per_device_train_batch_size": PROBLEMS * GROUP},
    "trl, 4 micro-batches": {
        "per_device_train_batch_size": PROBLEMS * GROUP // 4,
        "gradient_accumulation_steps": 4,
    },
    "trl, static cache": {
        "per_device_train_batch_size": PROBLEMS * GROUP,
        "generation_kwargs": {"cache_implementation": "static"},
    },
}


def build_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model():
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(WORDS) + 3,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def words(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def rewarded(text):
    """Half of all completions, by chance."""
    return random.Random(text).random() < 0.5


def clock_of_steps():
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.times = []

        def on_step_end(self, *_args, **_kwargs):
            self.times.append((time.process_time(), time.perf_counter()))

    return Clock()


def run_ours(options, steps, folder):
    from sgpo import Problem, SGPOConfig, SGPOTrainer, Strategy, StrategyBank

    rng = random.Random(0)
    problems = [Problem(id=f"p{i}", problem=words(rng, 8, 24), answer="0") for i in range(PROBLEMS * (steps + 1))]
    bank = StrategyBank(folder / "bank.db")
    for problem in problems:
        bank.add(
            Strategy(
                problem_id=problem.id,
                problem_type=words(rng, 2, 4),
                approach=words(rng, 6, 12),
                steps=[words(rng, 4, 8) for _ in range(3)],
            )
        )
    args = SGPOConfig(
        output_dir=str(folder / "run"), per_device_train_batch_size=PROBLEMS, max_completion_length=NEW_TOKENS,
        prompt_style="compact", max_steps=steps + 1, learning_rate=1e-6, save_strategy="no", use_cpu=True, bf16=False,
        report_to="none", disable_tqdm=True, **options,
    )  # fmt: skip
    clock = clock_of_steps()
    trainer = SGPOTrainer(
        build_model(), args, problems, processing_class=build_tokenizer(), bank=bank, callbacks=[clock],
        verifier=lambda completion, problem: float(rewarded(completion)),
    )  # fmt: skip
    trainer.train()
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()][1:-1]
    phases = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key.startswith("time/")}
    return clock.times, sum(row["tokens"] for row in rows) / len(rows), phases


def run_trl(options, steps, folder):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rng = random.Random(0)
    prompts = [{"prompt": words(rng, 8, 24)} for _ in range(PROBLEMS * (steps + 1))]
    args = GRPOConfig(
        output_dir=str(folder / "run"), num_generations=GROUP, max_completion_length=NEW_TOKENS, max_steps=steps + 1,
        learning_rate=1e-6, beta=0.0, epsilon_high=0.28, temperature=1.0, top_k=0, top_p=1.0, save_strategy="no",
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, logging_steps=1,
        **options,
    )  # fmt: skip
    clock, tokens = clock_of_steps(), []

    def reward(completions, completion_ids, **_):
        tokens.append(sum(map(len, completion_ids)))
        return [float(rewarded(text)) for text in completions]

    GRPOTrainer(
        build_model(), reward_funcs=reward, args=args, train_dataset=Dataset.from_list(prompts),
        processing_class=build_tokenizer(), callbacks=[clock],
    ).train()  # fmt: skip
    return clock.times, statistics.mean(tokens[1:]), {}


def measure(name, steps, queue):
    import warnings

    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    # TRL prints its metrics.
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sink, redirect_stdout(sink):
        run = run_ours if name in OURS else run_trl
        times, tokens, phases = run((OURS | TRL)[name], steps, Path(folder))
    cpu, wall = zip(*times, strict=True)
    queue.put(
        {
            "cpu_seconds": statistics.median(b - a for a, b in pairwise(cpu)),
            "seconds": statistics.median(b - a for a, b in pairwise(wall)),
            "tokens": tokens,
            "phases": phases,
        }
    )


def profile(steps=3):
    """The operators that take most of the processor's time in SGPO's steps."""
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_ours(OURS["sgpo"], steps, Path(folder))
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *TRL], default=[*OURS, *TRL])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.profile:
        profile()
        return
    context = multiprocessing.get_context("spawn")
    results = {name: [] for name in args.only}
    for _ in range(args.rounds):
        for name in args.only:
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, args.steps, queue))
            process.start()
            results[name].append(queue.get())
            process.join()
    table = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("cpu_seconds", "seconds", "tokens")}
        | {"phases": runs[-1]["phases"]}
        for name, runs in results.items()
    }
    if args.json:
        print(json.dumps(table, indent=2))
        return
    for name, row in table.items():
        ratios = "".join(
            f", {row['cpu_seconds'] / table[other]['cpu_seconds']:.2f} x {other}"
            for other in ("grpo", *TRL)
            if other in table and other != name
        )
        print(f"{name}: {row['cpu_seconds']:.2f} CPU s, {row['seconds']:.2f} s, {row['tokens']:.0f} tokens{ratios}")
        if row["phases"]:
            print(
                "   ", ", ".join(f"{key.removeprefix('time/')} {value:.2f} s" for key, value in row["phases"].items())
            )


if __name__ == "__main__":
    main()
