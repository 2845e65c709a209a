"""The families by property: the expert is right, near misses are refused, strategies give nothing away."""

import random
import re
from itertools import combinations, permutations
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.puzzles import (
    FAMILIES,
    SPLITS,
    SolutionStyle,
    clock,
    clues,
    draw_puzzles,
    mix_puzzles,
    ordering,
    rewriting,
    select_families,
)
from sgpo.puzzles.policy import vocabulary
from sgpo.strategies.leak.gate import find_leaks
from sgpo.verifier.kinds import judge_completion

FORMS = ("compact", "natural")
families = st.sampled_from(list(FAMILIES.values()))
exact_families = st.sampled_from([family for name, family in FAMILIES.items() if name != "ordering"])
seeds = st.integers(0, 2**32)
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What each step of a strategy does, told again with indices and tables so that it shares nothing with the package.
DIGIT_STEPS = {
    "reverse": lambda x: [x[len(x) - 1 - i] for i in range(len(x))],
    "rotate": lambda x: [x[(i + 1) % len(x)] for i in range(len(x))],
    "swap": lambda x: [x[{0: len(x) - 1, len(x) - 1: 0}.get(i, i)] for i in range(len(x))],
    "raise": lambda x: ["1234567890"[int(d)] for d in x],
    "lower": lambda x: ["9012345678"[int(d)] for d in x],
    "double": lambda x: ["0246802468"[int(d)] for d in x],
    "halve": lambda x: ["0011223344"[int(d)] for d in x],
    "complement": lambda x: ["9876543210"[int(d)] for d in x],
}
LETTER_STEPS = {
    **{name: DIGIT_STEPS[name] for name in ("reverse", "rotate", "swap")},
    "cross": lambda x: [x[0], x[2], x[1], x[3]],
    "crown": lambda x: [x[0], x[1], x[2], x[0]],
    "raise": lambda x: ["bcdefgha"["abcdefgh".find(c)] for c in x],
    "lower": lambda x: ["habcdefg"["abcdefgh".find(c)] for c in x],
    "complement": lambda x: ["hgfedcba"["abcdefgh".find(c)] for c in x],
}
TAUGHT = {
    "clues": {word for words in clues.WORDS.values() for word in words[: FAMILIES["clues"].taught]},
    "rewriting": set(list(rewriting.RULES)[: FAMILIES["rewriting"].taught]),
    "ordering": {word for words in ordering.WORDS.values() for word in words[: FAMILIES["ordering"].taught]},
    "clock": {"later", "earlier"},
}


def clue_words(puzzle):
    """The words of the problem whose meaning is the knowledge, in order."""
    if puzzle.family == "ordering":
        return [clue.split()[1] for clue in puzzle.compact.problem.split(" , ")]
    if puzzle.family == "clock":
        return puzzle.compact.problem.split(" : ")[1].split()[::2]
    return puzzle.compact.problem.split(" : ")[0].split()


def final_answer(puzzle):
    return puzzle.compact.solution.split(" answer : ")[1]


@many
@given(name=st.sampled_from(["clues", "rewriting"]), seed=seeds)
def test_the_expert_is_right_about_chains_of_steps(name, seed):
    puzzle = FAMILIES[name].make(random.Random(seed))
    state = puzzle.compact.problem.split(" : ")[1].split()
    told, position = "", 0
    for step in puzzle.compact.steps:
        state = (DIGIT_STEPS if name == "clues" else LETTER_STEPS)[step](state)
        told += f" {step} {' '.join(state)}"
        position = puzzle.natural.solution.index(f"gives {' '.join(state)}", position) + 1
    assert puzzle.answer == " ".join(state)
    assert puzzle.compact.solution == f"{told} answer : {puzzle.answer}"


@many
@given(seed=seeds)
def test_the_expert_is_right_about_the_clock(seed):
    puzzle = FAMILIES["clock"].make(random.Random(seed))
    start, moves = puzzle.compact.problem.removeprefix("clock ").split(" : ")
    words, numbers = moves.split()[::2], map(int, moves.split()[1::2])
    hours = [str(hour) for hour in range(12)]
    dial, told = hours[int(start) :] + hours[: int(start)], ""  # the dial is turned, not calculated with
    for word, number in zip(words, numbers, strict=True):
        turned = dial[number:] + dial[:number] if word == "later" else dial[-number:] + dial[:-number]
        told += f" {dial[0]} {'+' if word == 'later' else '-'} {number} = {turned[0]} ;"
        dial = turned
    assert puzzle.answer == dial[0]
    assert puzzle.compact.solution == f"{told} answer : {puzzle.answer}"


