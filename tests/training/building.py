"""Trainers as small as can be, and an engine that remembers what was asked of it."""

from __future__ import annotations

import copy
import hashlib
import json

import torch
from transformers import TrainerCallback

from sgpo import Problem, SGPOConfig, SGPOTrainer, Strategy, StrategyBank
from sgpo.rollouts.engine import Completion
from sgpo.verifier import Verdict
from tests.conftest import tiny_qwen2

END_TOKENS = [1, *range(150, 220)]  # about every fourth token of the tiny model


def number_of(*parts) -> float:
    """A number in [0, 1) that looks random and is a function of its arguments."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def some_problems(count=6):
    return [Problem(id=f"q{i}", problem=f"{i}{'+' * (i % 3)}?", answer=str(i)) for i in range(count)]


def bank_of(path, problems):
    bank = StrategyBank(path)
    for problem in problems:
        bank.add(Strategy(problem_id=problem.id, problem_type="sum", approach="count", steps=(f"do {problem.id}", "!")))
    return bank


def hash_verdict(completion, problem):
    """Correct for about half of all completions; what it says has nothing to do with the problem."""
    return Verdict("correct" if number_of(completion, problem.id) < 0.5 else "wrong", completion[:2])


def with_chat_template(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    return chat


def policy(**options):
    """A random policy that pays attention: what it says depends on its prompt, by about one nat per token."""
    model = tiny_qwen2(**options)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, projection).weight.mul_(6)
        model.model.norm.weight.mul_(1.3)
    model.generation_config.eos_token_id = END_TOKENS
    return model


class Recorder(TrainerCallback):
    """Gradients and weights of every optimizer step, as they are just before it."""

    def __init__(self):
        self.gradients, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
        self.gradients.append(
            {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        )


class SpyEngine:
    """Passes everything on and keeps the calls: (prompts, sampling, seeds, completions)."""

    def __init__(self, engine):
        self.engine, self.calls = engine, []

    def generate(self, prompts, sampling, *, seeds):
        completions = self.engine.generate(prompts, sampling, seeds=seeds)
        self.calls.append(([list(prompt) for prompt in prompts], sampling, list(seeds), completions))
        return completions

    def sync_weights(self, model):
        self.engine.sync_weights(model)


def build_trainer(
    out,
    tokenizer,
    *,
    model=None,
    problems=None,
    bank="for all",
    verifier=hash_verdict,
    evaluation=None,
    reward_funcs=None,
    peft_config=None,
    callbacks=(),
    **options,
):
    """A trainer on six problems with a strategy each, one optimizer step of plain SGD at learning rate 1."""
    problems = some_problems() if problems is None else problems
    if bank == "for all":
        bank = bank_of(out.with_name(f"{out.name}.db"), problems)
    defaults = {
        "per_device_train_batch_size": 6,
        "num_autonomous": 4,
        "num_guided": 4,
        "max_prompt_length": 64,
        "max_completion_length": 10,
        "prompt_style": "compact",
        "max_steps": 1,
        "seed": 13,  # a step with four targets, tokens above and below the cap, truncated and finished completions
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if options.get("algorithm") in ("sft", "guided_sft"):
        del defaults["num_autonomous"]  # they do not read it
    trainer = SGPOTrainer(
        policy() if model is None else model,
        SGPOConfig(output_dir=str(out), **(defaults | options)),
        problems,
        evaluation,
        processing_class=tokenizer,
        bank=bank,
        verifier=verifier,
        reward_funcs=reward_funcs,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )
    trainer.engine = SpyEngine(trainer.engine)
    return trainer


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def largest_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics_of(trainer):
    """The rows of the training steps."""
    return [row for row in read_lines(trainer.run.path / "metrics.jsonl") if "loss" in row]


class ScriptedEngine:
    """Completions by a function `(prompt text, number of this prompt's completion) -> text`; one that does not end in
    a full stop was cut off."""

    def __init__(self, tokenizer, script):
        self.tokenizer, self.script = tokenizer, script

    def generate(self, prompts, sampling, *, seeds):
        counts, completions = {}, []
        for prompt in map(tuple, prompts):
            counts[prompt] = counts.get(prompt, 0) + 1
            text = self.script(self.tokenizer.decode(prompt), counts[prompt] - 1)
            ids = self.tokenizer(text)["input_ids"]
            completions.append(Completion(ids, text.endswith("."), [-1.0] * len(ids)))
        return completions

    def sync_weights(self, model):
        pass
