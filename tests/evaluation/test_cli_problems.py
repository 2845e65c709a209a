"""`sgpo problems check` and `sgpo problems import` at the command line."""

import csv
import json

import pytest
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.cli.problems import _lenient_problem
from sgpo.evaluation.benchmarks import BENCHMARKS, load_benchmark
from sgpo.evaluation.decontamination import find_matches, numbers
from sgpo.io import read_rows
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.verifier import Verifier

# Of the rows of contamination.jsonl whose match is "near", those that one reader found to be the same problem: the
# others ask for something else, or have other numbers.
SAME_PROBLEM = {
    ("deepscaler-math-4520", "olympiadbench-2895"),
    ("aime-2016-1-10", "test/intermediate_algebra/345.json"),
    ("deepscaler-lv5-3792", "olympiadbench-1918"),
}


def run(*words):
    return CliRunner().invoke(app, ["problems", *(str(word) for word in words)])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    held_out = [
        {"id": "b1", "problem": "Find the remainder when $2^{10} + 3 \\cdot 4$ is divided by $7$.", "answer": "0"},
        {"id": "b2", "problem": "How many ways are there to seat 5 people around a round table?", "answer": "24"},
    ]
    train = [
        {
            "id": "t1",
            "problem": "How many ways are there to seat 5 people around a round table?",
            "answer": "24",
            "k": 1,
        },
        {"id": "t2", "problem": "Find the remainder when $2^{10}+3\\cdot 4$ is divided by 7", "answer": "0"},
        {"id": "t3", "problem": "How many ways are there to seat 6 people around a round table?", "answer": "120"},
        {"id": "t4", "problem": "What is the area of a square of side 3?", "answer": "9"},
        {
            "id": "t5",
            "problem": "Now find \\quad the remainder when $\\left(2^{10} + 3 \\cdot 4\\right)$ is divided by $7$.",
            "answer": "0.0",
        },
        {"id": "t6", "problem": "Square the remainder when $2^{10} + 3 \\cdot 4$ is divided by $7$.", "answer": "148"},
        {
            "id": "t7",
            "problem": "Find the remainder when $2^{10} + 3 \\cdot 4$ is divided by $7$, now.",
            "answer": None,
        },
    ]
    return write(tmp_path / "train.jsonl", train), write(tmp_path / "held-out.jsonl", held_out)


