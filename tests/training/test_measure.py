"""What strategies do for a model: numbers worked out by hand, resuming, choosing among candidates, the advice."""

import json

import pytest
from typer.testing import CliRunner

from sgpo import Problem, Strategy, StrategyBank
from sgpo.cli import app
from sgpo.errors import EndpointError, InputError, RunDirectoryError
from sgpo.evaluation.evaluate import SampledCompletion
from sgpo.evaluation.store import CompletionFile
from sgpo.rollouts.engine import Sampling
from sgpo.strategies.strategy import Condition, Effect
from sgpo.training.measure import (
    advise,
    measure_strategies,
    open_measurement,
    select,
    store_effects,
    training_condition,
)
from sgpo.verifier import Verdict
from tests.conftest import tiny_qwen2
from tests.strategies.chat_server import ChatServer, chat
from tests.training.building import bank_of, build_trainer, policy, some_problems

PROBLEMS = [Problem(id=f"q{i}", problem=f"What is {i} + {i}?", answer=str(2 * i)) for i in range(4)]


def strategy(problem_id, name="own", **fields):
    return Strategy(problem_id, "Sums", f"Add, {name}", ("Add.",), id=f"{problem_id}-{name}", **fields)


OWN = {problem.id: [strategy(problem.id)] for problem in PROBLEMS}


class ScriptedSource:
    """Answers by the number of passes that each problem and strategy has; fails where it has none."""

    def __init__(self, passes, *, tokens=10, truncated=False, text="as is"):
        self.passes, self.asked = passes, []
        self.tokens, self.truncated, self.text = tokens, truncated, text

    def token_limit(self, prompts, max_tokens):
        return max_tokens

    def sample(self, requests, sampling, keep):
        failures = []
        for request in requests:
            self.asked.append(request.key)
            passes = self.passes.get((request.problem.id, request.strategy_id))
            if passes is None:
                failures.append(f"{request.problem.id}: no answer")
                continue
            right = request.number < passes
            text = f"{self.text} {request.problem.answer if right else 'none'}"
            keep([SampledCompletion(request, text, self.tokens, self.truncated, sampling.max_tokens)])
        return failures


def says(completion, problem):
    return Verdict("correct" if completion.endswith(f" {problem.answer}") else "wrong")


def measure(source, strategies=OWN, *, samples=4, kept=None, problems=PROBLEMS):
    return measure_strategies(
        strategies, problems, source, says, Sampling(max_tokens=9), samples=samples, style="math", seed=0, kept=kept
    )


PASSES = {
    ("q0", None): 0, ("q0", "q0-own"): 2,  # rescued
    ("q1", None): 0, ("q1", "q1-own"): 0,
    ("q2", None): 2, ("q2", "q2-own"): 4,
    ("q3", None): 4, ("q3", "q3-own"): 3,
}  # fmt: skip


