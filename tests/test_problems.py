"""What becomes of a row on its way to a problem."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sgpo.problems import Problem, load_problems, split_problems, system_prompt_for

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


# What is no text: read where it can only mean one thing, refused by file, row and column else.

USER, ANSWER = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "It is 2."}
GOOD = {"problem": "1 + 1?", "answer": "2"}


def load(tmp_path, *rows, **options):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    return load_problems(tmp_path / "p.jsonl", **options)


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"answer": 27.0}, "answer", "27"),
        ({"answer": 0.5}, "answer", "0.5"),
        ({"answer": ["2"]}, "answer", "2"),
        ({"answer": [[2.0]]}, "answer", "2"),
        ({"problem": [USER]}, "problem", "1 + 1?"),
        ({"problem": [{"role": "system", "content": "Be brief."}, USER, ANSWER]}, "problem", "1 + 1?"),
        ({"problem": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}, "problem", "1 + 1?"),
        ({"problem": {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}}, "problem", "1 + 1?"),
        ({"solution": [USER, ANSWER]}, "solution", "It is 2."),
        ({"solution": "  \n"}, "solution", None),
        ({"solution": float("nan")}, "solution", None),
        ({"solution": []}, "solution", None),
        ({"level": 5.0}, "level", "5"),
    ],
)
def test_what_can_only_mean_one_text_is_read(tmp_path, row, field, text):
    (problem,) = load(tmp_path, {**GOOD, **row})
    assert getattr(problem, field) == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": ["1", "2"]}, r"row 2: 'answer' holds a list of 2, .* such as --field answer=answer\.0"),
        ({"answer": {"a": 1, "b": 2}}, r"row 2: 'answer' holds an object with a, b, .* --field answer=answer\.a"),
        ({"answer": float("nan")}, r"row 2: no 'answer'"),
        ({"answer": float("inf")}, r"row 2: 'answer' holds an infinite number"),
        ({"answer": " "}, r"row 2: no 'answer'"),
        ({"problem": [USER, ANSWER, USER]}, r"row 2: 'problem' holds a chat with 2 turns of the user"),
        ({"solution": [USER, USER]}, r"row 2: 'solution' holds a chat with 0 turns of the assistant"),
        ('{"problem": "half \\ud800", "answer": "1"}', r"row 2: 'problem' holds half a surrogate pair"),
        ('{"problem": "?", "answer": ' + "7" * 5000 + "}", r"row 2: not JSON \(a number of too many digits\)"),
        ("[" * 100_000, r"row 2: not JSON"),
    ],
)
def test_what_is_no_text_is_refused_by_file_row_and_column(tmp_path, row, message):
    row = row if isinstance(row, str) else {**GOOD, **row}
    with pytest.raises(ValueError, match=r"p\.jsonl, " + message):
        load(tmp_path, {**GOOD, "problem": "another"}, row)
    bad = []
    assert len(load(tmp_path, {**GOOD, "problem": "another"}, row, GOOD, on_bad=bad.append)) == 2
    assert len(bad) == 1


def test_bytes_are_text_where_they_are_utf_8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"problem": [b"1 + 1?"], "answer": [b"2"]}), tmp_path / "p.parquet")
    assert load_problems(tmp_path / "p.parquet")[0].answer == "2"
    pq.write_table(pa.table({"problem": [b"1 + 1?"], "answer": [b"\xff"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"p\.parquet, row 1: 'answer' holds bytes that are no UTF-8"):
        load_problems(tmp_path / "p.parquet")


def test_repeated_problems_are_named_by_their_rows(tmp_path):
    with pytest.raises(ValueError, match=r"row 2: the same problem as in row 1, with another answer \('3', not '2'\)"):
        load(tmp_path, GOOD, {**GOOD, "answer": "3"})
    with pytest.raises(ValueError, match="row 2: id 'a' is already used in row 1; ids must be unique"):
        load(tmp_path, {**GOOD, "id": "a"}, {**GOOD, "id": "a"})
    repeated = []
    (kept,) = load(tmp_path, GOOD, {**GOOD, "answer": "3"}, on_repeated=repeated.append)
    assert (kept.answer, len(repeated)) == ("2", 1)


def test_files_that_are_no_text_are_named(tmp_path):
    for name in ("p.jsonl", "p.csv"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08 and so on")
        with pytest.raises(ValueError, match=rf"{name}: compressed with gzip; unpack it first"):
            load_problems(tmp_path / name)
        (tmp_path / name).write_bytes(b'{"problem": "q", "answer": "1"}\n{"problem": "\xff"}')
        with pytest.raises(ValueError, match=rf"{name}, row 2: not UTF-8 text"):
            load_problems(tmp_path / name)


# -- the layouts of TRL and verl

SYSTEM = {"role": "system", "content": "Think first."}
VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [USER],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 0, "split": "train", "answer": "1 + 1 = 2", "question": "What is 1 + 1?"},
}
ASKED = {"prompt": [USER]}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (VERL, {"answer": "2", "source": "openai/gsm8k", "subject": "math"}),
        ({**VERL, "prompt": [SYSTEM, USER]}, {"answer": "2", "system": "Think first."}),
        ({"prompt": "1 + 1?", "answer": "2", "solution": "It is 2."}, {"answer": "2", "solution": "It is 2."}),
        ({**ASKED, "ground_truth": 2.0}, {"answer": "2", "solution": None}),
        ({**ASKED, "solution": "$\\frac{4}{2}$"}, {"answer": "$\\frac{4}{2}$", "solution": None}),
        ({**ASKED, "solution": "$\\boxed{\\frac{4}{2}}$"}, {"answer": "\\frac{4}{2}", "solution": None}),
        (
            {**ASKED, "solution": "1 and \\boxed{1} are \\boxed{\\{2\\}}."},
            {"answer": "\\{2\\}", "solution": "1 and \\boxed{1} are \\boxed{\\{2\\}}."},
        ),
        (
            {**ASKED, "completion": [{"role": "assistant", "content": "So \\boxed{2}"}]},
            {"answer": "2", "solution": "So \\boxed{2}"},
        ),
        ({**ASKED, "problem": "2 + 2?", "answer": "4"}, {"problem": "2 + 2?", "answer": "4"}),
        ({**ASKED, "answer": "2", "source": "mine", "data_source": "x"}, {"source": "mine"}),
    ],
)
def test_rows_of_trl_and_verl_are_read_as_they_are(tmp_path, row, wanted):
    (problem,) = load(tmp_path, row)
    wanted = {"problem": "1 + 1?", **wanted}
    assert {name: getattr(problem, name) for name in wanted} == wanted


def test_a_mapping_goes_before_a_layout(tmp_path):
    fields = {"problem": "extra_info.question", "answer": "reward_model.ground_truth", "solution": "extra_info.answer"}
    (problem,) = load(tmp_path, VERL, fields=fields)
    assert (problem.problem, problem.answer, problem.solution) == ("What is 1 + 1?", "2", "1 + 1 = 2")
    assert load(tmp_path, VERL, fields={"solution": "extra_info.answer"})[0].solution == "1 + 1 = 2"
    row = {**VERL, "prompt": [SYSTEM, USER]}
    assert load(tmp_path, row, fields={"system": "none"})[0].system is None


def test_verls_parquet_files_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**VERL, "prompt": [SYSTEM, {"role": "user", "content": f"{n} + 1?"}]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    problems = load_problems(tmp_path / "train.parquet", kind="exact")
    assert [p.problem for p in problems] == ["0 + 1?", "1 + 1?", "2 + 1?"]
    assert {(p.answer, p.kind, p.system) for p in problems} == {("2", "exact", "Think first.")}


@pytest.mark.parametrize("width", ["float32", "float64"])
def test_a_number_of_few_bits_is_read_as_it_was_written(tmp_path, width):
    import pyarrow as pa
    import pyarrow.parquet as pq

    answers = pa.array(np.array([0.1, 27, -1.5], dtype=width))
    table = pa.table({"problem": ["a", "b", "c"], "answer": answers, "level": [1, 2, 3]})
    pq.write_table(table, tmp_path / "numbers.parquet")
    assert [p.answer for p in load_problems(tmp_path / "numbers.parquet")] == ["0.1", "27", "-1.5"]


def test_a_row_of_trl_without_an_answer_names_its_columns(tmp_path):
    with pytest.raises(ValueError, match=r"row 1: no 'answer'; .*; its columns are prompt, level"):
        load(tmp_path, {**ASKED, "level": 1})
    with pytest.raises(ValueError, match=r"row 1: 'system' holds an object with a"):
        load(tmp_path, {"prompt": [{"role": "system", "content": {"a": 1}}, USER], "answer": "2"})


def test_the_kind_of_a_file_is_that_of_rows_that_name_none(tmp_path):
    first, second = load(tmp_path, GOOD, {**GOOD, "problem": "B?", "kind": "choice", "answer": "B"}, kind="exact")
    assert (first.kind, second.kind) == ("exact", "choice")


def with_systems(*systems):
    return [Problem(id=str(n), problem="?", answer="1", system=system) for n, system in enumerate(systems)]


def test_the_system_prompt_of_a_run(caplog):
    assert system_prompt_for(with_systems("a", "a"), None) == "a"
    assert "system_prompt is that of the problems: 'a'" in caplog.text
    assert system_prompt_for(with_systems("a", "b", None), "mine") == "mine"
    assert system_prompt_for(with_systems(None, None), None) is None
    with pytest.raises(ValueError, match=r"3 different system prompts, such as 'a' \('0'\) and 'b' \('1'\), "):
        system_prompt_for(with_systems("a", "b", None), None)
