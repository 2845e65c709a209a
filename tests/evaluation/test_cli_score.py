"""`sgpo score` at the command line."""

import json

import pytest
from typer.testing import CliRunner

from sgpo.cli import app

PROBLEMS = [
    {"id": "half", "problem": "a", "answer": "\\frac{1}{2}", "subject": "fractions", "level": 2},
    {"id": "two", "problem": "b", "answer": "2", "subject": "whole", "level": 1},
]
# half: the two wrong ones are one answer written twice, and outvote the correct one; two: 3, 2, 2 and nothing.
COMPLETIONS = [
    ("half", "\\boxed{0.25}"), ("half", "so \\boxed{\\frac{1}{4}}"), ("half", "\\boxed{0.5}"), ("half", "\\boxed{7}"),
    ("two", "\\boxed{3}"), ("two", "\\boxed{2}"), ("two", "the answer is 2"), ("two", ""),
]  # fmt: skip


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path):
    return write(tmp_path / "problems.jsonl", PROBLEMS)


def score(tmp_path, problems, rows, *options):
    rows = [row if isinstance(row, (str, dict)) else {"id": row[0], "completion": row[1]} for row in rows]
    completions = write(tmp_path / "completions.jsonl", rows)
    words = ["score", "--completions", completions, "--problems", problems, *options]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_object_of_the_contract(tmp_path, problems):
    result = score(tmp_path, problems, COMPLETIONS, "--json")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert (scores["problems"], scores["k"], scores["missing"]) == (2, 4, 0)
    assert scores["verdicts"] == {"correct": 3, "wrong": 4, "unparsed": 1, "timeout": 0}
    assert scores["avg@4"]["mean"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert scores["pass@2"]["mean"] == pytest.approx((1 / 2 + 5 / 6) / 2)  # 1 - C(3,2)/C(4,2), 1 - C(2,2)/C(4,2)
    # By texts, 'half' would be a tie of four answers; 0.25 and 1/4 are one answer with two votes.
    assert scores["maj@4"]["mean"] == 0.5
    assert {name: part["avg"]["mean"] for name, part in scores["subjects"].items()} == {"fractions": 0.25, "whole": 0.5}
    assert {name: part["problems"] for name, part in scores["levels"].items()} == {"1": 1, "2": 1}
    assert scores["length"]["unit"] == "characters"
    assert scores["length"]["max"] == len("so \\boxed{\\frac{1}{4}}")
    assert scores["truncated"] is None


def test_two_ways_of_writing_a_wrong_answer_are_one_vote(tmp_path, problems):
    """Correct is first and would win every tie of texts: only as one answer do the two wrong ones outvote it."""
    rows = [("two", "\\boxed{2}"), ("two", "\\boxed{0.25}"), ("two", "\\boxed{\\frac{1}{4}}")]
    result = score(tmp_path, problems, rows, "--json")
    assert json.loads(result.stdout)["maj@3"]["mean"] == 0.0
    rows[2] = ("two", "\\boxed{\\frac{1}{5}}")
    result = score(tmp_path, problems, rows, "--json")
    assert json.loads(result.stdout)["maj@3"]["mean"] == 1.0


def test_missing_problems_are_counted_and_the_score_is_not_shown_as_whole(tmp_path, problems):
    result = score(tmp_path, problems, COMPLETIONS[:4], "--json")
    assert (result.exit_code, "incomplete, without its completions: 1 problem" in result.stderr) == (1, True)
    scores = json.loads(result.stdout)
    assert (scores["problems"], scores["missing"]) == (1, 1)
    shown = score(tmp_path, problems, COMPLETIONS[:4]).stdout
    assert "INCOMPLETE: 1 of 2 problems missing" in " ".join(shown.split())
    assert "avg@4 of 1/2" in shown
    whole = score(tmp_path, problems, COMPLETIONS).stdout
    assert "INCOMPLETE" not in whole
    assert "fractions" in whole


def test_rows_of_sgpo_eval_bring_tokens_and_truncation(tmp_path, problems):
    rows = [
        {"problem_id": "half", "completion": "\\boxed{0.5}", "tokens": 5, "truncated": False},
        {"problem_id": "two", "completion": "so", "tokens": 9, "truncated": True},
    ]
    scores = json.loads(score(tmp_path, problems, rows, "--json").stdout)
    assert scores["length"] == {"unit": "tokens", "mean": 7.0, "median": 7.0, "max": 9}
    assert scores["truncated"] == 0.5


def test_a_row_that_was_cut_off_has_no_answer_in_prose(tmp_path, problems):
    said = "It is about 1/2. So there are 2 halves"
    rows = [
        {"problem_id": "half", "completion": "\\boxed{0.5} I che", "tokens": 9, "truncated": True},
        {"problem_id": "two", "completion": said, "tokens": 9, "truncated": True},
    ]
    cut = json.loads(score(tmp_path, problems, rows, "--json").stdout)["verdicts"]
    whole = json.loads(score(tmp_path, problems, [rows[0], rows[1] | {"truncated": False}], "--json").stdout)[
        "verdicts"
    ]
    assert (cut["correct"], cut["unparsed"]) == (1, 1)
    assert whole["correct"] == 2


def test_the_first_samples_of_each_problem(tmp_path, problems):
    rows = [*COMPLETIONS[:3], *COMPLETIONS[4:5]]
    refused = score(tmp_path, problems, rows, "--json")
    assert refused.exit_code == 2
    assert "'half' has 3 completions, problem 'two' has 1; --samples K" in refused.stderr
    scores = json.loads(score(tmp_path, problems, rows, "--samples", 2, "--json").stdout)
    assert (scores["problems"], scores["k"], scores["missing"]) == (1, 2, 1)
    assert scores["verdicts"]["wrong"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("half", "1"), ("third", "1")], "completions.jsonl, row 2: no problem 'third' in"),
        ([{"id": "half", "output": "1"}], "completions.jsonl, row 1: expected {'id': ..., 'completion': 'text'}"),
        (
            [{"id": "half", "completion": None}],
            "row 1: expected {'id': ..., 'completion': 'text'}, found completion None",
        ),
        (
            [
                {"problem_id": "half", "sample": 0, "completion": "1"},
                {"problem_id": "half", "sample": 0, "completion": "2"},
            ],
            "completions.jsonl, row 2: sample 0 of problem 'half' again, as in row 1",
        ),
        ([("half", "1"), "{"], "completions.jsonl, row 2: not JSON"),
        (["[1]"], "row 1: a JSON list, expected an object"),
        ([], "completions.jsonl: no completions in it"),
        ([("half", "1")], "none of 2 problems has all of its samples (3 each)"),
    ],
)
def test_bad_input_is_one_line_that_names_the_row(tmp_path, problems, rows, message):
    options = ["--samples", 3] if message.startswith("none") else []
    result = score(tmp_path, problems, rows, "--json", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_files_that_are_missing(tmp_path, problems):
    result = CliRunner().invoke(app, ["score", "--completions", "nowhere.jsonl", "--problems", str(problems)])
    assert (result.exit_code, "nowhere.jsonl: no such file" in result.stderr) == (2, True)
    result = CliRunner().invoke(app, ["score", "--completions", str(problems), "--problems", "nowhere.jsonl"])
    assert (result.exit_code, "nowhere.jsonl: no such problem file" in result.stderr) == (2, True)


def test_the_kind_of_a_whole_file(tmp_path, problems):
    def verdicts(*options):
        result = score(tmp_path, problems, [("half", "\\boxed{0.5}"), ("two", "\\boxed{2}")], "--json", *options)
        return json.loads(result.stdout)["verdicts"]["correct"]

    assert (verdicts(), verdicts("--kind", "exact")) == (2, 1)  # 0.5 is 1/2, but not the same text
    refused = score(tmp_path, problems, COMPLETIONS, "--kind", "maths")
    assert refused.exit_code == 2
    assert "unknown kind of problem 'maths'; there are: math, exact, choice, puzzle" in refused.stderr
