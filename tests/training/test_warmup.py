"""The warm-up: the rows that SFTTrainer gets, what is left out, and that only solutions are learnt."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import Problem
from sgpo.io import read_json
from sgpo.problems import save_problems
from sgpo.training import launch
from sgpo.training.launch import run_recipe
from sgpo.training.recipe import Recipe
from sgpo.training.run_directory import RunDirectory
from sgpo.training.warmup import run_warmup, solution_rows, tokenized_row
from tests.training import naive
from tests.training.building import bank_of, build_trainer, largest_difference, policy, read_lines, with_chat_template

PROBLEMS = [
    Problem(id="a", problem="1+1?", answer="2", solution="one and one is 2"),
    Problem(id="b", problem="2+2?", answer="4", solution="4"),
    Problem(id="c", problem="3+3?", answer="6"),
    Problem(id="d", problem="4+4?", answer="8", solution="8" * 60),
]
OPTIONS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1.0,
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_are_the_tokens_that_rollouts_see(tmp_path, tokenizer, chat):
    tokenizer = with_chat_template(tokenizer) if chat else tokenizer
    rows, _ = solution_rows(PROBLEMS[:2], tokenizer, style="compact", max_length=None)
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=PROBLEMS[:2], bank=None, algorithm="grpo", per_device_train_batch_size=2
    )
    trainer.train()
    seen = {tuple(prompt) for prompt in trainer.engine.calls[0][0]}
    learnt = {
        tuple(i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100) for row in rows
    }
    assert learnt == seen


def test_only_the_solution_and_its_end_are_learnt(tokenizer):
    rows, counts = solution_rows(PROBLEMS[:1], tokenizer, style="compact", max_length=None)
    prompt = tokenizer(" 1+1?")["input_ids"]
    solution = tokenizer("one and one is 2")["input_ids"]
    assert rows == [
        {"input_ids": [*prompt, *solution, 1], "labels": [*([-100] * len(prompt)), *solution, 1]},
    ]
    assert counts == {"problems": 1, "guided": 0, "without_solution": 0, "wrong_solution": 0, "too_long": 0}


def test_a_tokenizer_that_adds_tokens_of_its_own_adds_none_to_the_solution(tokenizer):
    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="~ $A <eos>", special_tokens=[("~", 96), ("<eos>", 1)]
    )
    assert adding("x")["input_ids"][0] == 96
    row = tokenized_row("1?", "2", adding)
    assert row["input_ids"] == [96, *tokenizer("1?")["input_ids"], *tokenizer("2")["input_ids"], 1]


def test_what_is_too_long_or_without_a_solution_is_left_out_and_counted(tokenizer):
    rows, counts = solution_rows(PROBLEMS, tokenizer, style="compact", max_length=30)
    assert counts == {"problems": 4, "guided": 0, "without_solution": 1, "wrong_solution": 0, "too_long": 1}
    assert [len(row["input_ids"]) for row in rows] == [5 + 16 + 1, 5 + 1 + 1]
    at_limit, counts = solution_rows(PROBLEMS, tokenizer, style="compact", max_length=22)
    assert (len(at_limit), counts["too_long"]) == (2, 1)
    under, counts = solution_rows(PROBLEMS, tokenizer, style="compact", max_length=21)
    assert (len(under), counts["too_long"]) == (1, 2)
    assert len(solution_rows(PROBLEMS, tokenizer, style="compact", max_length=None)[0]) == 3


def test_wrong_solutions_are_left_out_and_counted(tmp_path, tokenizer, caplog):
    """Only those that come to another answer: where none is found, nothing is known."""
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path, warmup={"epochs": 1, "bf16": False, "fraction": 0.99})
    solutions = [r"\boxed{1}", r"\boxed{2}", "ends in the middle of", r"so it is \boxed{1}", r"\boxed{-1}"]
    save_problems(
        [Problem(id=f"p{i}", problem=f"{i}?", answer="1", solution=solution) for i, solution in enumerate(solutions)]
        + [Problem(id="q", problem="?", answer="1")],
        tmp_path / "p.jsonl",
    )
    run_recipe(recipe, stage="warmup")
    record = read_json(tmp_path / "run/warmup.json")
    assert (record["problems"], record["without_solution"], record["wrong_solution"]) == (5, 0, 2)
    assert "of 5 problems 0 without a solution, 2 with a wrong one" in caplog.text


def test_nothing_to_learn_from_is_refused(tokenizer):
    message = "of 4 problems 1 without a solution, 0 with a wrong one, 3 longer than 6 tokens .warmup.max_length, or"
    with pytest.raises(ValueError, match=message):
        solution_rows(PROBLEMS, tokenizer, style="compact", max_length=6)
    with pytest.raises(ValueError, match="of 0 problems"):
        solution_rows([], tokenizer, style="compact", max_length=None)


def test_a_step_of_the_warmup_is_the_cross_entropy_of_the_solutions(tmp_path, tokenizer):
    model = policy()
    reference = naive.double(model)
    rows, _ = solution_rows(PROBLEMS[:2], tokenizer, style="compact", max_length=None)
    run = RunDirectory(tmp_path / "run")
    saved = run_warmup(model, tokenizer, rows, OPTIONS, run)

    total, tokens = 0.0, 0
    for problem in PROBLEMS[:2]:
        prompt = tokenizer(f" {problem.problem}")["input_ids"]
        solution = [*tokenizer(problem.solution)["input_ids"], 1]
        total = total - naive.logprobs(reference, prompt, solution).sum()
        tokens += len(solution)
    loss = total / tokens
    logged = [row for row in read_lines(tmp_path / "run/warmup.jsonl") if "loss" in row]
    assert logged[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    expected = naive.gradients(reference, loss)
    start = dict(policy().named_parameters())
    stepped = {name: start[name].double() - expected[name] for name in start}
    assert largest_difference(dict(model.named_parameters()), stepped) < 1e-4

    assert saved == run.warm_model == tmp_path / "run/checkpoints/warmup"
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert largest_difference(dict(loaded.named_parameters()), dict(model.named_parameters())) == 0.0
    assert loaded.config.use_cache  # the Trainer had set it to False
    assert AutoTokenizer.from_pretrained(saved).eos_token_id == 1
    assert not (tmp_path / "run/warmup").exists()
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_warmup_with_adapters_trains_them_alone_and_leaves_a_whole_model(tmp_path, tokenizer):
    from peft import LoraConfig

    rows, _ = solution_rows(PROBLEMS[:2], tokenizer, style="compact", max_length=None)
    run = RunDirectory(tmp_path / "run")
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    saved = run_warmup(policy(), tokenizer, rows, OPTIONS | {"num_train_epochs": 3}, run, peft_config=lora)
    assert not (saved / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(saved).eos_token_id == 1
    warm, start = (dict(model.named_parameters()) for model in (AutoModelForCausalLM.from_pretrained(saved), policy()))
    assert warm.keys() == start.keys()
    moved = {name for name in start if (warm[name] - start[name]).abs().max() > 1e-6}
    assert moved == {name for name in start if "q_proj.weight" in name}


def test_the_seed_decides_the_adapters_of_a_warmup(tmp_path, tokenizer):
    from peft import LoraConfig

    rows, _ = solution_rows(PROBLEMS[:2], tokenizer, style="compact", max_length=None)
    ends = []
    for drawn_before in (1, 2):
        torch.manual_seed(drawn_before)
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        run = RunDirectory(tmp_path / str(drawn_before))
        saved = run_warmup(policy(), tokenizer, rows, OPTIONS | {"seed": 5}, run, peft_config=lora)
        ends.append(dict(AutoModelForCausalLM.from_pretrained(saved).named_parameters()))
    assert largest_difference(*ends) == 0.0


def test_a_warmup_that_was_interrupted_goes_on(tmp_path, tokenizer):
    from transformers import TrainerCallback
    from trl import SFTTrainer

    rows, _ = solution_rows(PROBLEMS, tokenizer, style="compact", max_length=None)
    options = OPTIONS | {"num_train_epochs": 3, "optim": "adamw_torch", "learning_rate": 0.01, "seed": 3}
    whole = policy()
    run_warmup(whole, tokenizer, rows, options, RunDirectory(tmp_path / "whole"))

    class Killer(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    run = RunDirectory(tmp_path / "run")
    build = SFTTrainer.__init__

    def with_killer(self, *args, callbacks=(), **kwargs):
        build(self, *args, callbacks=[*callbacks, Killer()], **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTTrainer, "__init__", with_killer)
        with pytest.raises(KeyboardInterrupt):
            run_warmup(policy(), tokenizer, rows, options, run)
    assert not run.warm_model.exists()
    (tmp_path / "run/warmup/checkpoint-4").mkdir()  # as left by a kill in the middle of saving
    resumed = policy()
    run_warmup(resumed, tokenizer, rows, options, run)
    weights = dict(resumed.named_parameters())
    assert largest_difference(weights, dict(whole.named_parameters())) < 1e-6
    steps = [row["step"] for row in read_lines(tmp_path / "run/warmup.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert torch.isfinite(torch.cat([w.detach().flatten() for w in weights.values()])).all()


def recipe_of(tmp_path, *, positions=512, **options):
    save_problems(
        [Problem(id=f"p{i}", problem=f"{i}?", answer="1", solution="1") for i in range(9)], tmp_path / "p.jsonl"
    )
    policy(max_position_embeddings=positions).save_pretrained(tmp_path / "base")
    train = {"per_device_train_batch_size": 2, "num_autonomous": 2, "num_guided": 0, "max_completion_length": 4,
             "prompt_style": "compact", "max_steps": 1, "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    source = {"source": str(tmp_path / "p.jsonl")}
    return Recipe(model=str(tmp_path / "base"), out=str(tmp_path / "run"), problems=source, train=train, **options)


@pytest.mark.parametrize("stage", ["rl", "all"])
def test_the_split_is_kept_in_the_run(tmp_path, tokenizer, stage):
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path, warmup={"epochs": 1, "bf16": False})
    run_recipe(recipe, stage=stage, model_given=stage == "rl")
    split = read_json(tmp_path / "run/split.json")
    assert (len(split["warmup"]), len(split["rl"])) == (3, 6)
    trained = {row["problem_id"] for path in (tmp_path / "run").glob("rollouts/*") for row in read_lines(path)}
    assert trained <= set(split["rl"])
    model = read_json(tmp_path / "run/config.json")["model"]
    assert model.endswith("warmup" if stage == "all" else "base")


def test_what_keeps_reinforcement_from_starting_is_said_before_the_warm_up(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path, warmup={"epochs": 1, "bf16": False})
    for options, message in [
        ({"algorithm": "sgpo", "num_guided": 2}, "0 of 6 problems can have one: there is no bank"),
        ({"per_device_train_batch_size": 7}, "fewer than one batch of 7"),
        ({"max_completion_length": 512}, "made for 512 tokens, and the longest prompt and completion may have 515"),
    ]:
        wrong = recipe.model_copy(update={"train": recipe.train | options})
        with pytest.raises(ValueError, match=message):
            run_recipe(wrong)
        assert not (tmp_path / "run").exists()
    run_recipe(wrong, stage="warmup")  # which reinforcement of another kind may follow


def test_what_a_warm_up_lacks_is_said_before_its_model_is_loaded(tmp_path, tokenizer, monkeypatch, caplog):
    tokenizer.save_pretrained(tmp_path / "base")
    warmup = {"epochs": 1, "bf16": False, "optim": "adamw_bnb_8bit"}
    recipe = recipe_of(tmp_path, warmup=warmup, evaluation={"source": str(tmp_path / "p.jsonl")})
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(launch, "load_policy", None)
    with pytest.raises(ValueError, match=r"optim=adamw_bnb_8bit: .*bitsandbytes"):
        run_recipe(recipe)
    assert "p.jsonl is never evaluated on: --set eval_strategy=steps --set eval_steps=N does so" in caplog.text


def test_solutions_beyond_the_models_context_are_left_out(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path, positions=20, warmup={"epochs": 1, "bf16": False, "fraction": 0.99})
    lengths = {"fits": 20 - 3 - 1, "too long": 20 - 3}  # beside a prompt of three tokens and the end
    save_problems(
        [
            Problem(id=id_, problem="1?", answer="1", solution=" " * (length - 1) + "1")
            for id_, length in lengths.items()
        ]
        + [Problem(id="other", problem="1?", answer="1")],
        tmp_path / "p.jsonl",
    )
    run_recipe(recipe, stage="warmup")
    assert read_json(tmp_path / "run/warmup.json")["too_long"] == 1


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_the_warm_up_takes_problems_with_a_solution_and_without_a_strategy_first(tmp_path, tokenizer, fraction):
    """Of ten problems 0 to 3 have a solution alone, 4 to 6 a strategy too, 7 to 9 no solution."""
    tokenizer.save_pretrained(tmp_path / "base")
    problems = [Problem(id=f"p{i}", problem=f"{i}?", answer="1", solution="1" if i < 7 else None) for i in range(10)]
    bank_of(tmp_path / "bank.db", problems[4:]).close()
    recipe = recipe_of(
        tmp_path, bank=str(tmp_path / "bank.db"), warmup={"epochs": 1, "bf16": False, "fraction": fraction}
    )
    save_problems(problems, tmp_path / "p.jsonl")
    run_recipe(recipe, stage="warmup")
    split = read_json(tmp_path / "run/split.json")
    alone, both = {"p0", "p1", "p2", "p3"}, {"p4", "p5", "p6"}
    chosen = set(split["warmup"])
    assert chosen | set(split["rl"]) == {f"p{i}" for i in range(10)}
    assert (len(chosen & alone), len(chosen & both), len(chosen)) == {0.2: (2, 0, 2), 0.5: (4, 1, 5), 0.9: (4, 3, 7)}[
        fraction
    ]


def test_a_warm_up_without_a_single_solution_is_refused(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path, warmup={"epochs": 1, "bf16": False})
    save_problems([Problem(id=f"p{i}", problem=f"{i}?", answer="1") for i in range(9)], tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="none of the problems has a 'solution' to warm up on"):
        run_recipe(recipe)


def test_reinforcement_alone_wants_a_warm_up_or_a_named_model(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="no warm-up here for --stage rl"):
        run_recipe(recipe_of(tmp_path, warmup={"epochs": 1, "bf16": False}), stage="rl")


def test_nothing_is_no_run_to_continue(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="no run to continue here"):
        run_recipe(recipe_of(tmp_path), resume=True)
