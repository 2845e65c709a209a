"""Tokens per second of the `hf` engine against plain `generate` with its dynamic cache, side by side.

    OMP_NUM_THREADS=2 python benchmarks/generation.py [--rounds 3] [--json]

The quickstart's policy with random weights, 16 prompts x 12 completions of up to 96 tokens, all rows at once. `lengths
as they fall`: the end token has the chance of any other, so rows end at all lengths; `full length`: none ends. Each
`generate` call gets the same prompts and the same options as ours; both are asked greedily too, and must agree.
Seconds are the processor's.
"""

import argparse
import json
import os
import random
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as sgpo/cli/__init__.py; before torch is loaded

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from sgpo.puzzles.policy import build_policy, build_tokenizer
from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.hf import HFEngine

PROBLEMS, GROUP, NEW_TOKENS = 16, 12, 96


def plain_generate(model, prompts, *, pad_id, eos_ids, sample):
    longest = max(map(len, prompts))
    input_ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=sample, top_k=0, top_p=1.0, temperature=1.0, use_cache=True,
        eos_token_id=eos_ids, pad_token_id=pad_id,
    )  # fmt: skip
    with torch.no_grad():
        output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)
    rows = output[:, longest:].tolist()
    return [row[: next((t + 1 for t, token in enumerate(row) if token in eos_ids), len(row))] for row in rows]


def timed(function):
    cpu, wall = time.process_time(), time.perf_counter()
    rows = function()
    tokens = sum(map(len, rows))
    return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.set_verbosity_error()
    tokenizer = build_tokenizer()
    model = build_policy(tokenizer, seed=0).eval()
    pad_id = tokenizer.pad_token_id
    rng = random.Random(0)
    problems = [[rng.randrange(260, len(tokenizer)) for _ in range(rng.randint(20, 40))] for _ in range(PROBLEMS)]
    prompts = [prompt for prompt in problems for _ in range(GROUP)]
    # Many end tokens make rows end early: one token in 64.
    ends = {"lengths as they fall": list(range(1, len(tokenizer), 64)), "full length": [pad_id]}
    table = {}
    for name, eos_ids in ends.items():
        engine = HFEngine(model, pad_id=pad_id, eos_ids=eos_ids, batch_size=len(prompts))

        def ours(temperature, engine=engine):
            sampling = Sampling(max_tokens=NEW_TOKENS, temperature=temperature)
            return [c.token_ids for c in engine.generate(prompts, sampling, seeds=list(range(len(prompts))))]

        def theirs(sample, eos_ids=eos_ids):
            return plain_generate(model, prompts, pad_id=pad_id, eos_ids=eos_ids, sample=sample)

        assert ours(0.0) == theirs(False), "greedy decoding differs"
        rounds = [(timed(lambda: ours(1.0)), timed(lambda: theirs(True))) for _ in range(args.rounds)]
        table[name] = {
            "ours": round(statistics.median(o[0] for o, _ in rounds)),
            "generate": round(statistics.median(t[0] for _, t in rounds)),
            "ratio": round(statistics.median(o[0] / t[0] for o, t in rounds), 2),
            "ratio_by_wall": round(statistics.median(o[1] / t[1] for o, t in rounds), 2),
        }
    if args.json:
        print(json.dumps(table, indent=2))
        return
    for name, row in table.items():
        print(
            f"{name}: ours {row['ours']:,} tokens per CPU second, generate {row['generate']:,}: "
            f"{row['ratio']:.2f} times as fast ({row['ratio_by_wall']:.2f} by the clock)"
        )


if __name__ == "__main__":
    main()
