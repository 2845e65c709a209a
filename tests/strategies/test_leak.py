from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgpo.problems import Problem
from sgpo.strategies.leak.gate import find_leaks
from sgpo.strategies.strategy import Leak, Strategy, strategy_from_json

PROBLEM = (
    "A farmer sells 48 crates in April and half as many in May. Each crate weighs fifteen kilograms, and 4% of "
    "them are lost on the way. How many crates does he sell altogether?"
)
SOLUTION = "In May he sells 48/2 = 24 crates. Together that is 48 + 24 = 72 crates."


def leaks_of(text: str, answer: str = "72") -> list[Leak]:
    strategy = Strategy(problem_id="p", problem_type="Related amounts", approach="Add both.", steps=("Begin.", text))
    problem = Problem(id="p", problem=PROBLEM, answer=answer, solution=SOLUTION)
    return find_leaks(strategy, problem)


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("You end at 72 crates.", "answer", "72"),
        ("You end at seventy-two.", "answer", "seventy-two"),
        ("It is six dozen.", "answer", "six dozen"),
        ("Compute $8\\cdot 9$.", "answer", "8\\cdot 9"),
        ("It falls two short of seventy-four.", "answer", "two short of seventy-four"),
        ("Start from the 48 crates.", "number", "48"),
        ("Start from forty-eight crates.", "number", "forty-eight"),
        ("A crate weighs 15 kilograms.", "number", "15"),
        ("Then May has 24 crates.", "intermediate", "24"),
        (
            "Note that he sells crates in April and half as many in May, so add.",
            "verbatim",
            "sells crates in April and half as many in May",
        ),
    ],
)
def test_what_leaks_is_named_with_its_place(text: str, kind: str, found: str) -> None:
    assert Leak(kind=kind, text=found, where="steps[1]") in leaks_of(text)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("\\frac{3}{4}", "The chance is 0.75."),
        ("\\frac{2}{9}", "It is $0.\\overline{2}$."),
        ("\\frac{2}{9}", "It is about 22.2%."),
        ("70,\\!000", "It is seventy thousand."),
        ("45", "It takes three quarters of an hour."),
        ("80", "It takes an hour and twenty minutes."),
        ("12.50", "It costs 12 dollars and 50 cents."),
        ("\\frac{3}{4}", "The chance is 75%."),
        ("\\frac{3}{4}", "Three out of four is what remains."),
        ("2\\sqrt{3}", "It is roughly 3.46 long."),
        ("2\\sqrt{3}", "It is twice the square root of three."),
        ("\\frac{\\pi}{3}", "The angle is sixty degrees."),
        ("1.5", "That takes 90 minutes, or one and a half hours."),
        ("5", "So the answer is five."),
        ("5", "Then $x = 5$."),
        ("2", "There are exactly two such lines."),
        ("-3", "It must be negative three."),
        ("(-2,1)", "Then $a = -2$ and $b = 1$."),
        ("\\begin{pmatrix} -1/3 \\\\ 2/3 \\end{pmatrix}", "The vector points to $(-1/3, 2/3)$."),
        ("6 - 5i", "Look at the point $(6,-5)$."),
        ("3,5,7", "The primes are 3, 5 and 7."),
        ("\\text{Evelyn}", "The fastest was Evelyn."),
        ("\\text{ellipse}", "The curve is an ellipse."),
    ],
)
def test_answers_are_found_in_other_notations(answer: str, text: str) -> None:
    assert "answer" in {leak.kind for leak in leaks_of(text, answer)}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("72", "Take half of the first amount, then add both."),
        ("3", "Distinguish three cases and solve the three equations."),
        ("3", "As in step 3, check the result."),
        ("4", "Use the quadratic formula with the discriminant $b^2-4ac$ and divide by $2a$."),
        ("6", "Use $n(n+1)(2n+1)/6$ for a sum of squares."),
        ("2", "Square both sides; the two roots may not both be valid."),
        ("3", "Look at the right triangle with sides 3-4-5."),
        ("0", "Set the derivative equal to zero."),
        ("1", "Use that all probabilities add up to 1."),
        ("9", "A number is divisible by 9 when its digits add up to a multiple of it."),
        ("60", "One hour has 60 minutes."),
        ("12", "A year has 12 months, so divide 12 by the interval."),
        ("180", "The angles of a triangle add up to 180 degrees."),
        ("\\frac{1}{2}", "The area is $\\frac12\\cdot\\text{base}\\cdot\\text{height}$."),
        ("4", "Divide the percentage by 100."),
        ("\\text{ellipse}", "Decide whether the conic is a circle, an ellipse or a hyperbola."),
    ],
)
def test_numbers_of_the_method_are_no_leaks(answer: str, text: str) -> None:
    assert leaks_of(text, answer) == []