def test_the_numbers_are_those_worked_out_by_hand():
    found = measure(ScriptedSource(PASSES, text="Following the strategy:")).summary()
    assert (found["problems"], found["samples"]) == (4, 4)
    assert found["autonomous"]["mean"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert found["guided"]["mean"] == pytest.approx((0.5 + 0 + 1 + 0.75) / 4)
    assert found["uplift"]["mean"] == pytest.approx(0.1875)
    assert found["uplift"]["low"] < 0.1875 < found["uplift"]["high"]
    assert (found["all_fail"], found["rescued"]["mean"]) == (0.5, 0.5)
    assert found["tokens"] == {"autonomous": 10.0, "guided": 10.0}
    assert found["truncated"] == {"autonomous": 0.0, "guided": 0.0}
    assert found["mentions"] == 1.0
    assert "SGPO can be expected to help: strategies rescue 50%" in found["advice"]


def test_every_prompt_is_asked_with_its_own_seed_and_the_strategy_in_it():
    requests = []

    class Source(ScriptedSource):
        def sample(self, asked, sampling, keep):
            requests.extend(asked)
            return super().sample(asked, sampling, keep)

    measure(Source(PASSES))
    assert len({request.seed for request in requests}) == len(requests) == 4 * 2 * 4
    for request in requests:
        assert ("Add, own" in request.prompt) == (request.strategy_id is not None)
        assert request.problem.problem in request.prompt


def test_it_resumes_by_completion(tmp_path):
    file = CompletionFile(tmp_path / "measure.jsonl")
    partly = {key: passes for key, passes in PASSES.items() if key[0] in ("q0", "q1")}
    first = measure(ScriptedSource(partly), kept=file)
    assert (first.missing, len(first.failures)) == (("q2", "q3"), 16)
    assert first.summary()["problems"] == 2
    second = ScriptedSource(PASSES)
    whole = measure(second, kept=file)
    assert {key[0] for key in second.asked} == {"q2", "q3"}
    assert whole.summary() == measure(ScriptedSource(PASSES)).summary()
    more = ScriptedSource(PASSES)
    measure(more, kept=file, samples=5)
    assert {key[2] for key in more.asked} == {4}


def test_nothing_to_measure_and_nothing_answered():
    with pytest.raises(
        InputError, match="no problem has a strategy to measure: the bank's are for others, such as 'x'"
    ):
        measure(ScriptedSource({}), {"x": [strategy("x")]})
    with pytest.raises(EndpointError, match="no problem was answered whole; q0: no answer"):
        measure(ScriptedSource({}))


def test_another_setting_in_the_same_directory_is_refused(tmp_path):
    open_measurement(tmp_path / "m", {"model": "a", "seed": 0}).append([{"x": 1}])
    open_measurement(tmp_path / "m", {"model": "a", "seed": 0})
    with pytest.raises(
        RunDirectoryError, match=r"holds a measurement with model 'a' \(now 'b'\); choose another --out"
    ):
        open_measurement(tmp_path / "m", {"model": "b", "seed": 0})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds something else"):
        open_measurement(tmp_path / "run", {"model": "a"})


def test_what_is_measured_of_one_model_is_not_added_to_another(tmp_path):
    one, two = Condition(model="one", prompts="math", reward="v"), Condition(model="two", prompts="math", reward="v")
    with StrategyBank(tmp_path / "bank.db") as bank:
        for own in OWN.values():
            bank.add(own[0])
        assert bank.total_effect(one) == (0, Effect())
        store_effects(bank, measure(ScriptedSource(PASSES)), one)
        store_effects(bank, measure(ScriptedSource(PASSES)), one)  # in place of the first
        store_effects(bank, measure(ScriptedSource(dict.fromkeys(PASSES, 4))), two)
        of_one = Effect(guided_passes=2, guided_total=4, autonomous_passes=0, autonomous_total=4)
        assert bank.effect("q0-own", one) == of_one
        assert bank.effect("q0-own", two).guided_passes == bank.effect("q0-own").guided_passes == 4
        assert bank.total_effect(one)[1].guided_total == 16
        assert bank.stats()["conditions"] == 2
        assert bank.effect("q0-own", Condition(model="one", prompts="compact", reward="v")) == Effect()


CANDIDATES = {
    "q0": [strategy("q0"), strategy("q0", "better"), strategy("q0", "worse")],
    "q1": [strategy("q1"), strategy("q1", "hardly better")],
    "q2": [strategy("q2")],
    "q3": [strategy("q3", reviewed="2026-01-01"), strategy("q3", "better")],
}


def test_candidates_are_chosen_where_the_evidence_supports_it():
    passes = {
        ("q0", None): 2, ("q0", "q0-own"): 1, ("q0", "q0-better"): 8, ("q0", "q0-worse"): 0,
        ("q1", None): 2, ("q1", "q1-own"): 4, ("q1", "q1-hardly better"): 5,
        ("q2", None): 8, ("q2", "q2-own"): 1,  # harms
        ("q3", None): 2, ("q3", "q3-own"): 0, ("q3", "q3-better"): 8,
    }  # fmt: skip
    found = select(measure(ScriptedSource(passes), CANDIDATES, samples=8))
    assert [s.id for s in found.activate] == ["q0-better"]
    assert [s.id for s in found.set_aside] == ["q2-own"]
    assert [s.id for s in found.kept] == ["q3-own"]  # a person accepted it


GOOD = {
    "problems": 10, "autonomous": {"mean": 0.4}, "guided": {"mean": 0.6}, "uplift": {"high": 0.3},
    "all_fail": 0.4, "rescued": {"mean": 0.5}, "truncated": {"autonomous": 0.1}, "unparsed": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "SGPO can be expected to help: strategies rescue 50%"),
        ({"truncated": {"autonomous": 0.6}}, "60% of the completions are cut off: raise the limit"),
        ({"truncated": {"autonomous": None}}, "can be expected to help"),
        ({"unparsed": 0.7}, "In 70% of the completions no answer was found"),
        ({"autonomous": {"mean": 0.95}}, "choose harder problems"),
        ({"uplift": {"high": -0.1}}, "These strategies harm this model"),
        ({"rescued": {"mean": 0.01}}, "SGPO will do little more than GRPO here: strategies rescue 0.4%"),
        ({"all_fail": 0.0, "rescued": None}, "SGPO will do little more than GRPO here"),
        (
            {"autonomous": {"mean": 0.0}, "guided": {"mean": 0.0}, "all_fail": 1.0, "rescued": {"mean": 0.0}},
            "start from a stronger policy",
        ),
    ],
)
def test_the_advice(change, words):
    assert words in advise(GOOD | change)


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path):
    lines = [json.dumps(problem.to_json()) + "\n" for problem in PROBLEMS]
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    with StrategyBank(tmp_path / "bank.db") as bank:
        for own in OWN.values():
            bank.add(own[0])
        bank.add(strategy("q0", "other"), active=False)
    return tmp_path


def run(files, *words):
    given = ["--bank", files / "bank.db", "--problems", files / "sums.jsonl", *words]
    return CliRunner().invoke(app, ["strategies", "measure", *map(str, given)])


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.close()


def doubles_if_told(request, number):
    text = request["messages"][0]["content"]
    value = int(text.split()[2])
    return chat(f"\\boxed{{{2 * value if 'Add, own' in text or value == 3 else 99}}}")


