"""Where the answer stands in a completion."""

# ruff: noqa: E501 (tables)

from __future__ import annotations

import pytest

from sgpo.verifier.extract import extract_answer, last_box
from sgpo.verifier.kinds import judge_math

FOUND = [
    ("First \\boxed{3}. No wait, \\boxed{4}.", "4"), ("\\boxed{3} then \\boxed{4}", "4"), ("\\boxed{3}, \\boxed{4}", "3,4"),
    ("\\boxed{7} and \\boxed{-5}", "-5,7"), ("\\boxed{5}\n\nLet me check: 2+3=5. Yes.", "5"), ("so \\boxed{4}.\n\n**\\boxed{4}**", "4"),
    ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt2}"), ("\\boxed{\\{1, 2\\}}", "\\{1,2\\}"), ("\\boxed 7", "7"), ("\\fbox{7}", "7"),
    ("\\boxed{4} 富含=\\' garbage \U0001f310", "4"), ("\\[\\boxed{\\text{(B)}}\\]", "B"), ("\\boxed{12\\text{ and }13}", "12,13"),
    ("\\boxed{\\[ \\boxed{5} \\]}", "5"), ("the box \\boxed{255} is half. Final Answer: The final answer is $10,455$. I hope it is correct.", "10455"),
    ("<answer>84</answer>", "84"), ("<answer>\\boxed{84}</answer>", "84"), ("#### 1,234", "1234"), ("#### 5\n", "5"),
    ("<think>\\boxed{3}</think> \\boxed{4}", "4"), ("hmm \\boxed{3}</think>\n\nThe answer is 4", "4"),
    ("The answer is 12.5%.", "12.5\\%"), ("The answer is (B).", "B"), ("The answer is B because 3 > 2.", "B"), ("A: 20", "20"), ("answer = 7", "7"),
    ("**Answer:** Dexter has **20 pounds** of feed left.", "20"), ("**Final Answer**\n10", "10"), ("### Final Answer\n\n$$x = 7$$", "7"),
    ("Answer\n──────\n4√29.", "4\\sqrt{29}"), ("The answer is\n\\[\n\\frac{7}{2}\n\\]", "3.5"), ("答案是 7。", "7"), ("La réponse est 7.", "7"),
    ("Each wrong answer is worth −2 points.\n\nTherefore, Frank answered 56 questions correctly.", "56"),
    ("So the final answer is: $\\frac{1}{2}$.", "0.5"), ("Final Answer: The largest $n$ is 34.", "34"), ("$28$ percent", "28\\%"),
    ("C(8, 2) = 28\n\nMikka could order 28 different pizzas with two toppings from the 8 options available.", "28"),
    ("Hence, she walks 700 − 500 = 200 feet more than Jim.", "200"), ("Thus, Chris is currently 10 years old.", "10"),
    ("giving us a total of \\(2 + 1 = 3\\) possible values for \\(n\\).", "3"), ("Thus, the rotated point is  \nw = 6 − 5i.", "6-5i"),
    ("The probability is \\(1/3\\). This rests on the sums for different values of \\(C\\), given fixed \\(A\\) and \\(B\\).", "1/3"),
    ("Therefore $x = 3$ or $x = 5$.", "3,5"), ("The roots are $1$, $2$ and $3$.", "1,2,3"), ("The solutions are x = 1, x = 2, and x = 3.", "1,2,3"),
    ("They pay $5 and $6, so $11 in total.", "11"), ("It costs \\$5.50.", "5.50"), ("因此，弗兰克一共有**858颗**糖果。", "858"), ("**7**", "7"), ("`7`", "7"),
    ("\\frac{3}{4}", "0.75"), ("x = 3", "3"), ("3, 5", "3,5"), ("$1$ and $2$ and $3$", "1,2,3"), ("The angle is [ 90 ].", "90"), ("20000/π square meters.", "\\frac{20000}{\\pi}"),
    # What a last sentence has calculated, with words and other numbers around it.
    ("She can jog 10 x 5 = 50 miles for 5 days.", "50"), ("There are 64+32 = 96 weasels and rabbits left", "96"), ("So he makes 105*1.2=$126 from selling the water", "126"),
    ("The rebate makes it $334 - $12 = $322.", "322"), ("320 bugs - 84 bugs = 236 bugs", "236"), ("That is $250/month * 12 months/year = $3,000/year", "3000"),
    ("They still have 121 miles to travel.", "121"), ("The ride will have to run 84 / 14 = 6 times.", "6"), ("5 * 2 = 10, so she has 3 left.", "3"),
    ("He has 8 marbles (5 + 3 = 8).", "8"), ("The answer is not 18, it's 17.", "17"), ("There are seventeen of them.", "17"),
    ("The answer is for sure D, it can't be A or B", "D"), ("It's not A, therefore I think it's B", "(B)"), ("D. it can't be A or B", "\\text{(D)}"),
    ("\\boxed{5}<|im_end|><|im_start|>user\n\\boxed{6}", "5"),
]  # fmt: skip

NOTHING = [
    "", "   \n", "<think>never ends \\boxed{3}", "**Therefore, the largest possible value is:**", "<think>\\boxed{3}</think>", "\\boxed{42",
]  # fmt: skip


@pytest.mark.parametrize(("completion", "answer"), FOUND)
def test_found(completion: str, answer: str) -> None:
    verdict = judge_math(completion, answer)
    assert verdict.kind == "correct", verdict


@pytest.mark.parametrize("completion", NOTHING)
def test_nothing_to_find(completion: str) -> None:
    assert judge_math(completion, "3").kind == "unparsed"


@pytest.mark.parametrize("completion", ["the value is 34", "The answer is 34.", "34"])
def test_the_strict_policy_wants_a_clear_statement(completion: str) -> None:
    assert extract_answer(completion) == "34"
    assert extract_answer(completion, strict=True) is None


@pytest.mark.parametrize("completion", ["\\boxed{34}", "#### 34", "<answer>34</answer>", "The final answer is 34."])
def test_what_the_strict_policy_takes(completion: str) -> None:
    assert extract_answer(completion, strict=True) == "34"


def test_hedging_is_not_an_answer() -> None:
    assert judge_math("\\boxed{41} or \\boxed{42}", "42").kind == "wrong"


def test_last_box_of_none() -> None:
    assert last_box("no box") is None


def test_a_completion_cut_off_in_reasoning_that_its_prompt_opened() -> None:
    cut_off = "First 2 + 2 = 4, so the answer is 4. Wait, let me check again whether"
    assert judge_math("<think>\n" + cut_off, "4").kind == "unparsed"
    assert judge_math("<think>\n" + cut_off + " it is.</think>\n\nThe answer is 4.", "4").kind == "correct"