# Strategies written for GSM8K, of which the gate named 20 in 1,000; these are numbers of the method.
@pytest.mark.parametrize(
    ("text", "problem", "solution"),
    [
        ("Multiply the number of dozens by twelve.", "He buys 4 dozen cakes.", "4*12 = 48"),
        ("Multiply by the items in a dozen, which is twelve.", "He buys 4 dozen cakes.", "4*12 = 48"),
        (
            "Multiply by twelve to get single items; a part of a dozen is that part.",
            "2 dozen",
            "2*12 = 24",
        ),
        ("Divide the remainder by sixty, since the answer is wanted in hours.", "11 hours", "180/60 = 3"),
        ("Divide by the seconds in an hour, which is sixty times sixty.", "360 GB", "7200/3600 = 2"),
        ("A gallon is one hundred twenty-eight ounces.", "1 gallon", "128/16 = 8"),
        ("A dime is a tenth of a dollar, a penny a hundredth.", "3 dimes", "3*1/10 and 200*1/100"),
        ("Take the second percent of the remainder.", "It rises by 2 percent.", "2% of it"),
        ("Find the sum of three amounts, then add all three.", "a third of 3 boxes", "3"),
    ],
)
def test_conversions_are_no_leaks(text: str, problem: str, solution: str) -> None:
    strategy = Strategy(problem_id="p", problem_type="Amounts", approach="Add both.", steps=(text,))
    assert find_leaks(strategy, Problem(id="p", problem=problem, answer="777", solution=solution)) == []


@pytest.mark.parametrize(
    "text", ["Each box has a dozen jars.", "The boat has sixty seats.", "It falls by 60 each time."]
)
def test_the_same_numbers_of_the_instance_are_leaks(text: str) -> None:
    strategy = Strategy(problem_id="p", problem_type="Amounts", approach="Add both.", steps=(text,))
    assert find_leaks(strategy, Problem(id="p", problem="12 jars, 60 seats", answer="777"))


def test_every_field_is_searched() -> None:
    strategy = Strategy(problem_id="p", problem_type="72", approach="72", steps=("72",), when_to_use="72")
    leaks = find_leaks(strategy, Problem(id="p", problem="?", answer="72"))
    assert [leak.where for leak in leaks] == ["problem_type", "approach", "steps[0]", "when_to_use"]


def test_precision_and_recall_on_the_labelled_strategies() -> None:
    """The figures of docs/strategies.md, on both parts of the labels."""
    lines = (Path(__file__).parent / "data" / "leak_labels.jsonl").read_text(encoding="utf-8").splitlines()
    counts = {"dev": [0, 0, 0], "heldout": [0, 0, 0]}  # caught, false alarms, missed
    for row in map(json.loads, lines):
        problem = Problem(id=row["id"], problem=row["problem"], answer=row["answer"], solution=row["solution"])
        leaks = find_leaks(strategy_from_json({**row["strategy"], "problem_id": row["id"]}), problem)
        caught, alarms, missed = bool(leaks) and row["leaks"], bool(leaks) > row["leaks"], row["leaks"] > bool(leaks)
        counts[row["split"]] = [a + b for a, b in zip(counts[row["split"]], (caught, alarms, missed), strict=True)]
    assert counts == {"dev": [78, 0, 2], "heldout": [38, 2, 2]}
