"""Measure how well the study's warmed-up policies solve problems whose solution they are shown.

OPSD's frozen guided model is such a policy, so this is the best that OPSD can imitate.

    python -m research.solution_readers little 0 1 2       # the policies of the main table
    python -m research.solution_readers readers 0 1 2      # the policies of the table `readers`

`python -m research` makes these policies. 150 training problems, one completion each, T = 1.
"""

from __future__ import annotations

import argparse
from typing import get_args

from research.plan import SHIPPED, WarmupKind, load_study
from research.run import warm_model
from sgpo.prompts import solution_guided_prompt
from sgpo.puzzles.base import SolutionStyle
from sgpo.puzzles.benchmark import strategy_benchmark
from sgpo.rollouts.engine import Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.groups import seed_of
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.models import load_policy, load_tokenizer
from sgpo.training.run_directory import RunDirectory
from sgpo.verifier import Verifier

PROBLEMS = 150


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m research.solution_readers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=get_args(WarmupKind))
    parser.add_argument("warmups", type=int, nargs="+")
    options = parser.parse_args()
    study = load_study(SHIPPED)
    styles: tuple[SolutionStyle, ...] = get_args(SolutionStyle)
    with Verifier(workers=1) as verifier:
        for warmup in options.warmups:
            model = str(RunDirectory(warm_model(study, options.kind, warmup)).warm_model)
            rates = {style: solved_fraction(model, style, verifier) for style in styles}
            print(f"{options.kind}-{warmup}: " + ", ".join(f"{style} {rate:.2f}" for style, rate in rates.items()))


def solved_fraction(model: str, style: SolutionStyle, verifier: Verifier) -> float:
    """The fraction of problems that a policy solves when it is shown their solutions in this style."""
    tokenizer, policy = load_tokenizer(model), load_policy(model)
    engine = HFEngine(policy, pad_id=tokenizer.pad_token_id, eos_ids=end_token_ids(policy, tokenizer))
    pool = strategy_benchmark(seed=1000, problems=100, pool=200, style=style, held_out="validation")["train"]
    problems = pool[:PROBLEMS]
    prompts = []
    for problem in problems:
        assert problem.solution is not None
        prompts.append(
            encode_prompt(tokenizer, solution_guided_prompt(problem.problem, problem.solution, style="compact"))
        )
    seeds = [seed_of(1, i) for i in range(len(prompts))]
    completions = engine.generate(prompts, Sampling(max_tokens=48), seeds=seeds)
    texts = tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
    verdicts = verifier.verify_many(list(zip(texts, problems, strict=True)))
    return sum(verdict.kind == "correct" for verdict in verdicts) / len(problems)


if __name__ == "__main__":
    main()
