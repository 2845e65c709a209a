"""What the guided prompt shows: the strategy, or what an ablation puts in its place."""

from __future__ import annotations

import dataclasses

import pytest

from sgpo import Problem, SGPOConfig, Strategy, StrategyBank
from sgpo.errors import InputError
from sgpo.puzzles import FAMILIES, mix_puzzles, select_families
from sgpo.training.guidance import gives_away, guidance_for
from tests.training.building import bank_of, build_trainer, some_problems


def shown(problems, bank, **options):
    defaults = {"use": "own", "content": "own", "wrong_fraction": 0.0, "style": "compact", "seed": 0}
    return guidance_for(problems, bank, **(defaults | options))


@pytest.fixture
def problems():
    return some_problems(20)


@pytest.fixture
def bank(tmp_path, problems):
    return bank_of(tmp_path / "bank.db", problems[:19])  # the last problem has no strategy


def test_own_strategies(problems, bank):
    guidance = shown(problems, bank)
    assert list(guidance) == [f"q{i}" for i in range(19)]
    assert guidance["q1"].prompt == " sum : do q1 ; ! | 1+?"
    assert guidance["q1"].strategy == bank.get("q1")


def test_another_problems_strategy(problems, bank):
    guidance = shown(problems, bank, content="other")
    assert len(guidance) == 19
    sources = {id_: g.strategy.problem_id for id_, g in guidance.items()}
    assert all(source != id_ for id_, source in sources.items())
    assert len(set(sources.values())) > 5
    assert guidance["q1"].prompt == f" sum : do {sources['q1']} ; ! | 1+?"
    assert shown(problems, bank, content="other") == guidance
    assert shown(problems, bank, content="other", seed=1) != guidance


def test_a_strategy_that_says_the_same_is_no_other_one(tmp_path):
    bank = StrategyBank(tmp_path / "same.db")
    problems = some_problems(3)
    for problem, step in zip(problems, ("a", "a", "b"), strict=True):
        bank.add(Strategy(problem.id, "sum", "count", (step,)))
    steps = {id_: g.strategy.steps for id_, g in shown(problems, bank, content="other").items()}
    assert (steps["q0"], steps["q1"], steps["q2"]) == (("b",), ("b",), ("a",))
    with pytest.raises(ValueError, match="no other strategy for problem 'q0': all 2 say the same"):
        shown(problems[:2], bank, content="other")


def test_an_empty_strategy_names_the_kind_of_problem_alone(problems, bank):
    guidance = shown(problems, bank, content="empty")
    assert guidance["q1"].prompt == " sum : | 1+?"
    assert guidance["q1"].strategy is None
    math = shown(problems, bank, content="empty", style="math")["q1"].prompt
    assert "Problem type: sum" in math
    assert "count" not in math
    assert "do q1" not in math


def test_the_solution_in_the_strategys_place(problems):
    solved = [dataclasses.replace(problems[0], solution=" one two"), problems[1]]
    guidance = shown(solved, None, content="solution")
    assert {id_: (g.prompt, g.strategy) for id_, g in guidance.items()} == {"q0": (" one two | 0?", None)}
    assert "one two" in shown(solved, None, content="solution", style="math")["q0"].prompt


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 19)])
def test_a_share_of_wrong_strategies(problems, bank, share, count):
    wrong = {id_ for id_, g in shown(problems, bank, wrong_fraction=share).items() if g.strategy.problem_id != id_}
    assert len(wrong) == count
    more = {id_ for id_, g in shown(problems, bank, wrong_fraction=1.0).items() if g.strategy.problem_id != id_}
    assert wrong <= more


def test_the_wrong_ones_of_a_small_share_are_among_those_of_a_larger(problems, bank):
    wrong = [
        {id_ for id_, g in shown(problems, bank, wrong_fraction=share).items() if g.strategy.problem_id != id_}
        for share in (0.25, 0.5)
    ]
    assert wrong[0] < wrong[1]


