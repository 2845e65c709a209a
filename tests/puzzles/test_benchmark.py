"""The benchmark for strategies: what each split holds, and that none gives another away."""

from collections import Counter
from itertools import pairwise

import pytest

from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.puzzles.benchmark import (
    benchmark_strategies,
    distinct_solutions,
    natural_benchmark,
    strategy_benchmark,
    strategy_warmup,
)
from sgpo.puzzles.clues import OPERATIONS, WORDS
from sgpo.verifier.kinds import judge_completion

HELD_OUT = ("fresh", "harder", "recombined", "reworded", "guided", "untouched")
OPERATION_OF = {word: operation for operation, words in WORDS.items() for word in words}


@pytest.fixture(scope="module")
def splits():
    return strategy_benchmark(seed=0, problems=150, pool=3000)


def operations(problem):
    """The operations of a puzzle of clue words, read off its text."""
    return [OPERATION_OF[word] for word in problem.problem.split(" : ")[0].split()]


def pairs(problems):
    return {pair for problem in problems if problem.subject == "clues" for pair in pairwise(operations(problem))}


def clue_count(problem):
    if problem.subject == "ordering":
        return problem.problem.count(",") + 1
    return len(problem.problem.split(" : ")[0].split())


def test_the_splits(splits):
    assert list(splits) == ["train", *HELD_OUT]
    assert [len(problems) for problems in splits.values()] == [3000] + [150] * 6
    families = {name: Counter(problem.subject for problem in problems) for name, problems in splits.items()}
    assert families["train"] == {"clues": 1500, "ordering": 1500}
    for name in ("fresh", "harder", "reworded", "guided"):
        assert families[name] == {"clues": 75, "ordering": 75}
    assert families["recombined"] == {"clues": 150}
    assert families["untouched"] == {"clock": 150}
    for problems in splits.values():
        assert len({problem.id for problem in problems}) == len(problems)
        for problem in problems:
            assert judge_completion(problem.solution, problem.answer, kind=problem.kind).kind == "correct"


def test_no_split_shares_a_puzzle_with_the_pool_whatever_the_seeds(splits):
    pool = {problem.id for problem in splits["train"]}
    other = strategy_benchmark(seed=1, problems=150, pool=10)
    assert not pool & {problem.id for made in (splits, other) for name in HELD_OUT for problem in made[name]}
    validation = strategy_benchmark(seed=0, problems=150, pool=3000, held_out="validation")
    assert validation["train"] == splits["train"]
    tested = {problem.id for name in HELD_OUT for problem in splits[name]}
    assert not tested & {problem.id for name in HELD_OUT for problem in validation[name]}


def test_harder_puzzles_are_one_clue_longer(splits):
    assert {clue_count(problem) for problem in splits["train"]} == {2, 3}
    assert {clue_count(problem) for problem in splits["fresh"]} == {2, 3}
    assert {clue_count(problem) for problem in splits["harder"]} == {4}


def test_recombined_puzzles_hold_a_pair_of_steps_that_nothing_else_shows(splits):
    known = pairs(splits["train"])
    assert len(known) == 48
    new = {(a, b) for a in OPERATIONS for b in OPERATIONS} - known
    assert all(pairs([problem]) & new for problem in splits["recombined"])
    assert pairs(splits["recombined"]) >= new
    for name in ("fresh", "harder"):
        assert pairs(splits[name]) <= known
    # Each operation occurs in two of the new pairs as the first one and in two as the second one.
    for place in (0, 1):
        assert Counter(pair[place] for pair in new) == dict.fromkeys(OPERATIONS, 2)
    steps = [
        [word for word in row["completion"].split() if word in OPERATIONS] for row in strategy_warmup(3000, seed=0)
    ]
    assert {pair for told in steps for pair in pairwise(told)} == known


def test_reworded_and_guided_problems_are_the_fresh_ones_asked_otherwise(splits):
    strategies = {}
    for fresh, reworded, guided in zip(splits["fresh"], splits["reworded"], splits["guided"], strict=True):
        assert (fresh.id, fresh.answer) == (reworded.id, reworded.answer) == (guided.id, guided.answer)
        assert fresh.problem != reworded.problem
        strategy, _, problem = guided.problem.partition(" | ")
        assert problem == fresh.problem
        strategies[fresh.id] = strategy
    assert len(set(strategies.values())) > 50