def test_a_served_model_is_measured(files, server):
    server.script = doubles_if_told
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--samples", "2", "--json"]
    words += ["--keep", files / "kept.jsonl", "--out", files / "out"]
    result = run(files, *words)
    found = json.loads(result.stdout)
    assert (found["autonomous"]["mean"], found["guided"]["mean"], found["all_fail"]) == (0.25, 1.0, 0.75)
    assert found["rescued"]["mean"] == 1.0
    assert found["keep"]["problems"] == len((files / "kept.jsonl").read_text().splitlines()) == 3
    asked = len(server.requests)
    assert asked == 4 * 2 * 2
    words[words.index(files / "kept.jsonl")] = files / "kept-again.jsonl"
    again = json.loads(run(files, *words).stdout)
    assert len(server.requests) == asked  # resumed: nothing is asked twice
    assert {**again, "keep": None} == {**found, "keep": None}
    with StrategyBank(files / "bank.db") as bank:
        assert bank.effect("q0-own") == Effect(guided_passes=2, guided_total=2, autonomous_total=2)
        assert bank.stats()["conditions"] == 1


def test_a_file_whose_problems_name_no_kind_is_judged_by_another(files, server):
    rows = [problem.to_json() for problem in PROBLEMS]
    assert {row.pop("kind") for row in rows} == {"math"}
    (files / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.script = lambda request, number: chat(
        f"\\boxed{{{2 * int(request['messages'][0]['content'].split()[2])}.0}}"
    )
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--samples", "1", "--json"]
    rates = [json.loads(run(files, *words, *kind).stdout)["autonomous"]["mean"] for kind in ([], ["--kind", "exact"])]
    assert rates == [1.0, 0.0]  # 2.0 is the number 2, and another text
    asked = len(server.requests)
    for kind in ("maths", "no_module:judge"):
        result = run(files, *words, "--kind", kind)
        assert (result.exit_code, result.stderr.count("\n"), len(server.requests)) == (2, 1, asked)
        assert kind.partition(":")[0] in result.stderr


def test_a_better_candidate_is_made_active(files, server):
    def other_helps(request, number):
        text = request["messages"][0]["content"]
        return chat(f"\\boxed{{{2 * int(text.split()[2]) if 'Add, other' in text else 99}}}")

    server.script = other_helps
    words = ["--model", "m", "--engine", "openai", "--base-url", server.url, "--candidates", "all", "--select"]
    result = run(files, *words)
    assert result.exit_code == 0, result.stderr
    assert "1 candidate made active, 0 set aside" in result.stdout
    with StrategyBank(files / "bank.db") as bank:
        assert bank.get("q0").id == "q0-other"


def test_a_loaded_model_is_measured_by_a_recipe(files, tokenizer):
    tiny_qwen2(eos_token_id=[1, *range(150, 200)]).save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")
    recipe = {
        "model": str(files / "model"), "bank": str(files / "bank.db"), "problems": str(files / "sums.jsonl"),
        "out": str(files / "run"), "train": {"max_completion_length": 5, "verifier_policy": "strict"},
    }  # fmt: skip
    (files / "recipe.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(
        app, ["strategies", "measure", "--recipe", str(files / "recipe.yaml"), "--samples", "2", "--json"]
    )
    found = json.loads(result.stdout)
    assert (found["problems"], found["autonomous"]["mean"]) == (4, 0.0)
    assert 0 < found["tokens"]["autonomous"] <= 5
    assert not (files / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --model, or a recipe that names them"),
        (["--model", "m", "--keep", "bank.db"], "exists already"),
        (["--model", "m", "--between", "0.9", "0.1"], "two pass rates in order"),
        (["--model", "m", "--engine", "openai"], "--engine openai needs --base-url"),
        (["--model", "no/such/model"], "no such model directory"),
    ],
)
def test_what_cannot_be_measured_is_one_line(files, words, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(files)
    result = run(files, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_training_says_whether_its_model_was_measured(tmp_path, tokenizer, caplog):
    """Not with another model, nor under other prompts, nor another reward."""
    policy().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    bank = bank_of(tmp_path / "bank.db", some_problems())

    def said(name, **options):
        caplog.clear()
        trainer = build_trainer(tmp_path / name, tokenizer, model=str(tmp_path / "model"), bank=bank, **options)
        trainer.train()
        return trainer, [word for word in ("nothing was measured", "not to help") if word in caplog.text]

    assert said("first")[1] == ["nothing was measured"]
    trainer, again = said("second")  # the first run has told the bank what it saw
    assert "nothing was measured" not in again
    assert said("third", prompt_style="math", max_prompt_length=999)[1] == ["nothing was measured"]
    assert said("grpo", algorithm="grpo")[1] == []
    condition = training_condition(trainer.model_name, trainer.args, trainer.verifier)
    assert condition.reward == "tests.training.building:hash_verdict"
    bank.record_run("harm", {bank.get("q0").id: [0, 10_000, 10_000, 10_000]}, condition)
    assert said("fourth")[1] == ["not to help"]
