import copy

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from sgpo.objective import logprobs as tiles
from sgpo.rollouts import forward as logprobs
from sgpo.rollouts.forward import Predictor, predicted_divergence, token_logprobs
from tests.conftest import tiny_qwen2

PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13]]
COMPLETIONS = [[20, 21], [30, 31, 32, 1], [40]]


def reference_logits(model, prompt, completion):
    """One row at a time, unpadded: the logits at position i are for token i + 1."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return torch.stack([logits[len(prompt) - 1 + t] for t in range(len(completion))])


def reference_logprobs(model, temperature):
    values = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        logits = reference_logits(model, prompt, completion) / temperature
        values += [(row.exp() / row.exp().sum())[token].log() for row, token in zip(logits, completion, strict=True)]
    return torch.stack(values)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()


def gemma2():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5, attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(50)
    return model


def lora():
    return get_peft_model(tiny_qwen2(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()


def predict(model, predictor=None):
    return (predictor or Predictor(model, pad_id=0))(model, PROMPTS, COMPLETIONS)


IDS = torch.tensor([token for completion in COMPLETIONS for token in completion])


@pytest.mark.parametrize("make", [tiny_qwen2, gpt2, gemma2, lora])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_against_one_row_at_a_time(make, temperature):
    model = make()
    values = token_logprobs(predict(model), IDS, temperature=temperature)
    torch.testing.assert_close(values, reference_logprobs(model, temperature), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_not_linear_is_recognised():
    assert Predictor(tiny_qwen2(), pad_id=0).head_is_linear
    assert Predictor(lora(), pad_id=0).head_is_linear
    assert not Predictor(gemma2(), pad_id=0).head_is_linear


@pytest.mark.parametrize("name", ["Gemma2", "NanoChat", "VaultGemma", "RecurrentGemma", "Gemma3"])
def test_a_soft_cap_is_recognised_while_logits_are_small(name):
    """Where it does nothing yet: once logits grow it does, by many nats."""
    cap = {"RecurrentGemma": "logits_soft_cap"}.get(name, "final_logit_softcapping")
    options = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
               "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "lru_width": 32}  # fmt: skip
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**options, **{cap: None if name == "Gemma3" else 30.0})).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.01)
    assert Predictor(model, pad_id=0).head_is_linear == (name == "Gemma3")  # which has none


def test_the_head_is_only_applied_to_completion_tokens():
    model = tiny_qwen2()
    predictor = Predictor(model, pad_id=0)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    assert predict(model, predictor).states.shape == (7, 32)
    assert seen == [1]


@pytest.mark.parametrize("tile_logits", [100, 1000, 1_000_000])
def test_gradients_do_not_depend_on_the_tile_size(monkeypatch, tile_logits):
    monkeypatch.setattr(logprobs, "TILE_LOGITS", tile_logits)
    monkeypatch.setattr(tiles, "TILE_LOGITS", tile_logits)
    model = tiny_qwen2()
    weights = torch.arange(1.0, 8.0)
    (token_logprobs(predict(model), IDS, temperature=0.7) @ weights).backward()
    reference = copy.deepcopy(model)
    reference.zero_grad()
    (reference_logprobs(reference, 0.7) @ weights).backward()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing():
    model = tiny_qwen2()
    predictor = Predictor(model, pad_id=77)
    together = token_logprobs(predict(model, predictor), IDS, temperature=1.0)
    alone = [
        token_logprobs(predictor(model, [p], [c]), torch.tensor(c), temperature=1.0)
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [tiny_qwen2, gemma2])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_divergence_between_two_prompts(make, direction):
    model = make()
    predictor = Predictor(model, pad_id=0)
    unguided = predictor(model, [[5]], [[20, 21, 22]])
    guided = predictor(model, [[8, 9, 5]], [[20, 21, 22]])
    values = predicted_divergence(unguided, guided, direction=direction, temperature=0.8)
    u = (reference_logits(model, [5], [20, 21, 22]) / 0.8).softmax(-1)
    p = (reference_logits(model, [8, 9, 5], [20, 21, 22]) / 0.8).softmax(-1)
    first, second = (p, u) if direction == "forward" else (u, p)
    expected = [sum(a * (a / b).log() for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)]
    assert values.tolist() == pytest.approx([float(e) for e in expected], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("when", ["loaded sharded", "sharded later"])
def test_a_sharded_head_is_used_only_within_the_models_own_forward(when):
    """ZeRO-3 gives its parameters an id; at any other time they are empty."""
    model = tiny_qwen2(tie_word_embeddings=False)
    expected = token_logprobs(predict(model), IDS, temperature=1.0)
    if when == "loaded sharded":
        model.lm_head.weight.ds_id = 3
    predictor = Predictor(model, pad_id=0)
    model.lm_head.weight.ds_id = 3
    predictions = predict(model, predictor)
    assert predictions.head_VH is None
    assert torch.allclose(token_logprobs(predictions, IDS, temperature=1.0), expected, atol=1e-5)


@pytest.mark.parametrize("tile", [2**23, 64], ids=["logits", "tiles"])
def test_in_mixed_precision_the_head_is_multiplied_in_sixteen_bits(monkeypatch, tile):
    """Values and gradients are as far from float32's as 8 bits of a logit are, and no farther."""
    monkeypatch.setattr(tiles, "TILE_LOGITS", tile)
    monkeypatch.setattr(logprobs, "TILE_LOGITS", tile)
    model = tiny_qwen2()
    results = []
    for dtype in (None, torch.bfloat16):
        model.zero_grad()
        predictor = Predictor(model, pad_id=0, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            predictions = predict(model, predictor)
        assert predictions.states.dtype == predictions.head_VH.dtype == (dtype or torch.float32)
        values = token_logprobs(predictions, IDS, temperature=1.0)
        values.mean().backward()
        results.append((values.detach(), model.model.embed_tokens.weight.grad.clone(), predictions.logits().detach()))
    (exact, gradient, logits_NV), (values, rounded_gradient, _) = results
    assert 0 < (values - exact).abs().max() < 2**-7 * logits_NV.abs().max()
    assert values.dtype == torch.float32
    assert 0 < (rounded_gradient - gradient).abs().max() < 0.05 * gradient.abs().max()


def test_large_logits_are_never_whole(monkeypatch):
    """Above the size of a tile the head is applied tile by tile, which no comparison of numbers would notice."""
    model = tiny_qwen2()
    predictions = predict(model)
    monkeypatch.setattr(type(predictions), "logits", None)
    with pytest.raises(TypeError):
        token_logprobs(predictions, IDS, temperature=1.0)
    monkeypatch.setattr(logprobs, "TILE_LOGITS", 1)
    assert token_logprobs(predictions, IDS, temperature=1.0).shape == IDS.shape
