"""The benchmarks by name: their files, and what is refused in their place."""

import json
import re
import sys
from types import SimpleNamespace

import datasets.config
import pytest

import sgpo.puzzles  # noqa: F401  (registers `strategies`)
from sgpo.evaluation.benchmarks import (
    ALL_BENCHMARKS,
    BENCHMARKS,
    benchmark_names,
    load_benchmark,
    register_benchmark,
)
from sgpo.problems import Problem
from sgpo.prompts import prompt_style


@pytest.mark.parametrize(
    ("name", "rows", "k", "first"),
    [
        ("math500", 500, 4, "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("amc23", 40, 32, "27"),
        ("olympiadbench", 675, 4, "2"),
        ("aime24", 30, 32, "204"),
        ("aime25", 30, 32, "70"),
        ("minerva", 272, 4, "1.6"),
        ("gsm8k", 1319, 4, "18"),
    ],
)
def test_a_local_folder_serves_every_benchmark(shared_data, name, rows, k, first):
    problems = load_benchmark(name, shared_data / "benchmarks")
    assert (len(problems), BENCHMARKS[name].k, problems[0].answer) == (rows, k, first)
    assert prompt_style(BENCHMARKS[name].style)


def test_a_made_benchmark_needs_neither_folder_nor_hub(tmp_path):
    for folder in (None, tmp_path):
        problems = load_benchmark("strategies", folder)
        assert (len(problems), ALL_BENCHMARKS["strategies"].k) == (500, 4)


def test_a_benchmark_is_registered_once(monkeypatch):
    made = [Problem(id="q", problem="1 + 1?", answer="2")]
    for name in ("math500", "strategies"):
        with pytest.raises(ValueError, match=f"benchmark '{name}' exists already"):
            register_benchmark(name, k=1, make=lambda: made)
    monkeypatch.setattr("sgpo.evaluation.benchmarks.ALL_BENCHMARKS", dict(BENCHMARKS))
    register_benchmark("mine", k=3, make=lambda: made)
    assert benchmark_names("mine") == ["mine"]
    assert load_benchmark("mine") == made


def test_names():
    assert benchmark_names("math500, strategies") == ["math500", "strategies"]
    for text, message in [("math5000", "unknown benchmark 'math5000'; there are: math500"), ("", "different names")]:
        with pytest.raises(ValueError, match=message):
            benchmark_names(text)
    with pytest.raises(ValueError, match="different names"):
        benchmark_names("aime24,aime24")


def test_an_amc23_of_83_problems_is_refused_with_the_reason(tmp_path):
    rows = [json.dumps({"id": str(i), "problem": f"p{i}", "answer": "1"}) for i in range(83)]
    (tmp_path / "amc23.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"83 problems, amc23 has 40 \(the 40 problems .* AMC22 too\); .* --problems"):
        load_benchmark("amc23", tmp_path)


def test_a_file_with_another_content_is_refused(tmp_path, shared_data):
    text = (shared_data / "benchmarks" / "aime24.jsonl").read_text(encoding="utf-8")
    (tmp_path / "aime24.jsonl").write_text(text.replace('"answer": "204"', '"answer": "205"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"aime24.jsonl: not the file of aime24 .* sha256"):
        load_benchmark("aime24", tmp_path)
    with pytest.raises(ValueError, match=r"aime25.jsonl: no such problem file"):
        load_benchmark("aime25", tmp_path)


def test_every_hub_dataset_is_pinned_to_a_commit():
    hubs = [benchmark.hub for benchmark in BENCHMARKS.values() if benchmark.hub]
    assert len(hubs) == 6
    assert all(re.fullmatch("[0-9a-f]{40}", hub.revision) for hub in hubs)


def test_from_the_hub_at_its_revision(monkeypatch):
    """What is asked of `datasets`, and GSM8K's answer out of its rationale. The hub itself cannot be reached here."""
    asked = {}

    def load_dataset(name, subset, *, split, revision):
        asked.update(name=name, subset=subset, split=split, revision=revision)
        return [{"question": f"q{i}", "answer": f"2 + {i}\n#### {i},000"} for i in range(1319)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, config=datasets.config))
    problems = load_benchmark("gsm8k")
    assert asked == {
        "name": "openai/gsm8k", "subset": "main", "split": "test",
        "revision": "740312add88f781978c0658806c59bc2815b9866",
    }  # fmt: skip
    assert (problems[7].problem, problems[7].answer) == ("q7", "7000")
    with pytest.raises(ValueError, match="olympiadbench: not on the hub in this form"):
        load_benchmark("olympiadbench")


def test_a_hub_dataset_of_another_size_is_refused(monkeypatch):
    rows = [{"question": f"q{i}", "answer": "1"} for i in range(83)]
    fake = SimpleNamespace(load_dataset=lambda name, subset, *, split, revision: rows, config=datasets.config)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(ValueError, match="math-ai/amc23: 83 problems, amc23 has 40"):
        load_benchmark("amc23")
