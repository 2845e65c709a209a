"""Evaluation of a policy: what is asked, how it is judged, and what is kept of it."""

from __future__ import annotations

import fcntl
import math
import resource

import pytest
import torch
from typer.testing import CliRunner

from sgpo import Problem, Verifier
from sgpo.cli import app
from sgpo.errors import RunDirectoryError
from sgpo.evaluation.evaluate import EngineSource, evaluate
from sgpo.evaluation.store import CompletionFile
from sgpo.problems import save_problems
from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.hf import HFEngine
from sgpo.verifier import Verdict
from tests.training.building import END_TOKENS, ScriptedEngine, hash_verdict, policy, some_problems

SAMPLING = Sampling(max_tokens=8, temperature=1.0)


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads would only wait for each other on matrices so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(problems, engine, tokenizer, verifier=hash_verdict, **options):
    defaults = {"samples": 2, "style": "compact", "seed": 0}
    return evaluate(problems, EngineSource(engine, tokenizer), verifier, SAMPLING, **(defaults | options))


def test_scores_and_rows_of_completions_made_by_hand(tokenizer):
    """q0 is right in one of four samples, q1 in three; one answer is missing, one was cut off."""
    said = {"q0": ["1.", "2.", "2.", "..."], "q1": ["7.", "7.", "7.", "8"]}
    problems = [Problem(id="q0", problem="a", answer="1"), Problem(id="q1", problem="b", answer="7", subject="sums")]

    def script(prompt, number):
        return said["q0" if prompt == " a" else "q1"][number]

    def verdict(completion, problem):
        answer = completion.strip(".")
        return Verdict(("correct" if answer == problem.answer else "wrong") if answer else "unparsed", answer or None)

    result = run(problems, ScriptedEngine(tokenizer, script), tokenizer, verdict, samples=4)
    assert result.samples == {
        "q0": ["correct", "wrong", "wrong", "unparsed"],
        "q1": ["correct", "correct", "correct", "wrong"],
    }
    scores = result.scores
    assert (scores["problems"], scores["k"]) == (2, 4)
    assert scores["avg@4"]["mean"] == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert scores["pass@2"]["mean"] == pytest.approx((1 / 2 + 1) / 2)  # 1 - C(3,2)/C(4,2), and one wrong of four
    assert scores["maj@4"]["mean"] == 0.5  # q0: 2 wins over 1
    assert scores["verdicts"] == {"correct": 4, "wrong": 3, "unparsed": 1, "timeout": 0}
    assert result.rows[7] == {
        "problem_id": "q1", "subject": "sums", "sample": 3, "prompt": " b", "completion": "8", "tokens": 1,
        "truncated": True, "verdict": "wrong", "extracted": "8",
    }  # fmt: skip
    assert result.details["length"] == {"unit": "tokens", "mean": 2.0, "median": 2.0, "max": 3}
    assert result.details["truncated"] == 1 / 8
    assert {part: value["avg"]["mean"] for part, value in result.details["subjects"].items()} == {"sums": 0.75}
    written = result.to_json(name="fresh", step=3)
    assert written == {"name": "fresh", "step": 3, **scores, **result.details, "samples": result.samples}


def test_a_completion_depends_on_its_problem_and_number_alone(tokenizer):
    engine = HFEngine(policy(), pad_id=0, eos_ids=END_TOKENS)
    problems = some_problems(5)
    whole = run(problems, engine, tokenizer, samples=3)
    fewer = run(problems[3:1:-1], engine, tokenizer, samples=2)
    texts = {(row["problem_id"], row["sample"]): row["completion"] for row in whole.rows}
    assert len(fewer.rows) == 4
    for row in fewer.rows:
        assert row["completion"] == texts[row["problem_id"], row["sample"]]
    assert len(set(texts.values())) > 10
    other = run(problems, engine, tokenizer, samples=3, seed=1)
    assert [row["completion"] for row in other.rows] != [row["completion"] for row in whole.rows]


def test_the_prompt_is_the_autonomous_one_of_its_style(tokenizer):
    engine = ScriptedEngine(tokenizer, lambda prompt, number: prompt)
    problem = Problem(id="q", problem="What is {x}?", answer="1")
    (row, *_) = run([problem], engine, tokenizer).rows
    assert row["completion"] == row["prompt"] == " What is {x}?"
    (row, *_) = run([problem], engine, tokenizer, style="math").rows
    assert row["completion"] == row["prompt"]
    assert row["prompt"].startswith("What is {x}?\n\n")
    assert row["prompt"].endswith("\\boxed{}.")


def test_a_function_that_returns_numbers_says_passed_or_not(tokenizer):
    rewards = iter([1.0, 0.51, 0.5, math.nan])
    engine = ScriptedEngine(tokenizer, lambda prompt, number: f"{number}.")
    result = run(some_problems(1), engine, tokenizer, lambda completion, problem: next(rewards), samples=4)
    assert result.samples == {"q0": ["correct", "correct", "wrong", "timeout"]}
    assert result.scores["verdicts"] == {"correct": 2, "wrong": 1, "unparsed": 0, "timeout": 1}


