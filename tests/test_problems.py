"""What becomes of a row on its way to a problem."""

import json

import pytest

from sgpo.problems import load_problems

MARKED = "She sold 48/2 = $<<48/2=24>>24 in May.\nTogether 48+24 = <<48+24=72>>72 clips."
PLAIN = "She sold 48/2 = $24 in May.\nTogether 48+24 = 72 clips."


@pytest.mark.parametrize(
    ("solution", "loaded"),
    [
        (MARKED, PLAIN + "\nThe answer is \\boxed{72}."),
        (MARKED + "\nThe answer is \\boxed{72}.", PLAIN + "\nThe answer is \\boxed{72}."),
        ("He has <<3*0.5=1.5>>1.5 left.\nSo she wins.", "He has 1.5 left.\nSo she wins."),
        ("`cout << x = 3 >> 1`, and kernel<<<grid=1, 64>>>(a)", None),
        ("<<x=2>> and 1 << 2 and a >> b = 3", None),
    ],
)
def test_calculator_marks_are_no_part_of_a_solution(tmp_path, solution, loaded):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"problem": "How many?", "answer": "72", "solution": solution}))
    assert load_problems(file)[0].solution == (solution if loaded is None else loaded)


def test_gsm8k_itself(shared_data):
    problems = load_problems(shared_data / "train" / "gsm8k_train.jsonl")
    assert not [problem.id for problem in problems if "<<" in problem.solution]
    boxed = [problem for problem in problems if "\\boxed{" in problem.solution]
    ends = [problem.solution.rpartition("\\boxed{")[2].removesuffix("}.") for problem in boxed]
    right = [float(end) == float(problem.answer) for end, problem in zip(ends, boxed, strict=True)]
    assert (len(problems), len(boxed), sum(right)) == (7473, 6867, 6846)  # the numbers of docs/evaluation.md
