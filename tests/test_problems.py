"""What becomes of a row on its way to a problem."""

import csv
import json
import os
import subprocess
import sys

import pytest

from sgpo.problems import Problem, load_problems, split_problems

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


ROW = '{"problem": "1 + 1?", "answer": "2", "solution": "SOLUTION"}'
LONG = "so " * 100_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bom.jsonl", "\ufeff" + ROW + "\n"),
        ("bom.json", "\ufeff[" + ROW + "]"),
        ("array.json", "\n[\n" + ROW.replace(", ", ",\n") + "\n]\n"),
        ("lines.json", ROW + "\n"),
        ("long.csv", "problem,answer,solution\n1 + 1?,2,SOLUTION\n"),
    ],
)
def test_files_as_other_programs_write_them(tmp_path, name, text):
    limit = csv.field_size_limit()
    (tmp_path / name).write_text(text.replace("SOLUTION", LONG), encoding="utf-8")
    (problem,) = load_problems(tmp_path / name)
    assert (problem.problem, problem.answer, problem.solution) == ("1 + 1?", "2", LONG)
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"p\.json, row 1: a JSON int, expected an object"),
        ("[\n{},\n", r"p\.json, line 3: not JSON .*; expected an array of objects, or one object per line"),
        ("[]", r"p\.json: no problems in it"),
        ('[{"problem": "?", "answer": "1"}, {"problem": "?"}]', r"p\.json, row 2: no 'answer'"),
    ],
)
def test_a_broken_array_is_named(tmp_path, text, message):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_problems(tmp_path / "p.json")


def test_a_split_at_random_is_the_same_in_every_release():
    problems = [Problem(id=f"p{i}", problem="?", answer="1") for i in range(10)]
    first, rest = split_problems(problems, 0.4, seed=3)
    assert [problem.id for problem in first] == ["p2", "p3", "p7", "p8"]
    assert [problem.id for problem in rest] == ["p0", "p1", "p4", "p5", "p6", "p9"]


def test_a_mistyped_dataset_is_refused_at_the_first_refused_connection(tmp_path):
    """In a process of its own: the hub's library reads its environment once."""
    no_hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from sgpo.problems import load_problems; load_problems('no/such')"]
    failed = subprocess.run(command, env=os.environ | no_hub, capture_output=True, text=True)
    assert "InputError: no/such: neither a problem file nor a dataset that could be loaded" in failed.stderr
    assert "Retrying" not in failed.stderr