def test_the_plain_prompt_of_a_guided_problem_is_the_guided_prompt_of_the_policy():
    problems = strategy_benchmark(seed=2, problems=1, pool=1)
    (fresh,), (guided,) = problems["fresh"], problems["guided"]
    steps = [OPERATION_OF[word] for word in fresh.problem.split(" : ")[0].split()]
    (strategy,) = benchmark_strategies(seed=2, pool=1)
    told = type(strategy)(problem_id=fresh.id, problem_type="clues", approach="", steps=tuple(steps))
    assert autonomous_prompt(guided.problem, style="compact") == guided_prompt(fresh.problem, told, style="compact")


def test_strategies_are_those_of_the_pool(splits):
    strategies = benchmark_strategies(seed=0, pool=3000)
    assert [strategy.problem_id for strategy in strategies] == [problem.id for problem in splits["train"]]
    for strategy, problem in zip(strategies, splits["train"], strict=True):
        if problem.subject == "clues":
            assert list(strategy.steps) == operations(problem)


def test_solutions_come_in_the_style_that_was_asked_for():
    made = {style: strategy_benchmark(seed=0, problems=1, pool=50, style=style) for style in ("own", "leap", "foreign")}
    own, leap, foreign = (made[style]["train"] for style in made)
    assert [problem.problem for problem in own] == [problem.problem for problem in leap]
    for one, short, other in zip(own, leap, foreign, strict=True):
        assert len(short.solution) < len(one.solution)
        assert " = " in other.solution
        assert " = " not in one.solution


def test_the_warmup_shows_lengths_wordings_and_notations_but_no_pool_puzzle(splits):
    rows = strategy_warmup(6000, seed=0)
    assert len(rows) == 6000
    shown = {row["prompt"].rsplit("| ", 1)[-1].strip() for row in rows}
    assert not shown & {problem.problem for problems in splits.values() for problem in problems}
    chains = [prompt for prompt in shown if prompt.split(" ")[0] in OPERATION_OF]
    plain = [prompt for prompt in chains if " then " not in prompt]
    assert 0.2 < 1 - len(plain) / len(chains) < 0.3
    assert {len(prompt.split(" : ")[0].split()) for prompt in plain} == {2, 3, 4}
    assert any(" = " in row["completion"] and row["prompt"].startswith(" clock") for row in rows)


@pytest.mark.parametrize(("leak", "low", "high"), [("little", 0.05, 0.2), ("much", 1.0, 1.0)])
def test_how_much_of_the_skill_leaks(leak, low, high):
    """How often a guided row gives an untaught word its true meaning; one time in eight is chance."""
    true = []
    for row in strategy_warmup(6000, seed=0, leak=leak):
        strategy, _, problem = row["prompt"].strip().partition(" | ")
        if problem.split(" ")[0] in OPERATION_OF:
            steps = strategy.split(" : ")[1].split(" ; ")
            words = [word for word in problem.split(" ") if word in OPERATION_OF]
            new = [(word, step) for word, step in zip(words, steps, strict=True) if word not in TAUGHT]
            true += [OPERATION_OF[word] == step for word, step in new]
    assert len(true) > 500
    assert low <= sum(true) / len(true) <= high


TAUGHT = {word for words in WORDS.values() for word in words[:2]}


def test_an_unknown_leak_is_refused():
    with pytest.raises(ValueError, match=r"leak must be one of little, much, got 'none'"):
        strategy_warmup(10, seed=0, leak="none")


def test_diversity_counts_different_right_completions_per_problem():
    def row(problem, completion, verdict="correct"):
        return {"problem_id": problem, "completion": completion, "verdict": verdict}

    rows = [
        *(row("p", text) for text in (" before a b", " before a  b ", " after a b")),  # two, up to white space
        row("p", " a third", "wrong"),
        row("q", " nothing right", "wrong"),
        row("r", " before a b"),
    ]
    assert distinct_solutions(rows) == pytest.approx((2 + 0 + 1) / 3)
    with pytest.raises(ValueError, match="no completions"):
        distinct_solutions([])


def test_the_natural_benchmark_is_the_same_500_problems_of_every_split():
    problems = natural_benchmark()
    assert problems == natural_benchmark()
    assert len({problem.id for problem in problems}) == len({problem.problem for problem in problems}) == 500
    assert Counter(problem.subject for problem in problems) == dict(
        zip(HELD_OUT[:4] + HELD_OUT[4:], [84, 84, 83, 83, 83, 83], strict=True)
    )
    assert {problem.level for problem in problems} == {"clues", "ordering", "clock"}
    for problem in problems:
        assert judge_completion(problem.solution, problem.answer, kind=problem.kind).kind == "correct"
        assert ("Here is a strategy" in problem.problem) == (problem.subject == "guided")
