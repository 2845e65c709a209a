"""`sgpo eval` at the command line, with a random model and with an endpoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.cli.evaluate import problem_sets
from sgpo.evaluation import endpoint
from sgpo.prompts import autonomous_prompt
from sgpo.puzzles.benchmark import natural_benchmark
from sgpo.report.read import read_run
from tests.conftest import tiny_qwen2
from tests.strategies.chat_server import ChatServer, Reply, chat, error, html


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads would only wait for each other on matrices so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny_qwen2(eos_token_id=[1, *range(150, 200)]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [{"id": f"q{i}", "problem": f"What is {i} + {i}?", "answer": str(2 * i), "kind": "exact"} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(*words):
    return CliRunner().invoke(app, ["eval", *(str(word) for word in words)])


def rows_of(out, name="sums"):
    lines = (out / "eval" / f"{name}-step-000000.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["problem_id"], row["sample"]): row for row in rows}


def number_in(request):
    return int(request["messages"][0]["content"].split()[2])


def doubles(request, number):
    return chat(f"\\boxed{{{2 * number_in(request)}}}")


def served(server, problems, *words):
    return run("--model", "m", "--engine", "openai", "--base-url", server.url, "--problems", problems, *words)


# ------------------------------------------------------------------------------------------------ the model itself


def test_the_object_and_that_the_batch_size_changes_nothing(model, problems, tmp_path):
    common = ["--model", model, "--problems", problems, "--samples", 3, "--max-tokens", 6, "--temperature", 1.0]
    seen = {}
    for batch_size in (1, 4, 64):
        out = tmp_path / f"run-{batch_size}"
        result = run(*common, "--batch-size", batch_size, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        scores = json.loads(result.stdout)
        seen[batch_size] = {key: row["completion"] for key, row in rows_of(out).items()}
    assert (scores["problems"], scores["k"], scores["missing"]) == (6, 3, 0)
    assert {"avg@3", "pass@1", "pass@2", "pass@3", "maj@3", "verdicts"} <= scores.keys()
    assert sum(scores["verdicts"].values()) == 18
    assert scores["length"]["unit"] == "tokens"
    assert len(seen[1]) == 18
    assert len(set(seen[1].values())) > 12
    assert seen[1] == seen[4] == seen[64]


def test_an_adapter_is_evaluated_as_its_base_and_itself_together(model, problems, tmp_path, tokenizer):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=4, lora_alpha=400, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(adapted, config)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    completions = {}
    for name, path in {"base": model, **{name: tmp_path / name for name in ("adapter", "merged")}}.items():
        tokenizer.save_pretrained(path)
        out = tmp_path / f"run-{name}"
        result = run("--model", path, "--problems", problems, "--samples", 2, "--max-tokens", 6, "--out", out)
        assert result.exit_code == 0, result.stderr
        completions[name] = {key: row["completion"] for key, row in rows_of(out).items()}
    assert completions["adapter"] == completions["merged"] != completions["base"]


def test_without_vllm_its_engine_is_refused_in_one_line(model, problems, tmp_path):
    result = run("--model", model, "--problems", problems, "--engine", "vllm", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the vllm engine needs vLLM, which is not installed; pip install")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_killed_at_any_point_it_goes_on_with_what_is_missing(model, problems, tmp_path):
    common = ["--model", model, "--problems", problems, "--samples", 2, "--max-tokens", 6, "--json"]
    whole = run(*common, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    run(*common, "--out", out)
    file = out / "eval" / "sums-step-000000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [lines[0].replace(b'"verdict": "', b'"verdict": "correct", "was": "'), *lines[1:5]]
    file.write_bytes(b"".join(kept) + lines[7][:40])  # the last line was cut off by the kill
    (out / "eval" / "sums-step-000000.json").unlink()
    again = run(*common, "--out", out)
    assert again.exit_code == 0, again.stderr
    assert len(file.read_text().splitlines()) == len(rows_of(out)) == 12
    expected, got = rows_of(tmp_path / "whole"), rows_of(out)
    assert {key: row["completion"] for key, row in got.items()} == {k: row["completion"] for k, row in expected.items()}
    assert rows_of(out)["q0", 0]["verdict"] == "correct"  # what was kept is not judged again
    before, after = json.loads(whole.stdout)["verdicts"], json.loads(again.stdout)["verdicts"]
    assert after["correct"] == before["correct"] + 1
    more = run(*common, "--samples", 3, "--out", out)
    assert json.loads(more.stdout)["k"] == 3
    assert len(file.read_text().splitlines()) == 18


def test_a_killed_process_loses_no_completion(server, problems, tmp_path):
    """SIGKILL while the fourth answer is awaited; the second run asks for nothing that is there."""
    out = tmp_path / "run"
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--problems", problems, "--samples", 1]
    words = [str(word) for word in [*words, "--concurrency", 1, "--out", out, "--json"]]

    def stall(request, number):
        if number == 3:
            server.closing.wait(20)
        return doubles(request, number)

    server.script = stall
    process = subprocess.Popen(
        [sys.executable, "-c", "from sgpo.cli import main; main()", "eval", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    file = out / "eval" / "sums-step-000000.jsonl"
    while time.monotonic() < deadline and not (file.exists() and file.read_bytes().count(b"\n") == 3):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert set(rows_of(out)) == {("q0", 0), ("q1", 0), ("q2", 0)}
    server.script, server.requests = doubles, []
    result = run(*words)
    assert json.loads(result.stdout)["avg@1"]["mean"] == 1.0
    assert sorted(map(number_in, server.requests)) == [3, 4, 5]


def test_a_context_shorter_than_the_limit_is_said(model, problems, tmp_path, caplog):
    """The context of 512 is what the longest prompt, one byte a token, and the answer share."""
    prompt = "What is 0 + 0?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    result = run("--model", model, "--problems", problems, "--samples", 1, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0
    room = 512 - len(prompt)
    assert f"after the longest prompt ({len(prompt)}) completions are cut at {room} tokens, not 2048" in caplog.text
    assert json.loads((tmp_path / "run" / "eval" / "sums-step-000000.json").read_text())["max_tokens"] == room
    note = f"sums-step-000000.json: completions were cut at {room} tokens, not with max_tokens=2048"
    assert note in read_run(tmp_path / "run", "run").notes


def test_a_prompt_that_fills_the_context_is_refused(model, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"problem": "x" * 600, "answer": "1"}))
    result = run("--model", model, "--problems", file)
    assert result.exit_code == 2
    assert "its context of 512 tokens has no room for an answer" in result.stderr


# ----------------------------------------------------------------------------------------------------- an endpoint


def test_several_benchmarks_from_an_endpoint(server, shared_data, tmp_path):
    """Each brings its k and its length; the prompt is the autonomous one, the seeds differ."""
    server.script = lambda request, number: chat("\\boxed{204}")
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--benchmarks", "aime24,aime25"]
    words = [*words, "--data-dir", shared_data / "benchmarks", "--samples", 2, "--out", tmp_path / "run", "--json"]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert list(scores) == ["aime24", "aime25"]
    assert scores["aime24"]["avg@2"]["mean"] == pytest.approx(1 / 30)  # one problem's answer is 204
    assert len(server.requests) == 120
    assert len({request["seed"] for request in server.requests}) == 120
    request = server.requests[0]
    assert (request["max_tokens"], request["temperature"], request["top_p"]) == (32768, 0.6, 0.95)
    assert (request["top_k"], request["min_p"], request["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert request["messages"][0]["content"].endswith("put your final answer within \\boxed{}.")
    assert (tmp_path / "run" / "eval" / "aime25-step-000000.json").exists()


def test_copies_are_warned_of_and_a_password_is_not_stored(server, problems, tmp_path):
    server.script = doubles
    server.url = server.url.replace("//", "//me:hunter2-secret@")
    result = served(server, problems, "--out", tmp_path / "run", "--temperature", 0)
    assert result.exit_code == 0, result.stderr
    assert "warning: --temperature 0 makes 4 copies of one completion; --samples 1 says as much" in result.stderr
    assert "hunter2" not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json*"))
    assert "warning" not in served(server, problems, "--temperature", 0.1).stderr


def test_the_made_benchmark_from_an_endpoint_that_knows_the_expert(server):
    """Scores by split; a right answer to all but the orderings, which are answered in a wrong form."""
    solved = {problem.problem: problem for problem in natural_benchmark()}
    suffix = autonomous_prompt("")

    def script(request, number):
        problem = solved[request["messages"][0]["content"].removesuffix(suffix)]
        return chat("\\boxed{a}" if problem.level == "ordering" else problem.solution)

    server.script = script
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--benchmarks", "strategies"]
    result = run(*words, "--samples", 1, "--json")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert scores["problems"] == 500
    rates = {level: each["avg"]["mean"] for level, each in scores["levels"].items()}
    assert rates == {"clues": 1.0, "clock": 1.0, "ordering": 0.0}
    assert scores["subjects"]["recombined"]["problems"] == 83


def test_the_k_of_a_benchmark_is_its_own_unless_told(shared_data):
    for samples, expected in [(None, [32, 4]), (2, [2, 2])]:
        sets = problem_sets(None, "amc23,math500", shared_data / "benchmarks", samples)
        assert [each.samples for each in sets] == expected


def test_an_endpoint_that_fails_for_some_problems(server, problems, tmp_path):
    """The rest is kept and scored, the number of missing ones is said, and a second run asks for them alone."""

    def script(request, number):
        return error(400, "this I will not answer") if number_in(request) in (1, 4) else doubles(request, number)

    server.script = script
    out = tmp_path / "run"
    result = served(server, problems, "--samples", 2, "--out", out, "--json")
    assert result.exit_code == 1
    scores = json.loads(result.stdout)
    assert (scores["problems"], scores["missing"], scores["avg@2"]["mean"]) == (4, 2, 1.0)
    assert "missing an answer: 2 problems" in result.stderr
    assert re.search(r"problem .q[14]., sample [01]: ", result.stderr)
    assert "this I will not answer" in result.stderr
    shown = served(server, problems, "--samples", 2, "--out", out).stdout
    assert "INCOMPLETE: 2 of 6 problems missing" in " ".join(shown.split())
    server.script, server.requests = doubles, []
    result = served(server, problems, "--samples", 2, "--out", out, "--json")
    assert (result.exit_code, json.loads(result.stdout)["missing"]) == (0, 0)
    assert sorted(map(number_in, server.requests)) == [1, 1, 4, 4]


def test_what_an_endpoint_may_answer(server, problems, tmp_path):
    """A busy server is asked again; no text, a cut-off one and HTML are what they are."""
    cut = chat("I think")
    cut.body = cut.body.replace(b'"index": 0', b'"index": 0, "finish_reason": "length"')
    null = chat("")
    null.body = null.body.replace(b'"content": ""', b'"content": null')
    seen = []

    def script(request, number):
        which = number_in(request)
        seen.append(which)
        if which == 0 and seen.count(0) == 1:
            return error(503, "busy", retry_after_ms="1")
        return {1: cut, 2: null, 3: html()}.get(which, doubles(request, number))

    server.script = script
    result = served(server, problems, "--samples", 1, "--out", tmp_path / "run", "--json")
    scores = json.loads(result.stdout)
    assert (scores["problems"], scores["missing"]) == (5, 1)
    assert seen.count(0) == 2
    assert "problem 'q3', sample 0: no chat completion" in result.stderr
    rows = rows_of(tmp_path / "run")
    assert (rows["q1", 0]["truncated"], rows["q0", 0]["truncated"], rows["q0", 0]["tokens"]) == (True, False, 10)
    assert rows["q2", 0]["verdict"] == "unparsed"
    assert scores["truncated"] == pytest.approx(1 / 5)


def test_an_endpoint_whose_context_is_shorter_is_asked_without_a_limit(server, problems, tmp_path, caplog):
    def script(request, number):
        if "max_tokens" in request:
            return error(400, "This model's maximum context length is 1024 tokens")
        return doubles(request, number)

    server.script = script
    words = ["--samples", 1, "--out", tmp_path / "run", "--json"]
    result = served(server, problems, *words)
    assert json.loads(result.stdout)["avg@1"]["mean"] == 1.0
    assert "asked without a limit from now on" in caplog.text
    assert {row["max_tokens"] for row in rows_of(tmp_path / "run").values()} == {None}
    scores = tmp_path / "run" / "eval" / "sums-step-000000.json"
    assert json.loads(scores.read_text())["max_tokens"] is None
    served(server, problems, *words)  # asks for nothing, and so is refused nothing
    assert json.loads(scores.read_text())["max_tokens"] is None
    notes = read_run(tmp_path / "run", "run").notes
    assert (
        "sums-step-000000.json: completions were asked for without a limit of tokens, not with max_tokens=2048" in notes
    )


def test_options_that_an_endpoint_refuses_are_left_to_it_and_said(server, problems, tmp_path, caplog):
    def script(request, number):
        if "top_k" in request:
            return error(400, "Unrecognized request argument supplied: top_k")
        if "min_p" in request:
            return error(422, "[{'loc': ['body', 'min_p'], 'msg': 'Extra inputs are not permitted'}]")
        return doubles(request, number)

    server.script = script
    words = ["--samples", 1, "--concurrency", 1, "--out", tmp_path / "run"]
    result = served(server, problems, *words, "--json")
    assert json.loads(result.stdout)["left_to_server"] == ["min_p", "top_k"]
    assert len(server.requests) == 2 + 6  # refused once each
    assert {request.get("repetition_penalty") for request in server.requests} == {1.0}
    assert caplog.text.count("left to the server from now on") == 2
    shown = served(server, problems, *words)  # asks for nothing, and so is refused nothing
    assert "left to the server, which refused to be told: min_p and top_k" in " ".join(shown.stdout.split())
    scores = json.loads((tmp_path / "run" / "eval" / "sums-step-000000.json").read_text())
    assert scores["left_to_server"] == ["min_p", "top_k"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "bad key sk-secret-of-mine"), "check --base-url"),
        (error(404, "no such model"), "refuses model 'm'"),
        (error(400, "never"), "sums: nothing was answered; problem 'q"),
        (html(), "sums: nothing was answered; problem 'q"),
    ],
)
def test_an_endpoint_that_is_no_use_ends_in_one_line(server, problems, monkeypatch, reply, message):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    server.script = lambda request, number: reply
    result = served(server, problems, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "secret" not in result.stderr


def test_a_server_that_goes_away_keeps_what_was_answered(server, problems, monkeypatch):
    """After a while in which nothing gets through, nothing more is asked; what there is is scored."""
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    monkeypatch.setattr(endpoint, "UNREACHED_IN_A_ROW", 1)
    server.script = lambda request, number: doubles(request, number) if number < 4 else Reply(act="drop")
    result = served(server, problems, "--samples", 2, "--concurrency", 1, "--json")
    assert result.exit_code == 1
    assert (json.loads(result.stdout)["problems"], json.loads(result.stdout)["missing"]) == (2, 4)
    assert len(server.requests) == 6
    assert "5 more" in result.stderr


def test_a_benchmark_without_any_answer_does_not_hide_the_others(server, shared_data, monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    monkeypatch.setattr(endpoint, "UNREACHED_IN_A_ROW", 1)
    server.script = lambda request, number: chat("\\boxed{204}") if number < 30 else Reply(act="drop")
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--benchmarks", "aime24,aime25"]
    words = [*words, "--data-dir", shared_data / "benchmarks", "--samples", 1, "--concurrency", 1, "--json"]
    result = run(*words)
    assert result.exit_code == 1
    assert {name: scores["problems"] for name, scores in json.loads(result.stdout).items()} == {"aime24": 30}
    assert "missing an answer: 30 problems" in result.stderr


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --problems FILE or --benchmarks NAMES"),
        (["--benchmarks", "math50"], "unknown benchmark 'math50'"),
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl: no such problem file"),
        (["--problems", "SUMS", "--engine", "openai"], "--engine openai needs --base-url"),
        (["--problems", "SUMS", "--base-url", "http://x/v1"], "--engine openai needs --base-url"),
        (["--problems", "SUMS", "--engine", "openai", "--base-url", "local"], "--base-url local: not an address"),
        (["--problems", "SUMS", "--temperature", "-1"], "temperature must not be negative"),
        (["--problems", "SUMS", "--top-p", "0"], "top_p must lie in (0, 1]"),
        (["--problems", "SUMS", "--prompt-style", "odd"], "unknown prompt style 'odd'"),
        (["--problems", "SUMS"], "no such model"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(problems, tmp_path, words, message):
    words = [str(problems) if word == "SUMS" else word for word in words]
    result = run("--model", tmp_path / "nothing", *words, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out/eval/*"))


def test_a_directory_that_holds_something_else_is_refused(server, problems, tmp_path):
    server.script = doubles
    out = tmp_path / "run"
    assert served(server, problems, "--out", out).exit_code == 0
    before = (out / "config.json").read_text()
    result = served(server, problems, "--out", out, "--temperature", 1.0)
    assert result.exit_code == 2
    assert "holds an evaluation with temperature 0.6 (now 1.0); choose another --out" in result.stderr
    problems.write_text(problems.read_text().replace("What is 0", "Is 0"))
    result = served(server, problems, "--out", out)
    assert "on other problems named 'sums'" in result.stderr
    assert (out / "config.json").read_text() == before
    (out / "config.json").write_text('{"algorithm": "sgpo"}')
    assert "holds another run" in served(server, problems, "--out", out).stderr


def test_completions_of_other_weights_are_not_gone_on_with(model, problems, tmp_path, tokenizer):
    """A path whose model was trained on, or whose tokenizer was changed, is another model."""
    copied, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(model, copied)
    words = ["--model", copied, "--problems", problems, "--samples", 1, "--max-tokens", 2, "--out", out]
    assert run(*words).exit_code == 0
    assert run(*words).exit_code == 0
    before = (out / "config.json").read_text()
    tiny_qwen2(seed=1, eos_token_id=[1, *range(150, 200)]).save_pretrained(copied)
    result = run(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "holds an evaluation with revision '" in result.stderr
    assert (out / "config.json").read_text() == before
    shutil.copytree(model, copied, dirs_exist_ok=True)
    (copied / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert "holds an evaluation with revision" in run(*words).stderr


def test_a_broken_row_is_named(server, problems, tmp_path):
    server.script = doubles
    out = tmp_path / "run"
    served(server, problems, "--out", out)
    with (out / "eval" / "sums-step-000000.jsonl").open("a") as file:
        file.write('{"problem_id": "q0"}\n')
    result = served(server, problems, "--out", out)
    assert "sums-step-000000.jsonl, row 25: no completion of an evaluation (no 'completion'); delete" in result.stderr


def test_two_evaluations_can_be_compared_and_reported(server, problems, tmp_path):
    server.script = doubles
    served(server, problems, "--out", tmp_path / "a")
    server.script = lambda request, number: chat("\\boxed{0}")
    served(server, problems, "--out", tmp_path / "b")
    compared = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    (evaluation,) = json.loads(compared.stdout)["evaluations"]
    assert evaluation["differences"][0]["final"]["mean"] == pytest.approx(-5 / 6)
    reported = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert reported.exit_code == 0, reported.stderr


def test_the_kind_is_that_of_a_file_and_not_of_a_benchmark(problems, tmp_path):
    row = {"id": "q", "problem": "?", "answer": "B"}
    problems.write_text(json.dumps(row) + "\n")
    assert problem_sets(problems, None, None, 1, "choice")[0].problems[0].kind == "choice"
    refused = run("--model", "m", "--benchmarks", "gsm8k", "--kind", "exact", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "--kind is for --problems alone" in refused.stderr