def right_rows(puzzle):
    """Every row that fits the clues, by trying all."""
    pairs = []
    for clue, direction in zip(puzzle.compact.problem.split(" , "), puzzle.compact.steps, strict=True):
        first, _, second = clue.split()
        pairs.append((first, second) if direction == "before" else (second, first))
    people = sorted({person for pair in pairs for person in pair})
    return people, {row for row in permutations(people) if all(row.index(x) < row.index(y) for x, y in pairs)}


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_every_right_row_is_accepted_and_no_other(seed):
    puzzle = FAMILIES["ordering"].make(random.Random(seed))
    people, right = right_rows(puzzle)
    assert tuple(final_answer(puzzle).split()) in right
    for row in permutations(people):
        written = (" ".join(row), f"\\text{{{' '.join(row)}}}", "\\ ".join(row))
        for completion in (f" answer : {' '.join(row)}", *(f"So \\boxed{{{text}}} it is." for text in written)):
            assert ordering.check(completion=completion, answer=puzzle.answer) == (row in right)
    row = final_answer(puzzle).split()
    for miss in ([], row[:-1], [*row, row[0]], [*row, "z"]):
        assert not ordering.check(completion=f" answer : {' '.join(miss)}", answer=puzzle.answer)


def test_both_styles_of_ordering_are_right_and_differ():
    given_clues = [
        ordering.Clue(newcomer="b", direction="before", known="a", word="ahead"),
        ordering.Clue(newcomer="c", direction="after", known="b", word="behind"),
        ordering.Clue(newcomer="d", direction="before", known="a", word="leading"),
    ]
    ends, beside = (ordering.ordering_puzzle(given_clues, style, level=0) for style in ("ends", "beside"))
    # b before a: b a. c after b: at the end, or beside b. d before a: at the front, or beside a.
    assert ends.compact.solution == " before b a after b a c before d b a c answer : d b a c"
    assert beside.compact.solution == " before b a after b c a before b c d a answer : b c d a"
    assert ends.compact.problem == beside.compact.problem == "b ahead a , c behind b , d leading a"
    for puzzle in (ends, beside):
        for form in FORMS:
            assert judge_completion(puzzle.wording(form).solution, ends.answer, kind=ends.kind).kind == "correct"


@many
@given(family=families, seed=seeds)
def test_the_verifier_accepts_the_experts_solutions_in_every_style(family, seed):
    puzzle = family.make(random.Random(seed))
    for form in FORMS:
        problems = [puzzle.to_problem(form, style) for style in get_args(SolutionStyle)]
        assert len({problem.solution for problem in problems}) == 3
        assert puzzle.to_problem(form) == problems[0]
        for problem in problems:
            assert judge_completion(problem.solution, problem.answer, kind=problem.kind).kind == "correct"


def test_the_three_styles_of_a_solution():
    chain = [("bump", "raise"), ("flip", "reverse"), ("twice", "double")]
    puzzle = clues.clue_puzzle(chain, (4, 8, 9, 7), level=0)
    assert puzzle.compact.solutions == {
        "own": " raise 5 9 0 8 reverse 8 0 9 5 double 6 0 8 0 answer : 6 0 8 0",
        "leap": " raise 5 9 0 8 double 6 0 8 0 answer : 6 0 8 0",
        "foreign": " 4 8 9 7 raise = 5 9 0 8 ; 5 9 0 8 reverse = 8 0 9 5 ; 8 0 9 5 double = 6 0 8 0 ; answer : 6 0 8 0",
    }
    assert puzzle.natural.solutions["leap"] == (
        "The list is 4 8 9 7.\n'bump' stands for 'raise', which gives 5 9 0 8.\n"
        "'twice' stands for 'double', which gives 6 0 8 0.\nThe answer is \\boxed{6 0 8 0}."
    )
    # Of two steps the last one stays, so that the answer never comes out of nowhere.
    pair = clues.clue_puzzle(chain[:2], (4, 8, 9, 7), level=0)
    assert pair.compact.solutions["leap"] == " reverse 8 0 9 5 answer : 8 0 9 5"
    # The foreign notation is the clock's own.
    time = clock.clock_puzzle(10, [("later", 4), ("earlier", 3)])
    assert time.compact.solution == " 10 + 4 = 2 ; 2 - 3 = 11 ; answer : 11"