def test_our_verifier_judges_by_the_kind_of_the_problem(tokenizer):
    problems = [
        Problem(id="exact", problem="e", answer="3 1 4", kind="exact"),
        Problem(id="math", problem="m", answer="1/2", kind="math"),
    ]
    said = {" e": ["answer: 3 1 4", "answer: 3 1 5"], " m": ["so \\boxed{0.5}", "so \\boxed{2}"]}
    engine = ScriptedEngine(tokenizer, lambda prompt, number: said[prompt][number])
    with Verifier(workers=1) as verifier:
        result = run(problems, engine, tokenizer, verifier)
    assert result.samples == {"exact": ["correct", "wrong"], "math": ["correct", "wrong"]}


@pytest.mark.parametrize(
    ("problems", "message"), [([], "no problems"), ([*some_problems(2), some_problems(1)[0]], "same id")]
)
def test_no_problems_or_two_of_one_id_are_refused_before_anything_is_sampled(tokenizer, problems, message):
    with pytest.raises(ValueError, match=message):
        run(problems, None, tokenizer)


@pytest.mark.parametrize("count", [5, 1])
def test_processes_share_the_problems_and_come_to_the_same(tokenizer, count):
    """Each samples its part; with one problem the second has none."""
    problems = some_problems(count)
    asked, sampled = [], {}

    class Engine(HFEngine):
        def generate(self, prompts, sampling, *, seeds):
            asked.append(len(prompts))
            return super().generate(prompts, sampling, seeds=seeds)

    def part(process, gather):
        engine = Engine(policy(), pad_id=0, eos_ids=END_TOKENS)
        return run(problems, engine, tokenizer, rank=process, world_size=2, gather=gather)

    def keep(own):
        sampled[len(sampled)] = own
        raise StopIteration

    alone = run(problems, HFEngine(policy(), pad_id=0, eos_ids=END_TOKENS), tokenizer)
    for process in (0, 1):
        with pytest.raises(StopIteration):
            part(process, keep)
    assert asked == [2 * (count - count // 2), 2 * (count // 2)]
    for process in (0, 1):
        assert part(process, lambda own: sampled[0] + sampled[1]) == alone


class CountingEngine(ScriptedEngine):
    """Answers "7.", and counts the completions that were asked for."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, lambda prompt, number: "7.")
        self.asked = 0

    def generate(self, prompts, sampling, *, seeds):
        self.asked += len(prompts)
        return super().generate(prompts, sampling, seeds=seeds)


def test_answers_are_kept_before_they_are_judged(tokenizer, tmp_path):
    """A kill while the first is judged loses none of twelve."""

    def killed(completion, problem):
        raise KeyboardInterrupt

    engine, file = CountingEngine(tokenizer), CompletionFile(tmp_path / "eval/sums.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run(some_problems(6), engine, tokenizer, killed, kept=file)
    assert [row["completion"] for row in file.read()] == ["7."] * 12
    assert not any("verdict" in row for row in file.read())
    result = run(some_problems(6), engine, tokenizer, kept=file)
    assert engine.asked == 12
    assert result.scores == run(some_problems(6), CountingEngine(tokenizer), tokenizer).scores
    assert [row["verdict"] for row in file.read()] == [kind for kinds in result.samples.values() for kind in kinds]


def test_a_full_disk_loses_no_answer_that_came_before(tokenizer, tmp_path):
    engine, file = CountingEngine(tokenizer), CompletionFile(tmp_path / "sums.jsonl")
    source = EngineSource(engine, tokenizer, batch_size=2)
    arguments = (some_problems(6), source, hash_verdict, SAMPLING)
    options = {"samples": 2, "style": "compact", "seed": 0, "kept": file}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match=r"sums.jsonl: cannot be written"):
            evaluate(*arguments, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    there = file.read()
    assert len(there) >= engine.asked - 2  # all but the last batch, and what fitted of that
    assert there
    asked = engine.asked
    evaluate(*arguments, **options)
    assert engine.asked == asked + 12 - len(there)


def test_an_evaluation_that_another_process_works_on_is_refused_in_one_line(tmp_path):
    save_problems(some_problems(2), tmp_path / "sums.jsonl")
    (tmp_path / "out").mkdir()
    words = ["eval", "--model", "m", "--engine", "openai", "--base-url", "http://127.0.0.1:9/v1"]
    words += ["--problems", str(tmp_path / "sums.jsonl"), "--out", str(tmp_path / "out")]
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "out: in use by another process" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"problem_id": "q', b"\xff\xfe", b"9" * 5000, b"[" * 9999, b"\x00"])
def test_a_damaged_row_of_an_evaluation_is_named(tmp_path, line):
    (tmp_path / "sums.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RunDirectoryError, match=r"sums.jsonl, row 1: .*; delete the row, or the file"):
        CompletionFile(tmp_path / "sums.jsonl").read()