def test_exact_and_near_matches_are_listed_and_dropped(files, tmp_path):
    """Other numbers (t3) or another answer (t6) are variants; a missing answer (t7) excuses nothing."""
    train, held_out = files
    clean = tmp_path / "clean.jsonl"
    result = run("check", "--train", train, "--against", held_out, "--drop", clean, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert {(m["train_id"], m["benchmark_id"]): m["match"] for m in document["matches"]} == {
        ("t1", "b2"): "exact", ("t2", "b1"): "exact", ("t3", "b2"): "variant", ("t5", "b1"): "near",
        ("t6", "b1"): "variant", ("t7", "b1"): "near",
    }  # fmt: skip
    counts = {key: document[key] for key in ("train", "against", "contaminated", "exact", "near", "variant", "kept")}
    assert counts == {
        "train": 7, "against": {"held-out": 2}, "contaminated": 4, "exact": 2, "near": 2, "variant": 2, "kept": 3,
    }  # fmt: skip
    kept = [json.loads(line) for line in train.read_text().splitlines()]
    assert [json.loads(line) for line in clean.read_text().splitlines()] == [kept[2], kept[3], kept[5]]
    long = f"train/{'Z' * 90}.json"
    (tmp_path / "long.jsonl").write_text(json.dumps({**kept[0], "id": long}) + "\n", encoding="utf-8")
    shown = run("check", "--train", tmp_path / "long.jsonl", "--against", held_out).stdout
    assert "\u2026" not in shown  # ids are whole, over several lines
    assert shown.count("Z") == 90
    shown = run("check", "--train", train, "--against", held_out).stdout
    assert "in held-out: 4 of 7 training problems" in shown
    assert "--drop FILE" in shown


def test_numbers():
    assert numbers("In 1,000 or $1{,}000$ or 07 [asy] draw(3); [/asy] (1) of 2") == {"1000": 2, "7": 1, "2": 1}


def test_what_is_known_of_real_training_sets(shared_data):
    """Precision and recall on contamination.jsonl; the three smaller sets, since all take a minute."""
    rows = [row for _, row in read_rows(shared_data / "train" / "contamination.jsonl")]
    benchmarks = {name: load_benchmark(name, shared_data / "benchmarks") for name in BENCHMARKS if name != "gsm8k"}
    files = ("aime_1983_2023", "dsr_sub_1209", "limr_1389")
    train = [
        _lenient_problem(row, file) for file in files for _, row in read_rows(shared_data / "train" / f"{file}.jsonl")
    ]
    with Verifier() as verifier:
        found = {(m.train_id, m.benchmark_id): m.match for m in find_matches(train, benchmarks, verifier)}
    known = {(row["train_id"], row["benchmark_id"]): row["match"] for row in rows if row["train_file"] in files}
    same = {pair for pair, match in known.items() if match == "exact" or pair in SAME_PROBLEM}
    assert len(known) == 12
    assert {pair for pair in known if found.get(pair) in ("exact", "near")} == same
    assert {pair for pair in known if found[pair] == "exact"} == {p for p, match in known.items() if match == "exact"}
    # Beyond what is known: the same problems in other words, read by hand.
    beyond = {pair for pair, match in found.items() if match != "variant"} - same
    assert beyond == {
        ("aime-2006-2-5", "test/counting_and_probability/1003.json"),
        ("limr-047c3da2-40a3-447c-996d-67ed9469a728", "test/intermediate_algebra/1566.json"),
    }


def test_problems_that_lost_backslashes_are_named(tmp_path, files):
    _, held_out = files
    lost = [
        {"id": "a", "problem": "What is 1 + 1?", "answer": "\boxed{2}"},
        {"id": "b", "problem": "Simplify \frac{2}{4}.", "answer": "0.5"},
        {"id": "c", "problem": "Simplify \\frac{3}{4}.", "answer": "0.75", "solution": "It is \text{three quarters}."},
    ]
    whole = [{"id": "d", "problem": "A\ttable\r\nof two\rlines", "answer": "\\boxed{2}"}]
    words = "check", "--train", write(tmp_path / "lost.jsonl", lost + whole), "--against", held_out
    assert json.loads(run(*words, "--json").stdout)["broken_latex"] == ["a", "b", "c"]
    assert "lost backslashes, which JSON wants twice (\\\\boxed): 3 problems ('a', 'b', 'c')" in run(*words).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "nowhere.jsonl", "--against", "aime24"], "--train nowhere.jsonl: no such file"),
        (["--train", "TRAIN", "--against", "math50"], "--against 'math50': no such file, and no benchmark"),
        (["--train", "TRAIN", "--against", ","], "--against: name benchmarks or problem files"),
        (["--train", "TRAIN", "--against", "HELD", "--drop", "TRAIN"], "exists already, and nothing is written over"),
        (["--train", "TRAIN", "--against", "HELD", "--drop", "no/where.jsonl"], "no such directory no"),
    ],
)
def test_mistakes_of_check_are_one_line(files, words, message):
    names = {"TRAIN": files[0], "HELD": files[1]}
    result = run("check", *(names.get(word, word) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_training_rows_that_are_none(tmp_path, files):
    for text, message in [
        ("{}\n", "bad.jsonl, row 1: no 'problem'"),
        ("", "no problems in it"),
        ("x", "row 1: not JSON"),
    ]:
        (tmp_path / "bad.jsonl").write_text(text)
        result = run("check", "--train", tmp_path / "bad.jsonl", "--against", files[1])
        assert (result.exit_code, message in result.stderr) == (2, True)


# ------------------------------------------------------------------------------------------------------------ import


def test_import_from_csv_and_parquet_by_naming_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    with (tmp_path / "q.csv").open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet writes it
        csv.writer(file).writerows(
            [["question", "final", "topic"], ["What is\n1 + 1?", "2", "sums"], ["2 + 2?", "4", ""]]
        )
    columns = {"question": ["What is\n1 + 1?", "2 + 2?"], "final": [2.0, 4.0], "topic": ["sums", None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "q.parquet")
    fields = ["--field", "problem=question", "--field", "answer=final", "--field", "subject=topic"]
    for name in ("q.csv", "q.parquet"):
        out = tmp_path / f"{name}.jsonl"
        result = run("import", tmp_path / name, "--out", out, *fields, "--json")
        assert json.loads(result.stdout) == {"problems": 2, "out": str(out)}
        first, second = load_problems(out)
        assert (first.problem, first.answer, first.subject) == ("What is\n1 + 1?", "2", "sums")
        assert (second.answer, second.id != first.id) == ("4", True)
    limited = run("import", tmp_path / "q.csv", "--out", tmp_path / "one.jsonl", *fields, "--limit", 1)
    assert "one.jsonl: 1 problem" in limited.stdout.replace("\n", "")


def test_import_from_a_hub_dataset(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split, revision):
        asked.append((name, subset, split, revision))
        return [{"prompt": [{"content": "1 + 1?"}], "gold": "2"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    words = ["--field", "problem=prompt.0.content", "--field", "answer=gold", "--split", "test", "--revision", "abc"]
    assert run("import", "owner/name", "--out", tmp_path / "p.jsonl", *words).exit_code == 0
    assert asked == [("owner/name", None, "test", "abc")]
    assert load_problems(tmp_path / "p.jsonl")[0].problem == "1 + 1?"


def test_import_from_a_folder_of_a_dataset(tmp_path):
    """As `save_to_disk` writes one dataset or several splits, and a folder of data files."""
    import datasets

    train = datasets.Dataset.from_dict({"question": ["1 + 1?", "2 + 2?"], "answer": ["2", "4"]})
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": train.select([1])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    train.to_parquet(tmp_path / "files" / "train.parquet")
    for number, (name, *words) in enumerate([("one",), ("splits", "--split", "test"), ("files",)]):
        out = tmp_path / f"{name}.jsonl"
        result = run("import", tmp_path / name, "--field", "problem=question", "--out", out, *words)
        assert result.exit_code == 0, result.stderr
        assert [problem.answer for problem in load_problems(out)] == [["2", "4"], ["4"], ["2", "4"]][number]
    result = run("import", tmp_path / "splits", "--split", "dev", "--out", tmp_path / "no.jsonl")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "splits: neither a problem file nor a dataset that could be loaded" in result.stderr


def test_a_check_that_finds_nothing_shows_no_table(tmp_path):
    save_problems([Problem(id="a", problem="How many legs have 7 horses?", answer="28")], tmp_path / "train.jsonl")
    save_problems([Problem(id="b", problem="What is the square of 12?", answer="144")], tmp_path / "test.jsonl")
    result = run("check", "--train", tmp_path / "train.jsonl", "--against", tmp_path / "test.jsonl")
    assert (result.exit_code, result.stdout) == (0, "in test: 0 of 1 training problem\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["q.csv", "--field", "question"], "--field 'question': expected FIELD=COLUMN with a field of id, problem"),
        (["q.csv", "--field", "text=question"], "--field 'text=question'"),
        (["q.csv"], "q.csv, row 2: no 'problem'; every problem needs"),
        (["q.csv", "--field", "problem=question", "--field", "answer=final"], "q.csv, row 3: no 'final'"),
        (
            ["q.csv", "--field", "problem=question", "--field", "answer=finl"],
            "q.csv, row 2: no 'finl'; every problem needs a text and a gold answer; its columns are question, final",
        ),
        (["gone.parquet"], "gone.parquet: no such problem file"),
        (["broken.parquet"], "broken.parquet: cannot be read as parquet"),
        (["latin.csv"], "latin.csv, row 2: not UTF-8 text"),
    ],
)
def test_mistakes_of_import_leave_nothing(tmp_path, words, message):
    (tmp_path / "q.csv").write_text("question,final\n1 + 1?,2\n2 + 2?,\n")
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "latin.csv").write_bytes("problem,answer\né,1\n".encode("latin-1"))
    result = run("import", tmp_path / words[0], *words[1:], "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out.jsonl*"))
    (tmp_path / "out.jsonl").write_text("mine")
    assert "nothing is written over" in run("import", tmp_path / words[0], "--out", tmp_path / "out.jsonl").stderr


def test_import_leaves_out_bad_and_repeated_rows_counted_and_listed(tmp_path):
    rows = [
        {"problem": "a", "answer": "1"},
        {"problem": "b"},
        {"problem": "a", "answer": "2"},
        {"problem": "c", "answer": [1, 2]},
    ]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    last = json.dumps({"problem": "d", "answer": "4"})
    source.write_bytes(source.read_bytes() + b'{broken\n{"problem": "\xff", "answer": "1"}\n' + last.encode())
    assert run("import", source, "--out", out).exit_code == 2
    refused = run("import", source, "--out", out, "--skip-bad")
    assert (refused.exit_code, "row 3: the same problem as in row 1" in refused.stderr) == (2, True)
    assert not out.exists()
    result = run("import", source, "--out", out, "--skip-bad", "--drop-repeated")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}: 2 problems, 4 bad left out, 1 repeated left out\n"
    assert [line.partition(", row ")[2][:1] for line in result.stderr.splitlines()] == ["2", "4", "5", "6", "3"]
    assert [problem.problem for problem in load_problems(out)] == ["a", "d"]
    out.unlink()
    document = json.loads(run("import", source, "--out", out, "--skip-bad", "--drop-repeated", "--json").stdout)
    assert (document["problems"], document["bad"], document["repeated"], len(document["left_out"])) == (2, 4, 1, 5)


def test_an_import_from_verls_layout_with_a_kind(tmp_path):
    chat = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}]
    source = write(tmp_path / "verl.jsonl", [{"prompt": chat, "reward_model": {"ground_truth": "2"}}])
    result = run("import", source, "--kind", "exact", "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.stderr
    (problem,) = load_problems(tmp_path / "out.jsonl")
    assert (problem.problem, problem.answer, problem.kind, problem.system) == ("1 + 1?", "2", "exact", "Think.")
    refused = run("import", source, "--kind", "maths", "--out", tmp_path / "other.jsonl")
    assert (refused.exit_code, (tmp_path / "other.jsonl").exists()) == (2, False)
    assert "unknown kind of problem 'maths'" in refused.stderr
    rows = list(read_rows(source))
    assert _lenient_problem(rows[0][1], "row 1").answer == "2"
