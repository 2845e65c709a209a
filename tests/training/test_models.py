"""Adapters, chat templates, dropout, bfloat16, checkpointing of activations: what a user's model may bring."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import InputError
from sgpo.rollouts.models import load_policy, load_tokenizer
from sgpo.training.options import installed_name
from tests.training import naive
from tests.training.building import (
    END_TOKENS,
    Recorder,
    bank_of,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    read_lines,
    some_problems,
    weights_of,
)

PROBLEMS = some_problems()
SMALL = {"vocab_size": 258, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "pad_token_id": 0}


def expected_gradients(trainer, tokenizer, model):
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, hash_verdict)
    policy_part, _ = naive.policy_loss(model, groups)
    distill_part, divergences = naive.distill_loss(model, groups, limit=10, ends=END_TOKENS)
    assert divergences
    return naive.gradients(model, policy_part + distill_part)


# -- LoRA


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=4, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear", "init_lora_weights": False},
        {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5},
        {"target_modules": ["q_proj", "lm_head"]},  # an adapter that is zero at first: the head is still its own
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["all-linear", "dropout", "head", "trained-head"],
)
def test_the_gradient_of_adapters_is_that_of_the_equation(tmp_path, tokenizer, options):
    recorder = Recorder()
    torch.manual_seed(0)
    model = policy(tie_word_embeddings=False)
    trainer = build_trainer(
        tmp_path / "run", tokenizer, model=model, peft_config=lora(**options), callbacks=[recorder], learning_rate=0.01
    )
    reference = naive.double(trainer.model).eval()
    trainer.train()
    trained = {name for name, parameter in reference.named_parameters() if parameter.requires_grad}
    assert 0 < len(trained) < len(list(reference.parameters()))
    reference.requires_grad_(True)
    expected = expected_gradients(trainer, tokenizer, reference)
    scale = max(expected[name].abs().max().item() for name in trained)
    for name in trained:
        assert (recorder.gradients[0][name] - expected[name]).abs().max().item() < 5e-5 * scale, name
    frozen = {name: parameter for name, parameter in weights_of(trainer).items() if name not in trained}
    assert largest_difference({n: recorder.weights[0][n] for n in frozen}, frozen) == 0.0


def test_an_adapter_is_saved_and_loads(tmp_path, tokenizer):
    base = tmp_path / "base"
    policy().save_pretrained(base)
    tokenizer.save_pretrained(base)
    args = SGPOConfig(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=6, num_autonomous=4, max_prompt_length=64,
        max_completion_length=10, prompt_style="compact", max_steps=2, learning_rate=0.01, use_cpu=True,
        disable_tqdm=True, save_steps=1,
    )  # fmt: skip
    bank = bank_of(tmp_path / "bank.db", PROBLEMS)
    config = lora(target_modules="all-linear", init_lora_weights=False)
    trainer = SGPOTrainer(str(base), args, PROBLEMS, bank=bank, verifier=hash_verdict, peft_config=config)
    trainer.train()
    for name in ("final", "checkpoint-1"):
        files = {path.name for path in (tmp_path / "run/checkpoints" / name).iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= files
        assert "model.safetensors" not in files
    loaded = load_policy(tmp_path / "run")
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, trainer.model.eval()(ids).logits, atol=1e-5)
        before = load_policy(base)(ids).logits
        assert not torch.allclose(loaded(ids).logits, before, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
    ],
    ids=["head", "embedding", "trained head"],
)
def test_adapters_on_tied_embeddings_are_refused(tmp_path, tokenizer, options, which):
    """Merging them into the shared weights would change both embeddings, and what is loaded is not what was trained."""
    message = f"lora: adapters on {which} of a model whose input and output embeddings share their weights"
    with pytest.raises(InputError, match=message):
        build_trainer(tmp_path / "run", tokenizer, peft_config=lora(**options))
    # Nor are those of other programs loaded so.
    policy().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora(**options))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match=message):
        load_policy(tmp_path / "adapter")


def test_prompt_tuning_is_refused(tmp_path, tokenizer):
    tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match="PROMPT_TUNING is no change of weights; train LoRA adapters"):
        build_trainer(tmp_path / "run", tokenizer, peft_config=tuning)


# -- how a model is loaded


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_comes_with_a_model_runs_only_where_that_is_set(tmp_path, monkeypatch, trusted):
    code = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Words", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": code}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Words", "auto_map": code}))
    loaded = set()

    def load(reference, source, **_):
        loaded.add(reference)
        raise OSError("no code is run in this test")

    for module in ("configuration_auto", "tokenization_auto"):
        monkeypatch.setattr(f"transformers.models.auto.{module}.get_class_from_dynamic_module", load)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked
    options = {"trust_remote_code": True} if trusted else {}
    message = "no code is run" if trusted else "comes with code; model_init_kwargs={trust_remote_code: true} would"
    with pytest.raises(InputError, match=message):
        load_policy(tmp_path, **options)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path, init_kwargs=options)
    assert loaded == ({"code.Config", "code.Words"} if trusted else set())


def test_a_model_is_loaded_as_its_options_say(tmp_path, tokenizer):
    policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = {"num_autonomous": 2, "num_guided": 0, "per_device_train_batch_size": 2, "use_cpu": True}
    options["max_completion_length"] = 10
    how = {"dtype": "bfloat16", "attn_implementation": "eager"}
    args = SGPOConfig(output_dir=str(tmp_path / "run"), model_init_kwargs=how, **options)
    trainer = SGPOTrainer(str(tmp_path / "base"), args, PROBLEMS, peft_config=lora(target_modules=["q_proj"]))
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in trainer.model.parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}
    assert trainer.model.get_base_model().config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="this one is loaded already"):
        SGPOTrainer(policy(), args, PROBLEMS, processing_class=tokenizer)
    with pytest.raises(ValueError, match="no model that could be loaded"):
        load_policy(tmp_path / "base", attn_implementaton="eager")


@pytest.mark.parametrize("how", ["an object", "by its path"])
def test_weights_that_are_trained_have_32_bits(tmp_path, tokenizer, caplog, how):
    """In bfloat16, 20 steps of AdamW at 1e-6 would leave nearly all weights as they are."""
    policy().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    by_path = {"model": str(tmp_path / "base"), "model_init_kwargs": {"dtype": "bfloat16"}}
    options = {"model": policy().to(torch.bfloat16)} if how == "an object" else by_path
    trainer = build_trainer(
        tmp_path / "run", tokenizer, **options, optim="adamw_torch", learning_rate=1e-6, max_steps=2
    )
    before = weights_of(trainer)
    assert {weight.dtype for weight in before.values()} == {torch.float32}
    assert "the weights to train are bfloat16, where small updates vanish: they are cast to float32" in caplog.text
    trainer.train()
    moved = torch.cat([(weights_of(trainer)[name] != before[name]).flatten() for name in before if "_proj" in name])
    assert moved.float().mean() > 0.95


def test_a_head_trained_in_16_bits_beside_adapters_is_refused(tmp_path, tokenizer):
    model = policy(tie_word_embeddings=False).to(torch.bfloat16)
    config = lora(target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(InputError, match=r"trained in bfloat16 .* leave dtype out of model_init_kwargs"):
        build_trainer(tmp_path / "run", tokenizer, model=model, peft_config=config)


# -- chat templates


@pytest.fixture
def chat_tokenizer(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return chat


def test_a_chat_template_is_used_and_saved(tmp_path, chat_tokenizer):
    options = {"evaluation": PROBLEMS[:1], "eval_strategy": "steps", "system_prompt": "S"}
    trainer = build_trainer(tmp_path / "run", chat_tokenizer, **options)
    trainer.train()
    texts = {chat_tokenizer.decode(prompt) for prompt in trainer.engine.calls[0][0]}
    assert texts == {f"[system]S[user] {p.problem}[assistant]" for p in PROBLEMS} | {
        f"[system]S[user] sum : do {p.id} ; ! | {p.problem}[assistant]" for p in PROBLEMS
    }
    evaluated = {chat_tokenizer.decode(prompt) for prompt in trainer.engine.calls[1][0]}
    assert evaluated == {f"[system]S[user] {PROBLEMS[0].problem}[assistant]"}
    assert read_lines(tmp_path / "run/rollouts/step-000001.jsonl")[0]["prompt"].startswith(" ")
    saved = AutoTokenizer.from_pretrained(tmp_path / "run/checkpoints/final")
    assert saved.chat_template == chat_tokenizer.chat_template


# -- what a model's own settings must not do


def test_dropout_is_off(tmp_path, tokenizer):
    """In attention, where the rate is a number and not a module, too."""
    recorder = Recorder()
    model = policy(attention_dropout=0.5)
    trainer = build_trainer(tmp_path / "run", tokenizer, model=model, callbacks=[recorder])
    trainer.train()
    expected = expected_gradients(trainer, tokenizer, naive.double(policy()))
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 2e-5 * scale


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Falcon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),  # rates read from the config
        ("Mixtral", {"router_jitter_noise": 0.5, "output_router_logits": True}),  # noise, and a loss of the router's
        ("Phimoe", {"router_jitter_noise": 0.5}),
    ],
    ids=["Falcon", "Mixtral", "Phimoe"],
)
def test_what_is_drawn_at_random_in_a_forward_is_off(tmp_path, tokenizer, name, options):
    if name != "Falcon":
        options |= {"intermediate_size": 64, "num_local_experts": 4, "num_key_value_heads": 4}
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **options}, eos_token_id=1, bos_token_id=None)
    model = AutoModelForCausalLM.from_config(config)
    trainer = build_trainer(tmp_path / "run", tokenizer, model=model)
    trainer.train()
    trainer.model.train()
    ids = torch.arange(5, 25).unsqueeze(0)
    assert torch.equal(trainer.model(ids, use_cache=False).logits, trainer.model(ids, use_cache=False).logits)


def test_the_models_generation_config_decides_nothing_but_the_end_tokens(tmp_path, tokenizer):
    plain = build_trainer(tmp_path / "plain", tokenizer, max_steps=2, learning_rate=0.1)
    plain.train()
    model = policy()
    model.generation_config = GenerationConfig(
        eos_token_id=END_TOKENS, do_sample=True, top_k=2, top_p=0.3, temperature=5.0, repetition_penalty=3.0,
        min_p=0.5, max_new_tokens=2, suppress_tokens=[5, 6, 7], no_repeat_ngram_size=2,
    )  # fmt: skip
    hostile = build_trainer(tmp_path / "hostile", tokenizer, model=model, max_steps=2, learning_rate=0.1)
    hostile.train()
    for ours, theirs in zip(plain.engine.calls, hostile.engine.calls, strict=True):
        assert [c.token_ids for c in ours[3]] == [c.token_ids for c in theirs[3]]
    assert largest_difference(weights_of(plain), weights_of(hostile)) == 0.0
    assert AutoModelForCausalLM.from_pretrained(hostile.run.final_model).generation_config.top_k == 2


def test_bfloat16_arithmetic_runs_a_step(tmp_path, tokenizer):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, bf16=True, max_steps=2, callbacks=[recorder], learning_rate=0.1
    )
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    expected = expected_gradients(trainer, tokenizer, naive.double(policy()))
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 0.1 * scale
    assert len(metrics_of(trainer)) == 2


def test_checkpointing_of_activations_changes_nothing(tmp_path, tokenizer):
    ends = []
    for checkpointing in (False, True):
        trainer = build_trainer(
            tmp_path / str(checkpointing),
            tokenizer,
            **{installed_name(SGPOConfig, "activation_checkpointing"): checkpointing},
            max_steps=2,
            learning_rate=0.1,
        )
        trainer.train()
        ends.append(weights_of(trainer))
    assert largest_difference(*ends) < 1e-6


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_saved_config_says_what_the_models_own_said_of_the_cache(tmp_path, tokenizer, use_cache):
    """The Trainer sets it to False: whoever loads the model then would generate without a cache."""
    option = installed_name(SGPOConfig, "activation_checkpointing")
    trainer = build_trainer(tmp_path / "run", tokenizer, model=policy(use_cache=use_cache), **{option: True})
    trainer.train()
    assert json.loads((tmp_path / "run/checkpoints/final/config.json").read_text())["use_cache"] is use_cache


def test_a_dataset_of_rows_and_a_model_by_its_path(tmp_path, tokenizer):
    from datasets import Dataset

    policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = Dataset.from_list([{"id": p.id, "problem": p.problem, "answer": p.answer} for p in PROBLEMS])
    options = {"per_device_train_batch_size": 6, "num_autonomous": 4, "num_guided": 4, "max_prompt_length": 64,
               "max_completion_length": 10, "prompt_style": "compact", "max_steps": 1, "optim": "sgd", "seed": 13,
               "learning_rate": 1.0, "max_grad_norm": 0.0, "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    args = SGPOConfig(output_dir=str(tmp_path / "run"), **options)
    bank = bank_of(tmp_path / "bank.db", PROBLEMS)
    by_path = SGPOTrainer(tmp_path / "base", args, rows, bank=bank, verifier=hash_verdict)
    by_path.train()
    given = build_trainer(tmp_path / "given", tokenizer)
    given.train()
    assert largest_difference(weights_of(by_path), weights_of(given)) == 0.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("GPT2", {"n_positions": 64}),  # absolute positions; dropout as modules
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),  # dropout as numbers
        ("Gemma2", {"final_logit_softcapping": 5.0, "sliding_window": 4, "head_dim": 8}),  # a cap on logits, windows
        ("Phi", {"intermediate_size": 64}),  # a bias on the head
        ("Granite", {"logits_scaling": 8.0, "intermediate_size": 64}),  # a scale on logits
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_causal_language_model(tmp_path, tokenizer, name, options):
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **options}, eos_token_id=1, bos_token_id=None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    model.generation_config.eos_token_id = END_TOKENS
    reference = naive.double(model)
    recorder = Recorder()
    trainer = build_trainer(tmp_path / "run", tokenizer, model=model, callbacks=[recorder])
    trainer.train()
    expected = expected_gradients(trainer, tokenizer, reference)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 5e-5 * scale
