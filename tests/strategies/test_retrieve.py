from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sgpo.problems import Problem
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.retrieve import Retriever, Vectors, group_numbers
from sgpo.strategies.strategy import Strategy

TRAINS = Strategy(
    problem_id="trains",
    problem_type="Two trains that travel toward each other",
    approach="Add the speeds, for the distance between them shrinks by both.",
    steps=("Add both speeds.", "Divide the distance by the sum."),
    when_to_use="When two vehicles approach each other along a road or track.",
)
DICE = Strategy(
    problem_id="dice",
    problem_type="Probability of an event with several dice",
    approach="Count the outcomes that are favourable among all that are equally likely.",
    steps=("Count all outcomes.", "Count the favourable outcomes.", "Divide."),
    when_to_use="When fair dice or coins are thrown.",
)
TRAINS_AGAIN = Strategy(
    problem_id="cyclists",
    problem_type="Two trains travelling toward each other",
    approach="Their speeds add.",
    steps=("Add both of the speeds.", "Divide the distance by that sum."),
)
CARS = Problem(
    id="cars", problem="Two cars travel toward each other on a road at 50 and 60 km/h. When do they meet?", answer="1"
)
ROLLS = Problem(
    id="rolls", problem="Three fair dice are thrown. What is the probability that all outcomes are even?", answer="1/8"
)
GARDEN = Problem(id="garden", problem="A gardener waters roses with a hose.", answer="0")


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[StrategyBank]:
    with StrategyBank(tmp_path / "bank.db") as opened:
        for strategy in (TRAINS, DICE):
            opened.add(strategy)
        yield opened


def test_a_problem_without_a_strategy_gets_one_of_its_kind_and_it_says_so(bank: StrategyBank) -> None:
    found = bank.for_problem(CARS, use="both")
    assert found == TRAINS
    assert found.problem_id != CARS.id
    assert bank.for_problem(ROLLS, use="both") == DICE
    assert bank.for_problem(GARDEN, use="both") is None


def test_own_strategies_retrieved_ones_or_both(bank: StrategyBank) -> None:
    mine = Strategy(problem_id="cars", problem_type="My own", approach="a", steps=("s",))
    assert bank.for_problem(CARS) is None
    bank.add(mine)
    assert bank.for_problem(CARS) == mine
    assert bank.for_problem(CARS, use="both") == mine
    assert bank.for_problem(CARS, use="retrieved") == TRAINS
    with pytest.raises(ValueError, match="use must be 'own', 'retrieved' or 'both', got 'all'"):
        bank.for_problem(CARS, use="all")  # type: ignore[arg-type]


def test_the_index_follows_what_is_written_here_and_elsewhere(bank: StrategyBank) -> None:
    assert bank.for_problem(CARS, use="both") == TRAINS
    bank.drop(TRAINS.id)
    assert bank.for_problem(CARS, use="both") is None
    with StrategyBank(bank.path) as elsewhere:
        elsewhere.add(TRAINS)
    assert bank.for_problem(CARS, use="both") == TRAINS


def test_the_text_of_the_strategys_own_problem_counts(bank: StrategyBank) -> None:
    assert bank.for_problem(GARDEN, use="both") is None
    vague = Strategy(problem_id="hose", problem_type="Rates", approach="Multiply.", steps=("Multiply.",))
    hose = Problem(id="hose", problem="A gardener waters tulips with a hose for an hour.", answer="60")
    bank.record_outcome(hose, "key", "active", candidates=[vague], active=vague)
    assert bank.for_problem(GARDEN, use="both") == vague


def test_near_duplicates_share_a_group() -> None:
    assert group_numbers([TRAINS, DICE, TRAINS_AGAIN]) == [0, 1, 0]
    assert group_numbers([]) == []


def test_groups_that_a_later_strategy_links_are_one() -> None:
    degrees = [0, 90, 60, 30, 200]  # cosines: 30 apart is alike (0.87), 60 apart is not (0.5)
    strategies = [Strategy(f"p{i}", "t", "a", (f"step {i}",)) for i in range(len(degrees))]
    vectors = np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], dtype=np.float32)
    assert group_numbers(strategies, embed=lambda texts: vectors) == [0, 0, 0, 0, 4]


def test_of_a_group_the_preferred_one_is_taken() -> None:
    for preferred in (TRAINS, TRAINS_AGAIN):
        retriever = Retriever([TRAINS, DICE, TRAINS_AGAIN], preference={preferred.id: 0.5})
        match = retriever.find(CARS.problem, problem_id=CARS.id)
        assert match is not None
        assert match.strategy == preferred
        assert 0 < match.similarity < 1


def test_an_embedding_may_take_the_place_of_words(bank: StrategyBank) -> None:
    def embed(texts: list[str]) -> Vectors:
        about_dice = [float("dice" in text or "gardener" in text) for text in texts]
        return np.array([[value, 1 - value] for value in about_dice], dtype=np.float32)

    assert bank.for_problem(GARDEN, use="both", embed=embed) == DICE
    assert bank.for_problem(CARS, use="both", embed=embed) == TRAINS


def test_no_strategies_and_strange_texts() -> None:
    assert Retriever([]).find("anything", problem_id="p") is None
    assert Retriever([TRAINS]).find("", problem_id="p") is None
    assert Retriever([TRAINS]).find("§§§ 123", problem_id="p") is None