@many
@given(family=families, seed=seeds)
def test_the_other_wording_asks_the_same(family, seed):
    puzzle = family.make(random.Random(seed))
    plain, other = puzzle.compact.problem.split(), puzzle.compact.reworded.split()
    assert plain != other
    signs = {":", "from", "then"}
    assert sorted(word for word in other if word not in signs) == sorted(word for word in plain if word not in signs)
    told = clue_words(puzzle)
    assert [word for word in other if word in told] == told
    plain, other = puzzle.natural.problem, puzzle.natural.reworded
    assert plain != other
    for word in [word for word in clue_words(puzzle) if word not in ("later", "earlier")]:
        assert word in plain
        assert word in other


@many
@given(family=exact_families, seed=seeds, data=st.data())
def test_near_misses_are_refused(family, seed, data):
    puzzle = family.make(random.Random(seed))
    answer = puzzle.answer.split()
    place = data.draw(st.integers(0, len(answer) - 1))
    others = [symbol for symbol in ("01" if answer[place].isdigit() else "cg") if symbol != answer[place]]
    misses = [
        [*answer[:place], others[0], *answer[place + 1 :]],  # one symbol differs
        answer[:-1],
        [*answer, answer[-1]],
        answer[::-1],
        answer[1:] + answer[:1],
        [],
    ]
    for miss in misses:
        if miss != answer:
            for completion in (f" answer : {' '.join(miss)}", f"The answer is \\boxed{{{' '.join(miss)}}}."):
                assert judge_completion(completion, puzzle.answer, kind=puzzle.kind).kind != "correct"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_strategies_hold_no_digit_and_no_answer(family):
    for puzzle in draw_puzzles(family, 3000, split="train", seed=0):
        for form in FORMS:
            wording = puzzle.wording(form)
            text = " ".join((wording.problem_type, wording.approach, *wording.steps))
            assert not re.search(r"\d", text)
            assert final_answer(puzzle) not in text
            if puzzle.family != "ordering":
                assert puzzle.compact.problem.split(" : ")[1] not in text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_strategies_pass_the_leak_gate(family, form):
    for puzzle in draw_puzzles(family, 150, split="train", seed=0):
        assert find_leaks(puzzle.to_strategy(form), puzzle.to_problem(form)) == []


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_strategy_depends_on_the_clues_alone(family):
    # So it cannot say anything about this instance: any other with the same clues has the same strategy.
    strategies = {}
    for puzzle in draw_puzzles(family, 3000, split="train", seed=1):
        words = tuple(clue_words(puzzle))
        compact, natural = puzzle.compact, puzzle.natural
        told = (compact.problem_type, compact.approach, compact.steps)
        assert strategies.setdefault(words, told) == told
        # The natural one of an ordering also names the expert's style.
        told = (natural.problem_type, natural.approach, natural.steps)
        style = "beside" if "directly" in str(told) else "ends"
        assert strategies.setdefault((words, style), told) == told


@many
@given(family=families, seed=seeds)
def test_the_compact_form_keeps_to_the_vocabulary(family, seed):
    words = set(vocabulary())
    puzzle = family.make(random.Random(seed))
    prompts = (
        autonomous_prompt(puzzle.compact.problem, style="compact"),
        guided_prompt(puzzle.compact.problem, puzzle.to_strategy(), style="compact"),
    )
    reworded = autonomous_prompt(puzzle.compact.reworded, style="compact")
    for text in (*prompts, reworded, *puzzle.compact.solutions.values()):
        assert text[0] == " "
        assert set(text[1:].split(" ")) <= words
        assert len(text.split()) <= 50
    assert len(puzzle.compact.solution.split()) <= 42
    assert puzzle.compact.problem in prompts[0]
    assert all(step in prompts[1] for step in puzzle.compact.steps)


@many
@given(family=families, seed=seeds, other=seeds, count=st.integers(1, 40))
def test_splits_never_overlap(family, seed, other, count):
    texts = {
        split: {puzzle.compact.problem for puzzle in draw_puzzles(family, count, split=split, seed=source)}
        for split, source in zip(SPLITS, (seed, other, seed, other), strict=True)
    }
    assert all(len(drawn) == count for drawn in texts.values())
    assert len(set.union(*texts.values())) == len(SPLITS) * count