def test_the_trainer_shows_it_and_keeps_it_out_of_the_banks_effects(tmp_path, tokenizer):
    problems = some_problems()
    bank = bank_of(tmp_path / "bank.db", problems)
    trainer = build_trainer(tmp_path / "other", tokenizer, problems=problems, bank=bank, strategy_content="other")
    trainer.train()
    prompts = {tokenizer.decode(ids) for ids in trainer.engine.calls[0][0]}
    assert " sum : do q0 ; ! | 0?" not in prompts
    assert len([prompt for prompt in prompts if prompt.endswith("| 0?")]) == 1
    assert all(bank.effect(bank.get(problem.id).id).uplift is None for problem in problems)
    build_trainer(tmp_path / "own", tokenizer, problems=problems, bank=bank).train()
    assert any(bank.effect(bank.get(problem.id).id).uplift is not None for problem in problems)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy_content": "theirs"}, "strategy_content must be one of own, other, empty, solution, got 'theirs'"),
        ({"wrong_strategy_fraction": 1.5}, r"wrong_strategy_fraction must lie in \[0, 1\], got 1.5"),
        ({"wrong_strategy_fraction": float("nan")}, "wrong_strategy_fraction must lie in"),
        ({"wrong_strategy_fraction": 0.5, "strategy_content": "empty"}, "needs strategy_content='own', got 'empty'"),
        ({"num_targets": 0}, "num_targets must be at least 1"),
        ({"off_policy_shaping": 0.0}, "off_policy_shaping must be positive"),
        ({"imitation_threshold": -0.1}, "imitation_threshold must be at least 0"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SGPOConfig(output_dir=str(tmp_path), use_cpu=True, **options)


# -- the leak gate


def leaky_bank(path, problems, leaks, **fields):
    """A bank in which the strategies of `leaks` state the answer."""
    bank = bank_of(path, [problem for problem in problems if problem.id not in leaks])
    for problem in problems:
        if problem.id in leaks:
            steps = ("Count", f"The answer is {problem.answer}.")
            bank.add(Strategy(problem.id, "sum", "count", steps, **fields))
    return bank


@pytest.fixture
def larger():
    """Problems without numbers, whose answers stand nowhere else."""
    return [Problem(id=f"q{i}", problem=f"{'+' * i}?", answer=str(70 + i)) for i in range(20)]


def test_a_strategy_that_gives_its_problem_away_is_not_shown(tmp_path, tokenizer, larger, caplog):
    bank = leaky_bank(tmp_path / "bank.db", larger, ["q3", "q4"])
    trainer = build_trainer(tmp_path / "run", tokenizer, problems=larger, bank=bank)
    groups = trainer.prepared.groups
    assert {id_ for id_, group in groups.items() if group.guided_prompt is None} == {"q3", "q4"}
    assert trainer.describe()["strategies"]["leaking"] == 2
    names = ", ".join(bank.for_problem(problem).id for problem in larger[3:5])
    assert f"bank.db: 2 of 20 strategies to show give away something of their problem (such as {names})" in caplog.text
    assert "0 with a guided prompt that is too long, 2 whose strategy leaks" in caplog.text


def test_more_than_a_tenth_of_leaks_is_refused(tmp_path, tokenizer, larger):
    bank = leaky_bank(tmp_path / "bank.db", larger, ["q3", "q4", "q5"])
    with pytest.raises(
        InputError, match=r"bank\.db: 3 of 20 strategies .* `sgpo strategies check` .* `sgpo strategies rev"
    ):
        build_trainer(tmp_path / "run", tokenizer, problems=larger, bank=bank, allow_unguided=True)


def test_what_shows_no_strategy_is_not_gated(tmp_path, tokenizer, larger, caplog):
    solved = [dataclasses.replace(problem, solution=f" It is {problem.answer}.") for problem in larger]
    bank = leaky_bank(tmp_path / "bank.db", larger, [problem.id for problem in larger])
    for content in ("solution", "empty"):
        trainer = build_trainer(
            tmp_path / content, tokenizer, problems=solved, bank=bank, strategy_content=content, max_prompt_length=99
        )
        assert all(group.guided_prompt for group in trainer.prepared.groups.values())
    build_trainer(tmp_path / "grpo", tokenizer, problems=solved, bank=bank, algorithm="grpo")
    assert "give away" not in caplog.text


def test_a_person_accepts_a_strategy_for_its_own_problem(larger):
    said = Strategy("q1", "sum", "count", ("The answer is 71.",), reviewed="2026-11-01T00:00:00+00:00")
    assert not gives_away(said, larger[1])
    assert gives_away(dataclasses.replace(said, reviewed=None), larger[1])
    # Retrieved for a problem with the same answer it is judged by that one; for another answer it says nothing.
    assert gives_away(said, dataclasses.replace(larger[2], answer="71"))
    assert not gives_away(said, larger[2])


def test_the_puzzles_strategies_are_all_shown():
    for puzzle in mix_puzzles(select_families(list(FAMILIES)), 120, split="train", seed=3):
        assert not gives_away(puzzle.to_strategy(), puzzle.to_problem())


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, True), ({"wrong_strategy_fraction": 0.5}, False), ({"strategy_content": "other"}, False)],
)
def test_the_bank_learns_of_strategies_that_the_right_problems_were_shown(tmp_path, tokenizer, options, told):
    bank = bank_of(tmp_path / "bank.db", some_problems())
    build_trainer(tmp_path / "run", tokenizer, bank=bank, **options).train()
    assert (bank.total_effect()[1].guided_total > 0) is told