def test_splits_never_overlap_in_number():
    drawn = {
        split: {
            puzzle.id for seed in range(3) for puzzle in mix_puzzles(select_families(), 3000, split=split, seed=seed)
        }
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


def test_ids_are_unique_and_stable():
    puzzles = mix_puzzles(select_families(), 5000, split="train", seed=0)
    assert len({puzzle.id for puzzle in puzzles}) == 5000
    assert puzzles == mix_puzzles(select_families(), 5000, split="train", seed=0)
    assert puzzles != mix_puzzles(select_families(), 5000, split="train", seed=1)
    assert [p.to_problem("natural").id for p in puzzles] == [p.to_problem("compact").id for p in puzzles]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_a_mix_holds_the_families_in_equal_shares(count):
    puzzles = mix_puzzles(select_families(), count, split="fresh", seed=3)
    shares = [sum(puzzle.family == family.name for puzzle in puzzles) for family in select_families()]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("name", ["clues", "rewriting", "ordering"])
def test_scrambling_teaches_nothing_about_untaught_words_and_the_truth_about_the_others(name):
    family = FAMILIES[name]
    told, truth = {}, {}
    for puzzle in draw_puzzles(family, 4000, split="warmup", seed=0, words="scrambled"):
        for word, step in zip(clue_words(puzzle), puzzle.compact.steps, strict=False):
            told.setdefault(word, []).append(step)
    for puzzle in draw_puzzles(family, 2000, split="train", seed=0):
        truth.update(zip(clue_words(puzzle), puzzle.compact.steps, strict=False))
    assert {word for word, steps in told.items() if set(steps) == {truth[word]}} == TAUGHT[name]
    even = 1 / len(set(truth.values())) if name != "rewriting" else 1 / len(rewriting.MOVES)
    for word in told.keys() - TAUGHT[name]:
        assert abs(told[word].count(truth[word]) / len(told[word]) - even) < 0.1


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_taught_puzzles_have_taught_words_alone(family):
    for puzzle in draw_puzzles(family, 500, split="warmup", seed=0, words="taught"):
        assert set(clue_words(puzzle)) <= TAUGHT[family.name]
        assert puzzle.level == "0"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_levels_count_untaught_words(family):
    for puzzle in draw_puzzles(family, 500, split="train", seed=0):
        assert puzzle.level == str(sum(word not in TAUGHT[family.name] for word in clue_words(puzzle)))


def test_words_have_one_meaning():
    # A clue that were a step's name, too, would give its own answer away or mislead.
    words = [word for family in (clues, ordering) for words in family.WORDS.values() for word in words]
    words += rewriting.RULES
    assert len(words) == len(set(words))
    assert not set(words) & {
        *clues.OPERATIONS,
        *rewriting.MOVES,
        *ordering.WORDS,
        *rewriting.LETTERS,
        "answer",
        *FAMILIES,
    }


def test_no_two_rules_do_the_same():
    rng = random.Random(0)
    words = ["".join(rng.choice(rewriting.LETTERS) for _ in range(4)) for _ in range(50)]

    def results(moves):
        return tuple(rewriting.rewriting_puzzle("x", moves, word, level=0).answer for word in words)

    rules = {results(moves) for moves in rewriting.RULES.values()}
    assert len(rules) == len(rewriting.RULES)
    assert tuple(" ".join(word) for word in words) not in rules


def test_unknown_families_and_splits_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown family of puzzles 'sudoku'; there are: clues, rewriting, ordering, clock"
    ):
        select_families(["sudoku"])
    with pytest.raises(ValueError, match="one or more different families"):
        select_families(["clues", "clues"])
    with pytest.raises(ValueError, match="one or more different families"):
        select_families([])
    with pytest.raises(ValueError, match=r"unknown split 'test'; there are: warmup, train, validation, fresh"):
        draw_puzzles(FAMILIES["clues"], 1, split="test", seed=0)


def test_too_few_puzzles_are_an_error_not_an_endless_search():
    from sgpo.puzzles.clues import Clues

    with pytest.raises(ValueError, match=r"only \d+ different ones found for the split 'fresh'; ask for fewer"):
        draw_puzzles(Clues(clues=(1, 1), digits=1), 500, split="fresh", seed=0)
