import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from sgpo.errors import InputError
from sgpo.rollouts import hf
from sgpo.rollouts.engine import Sampling, encode_prompt, end_token_ids
from sgpo.rollouts.hf import HFEngine, can_decode
from tests.conftest import tiny_qwen2

PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 15], [5, 6, 7], [20, 21]] * 3
SEEDS = list(range(len(PROMPTS)))


def engine(model=None, *, eos_ids=(1, *range(30, 130)), **options):
    return HFEngine(model or tiny_qwen2(), pad_id=0, eos_ids=eos_ids, **options)


def generate(prompts=PROMPTS, seeds=SEEDS, sampling=None, **options):
    return engine(**options).generate(prompts, sampling or Sampling(max_tokens=20), seeds=seeds)


def test_greedy_decoding_gives_the_tokens_of_generate():
    model = tiny_qwen2(tie_word_embeddings=False)  # a tied head would repeat its input for ever
    completions = engine(model).generate(PROMPTS, Sampling(max_tokens=20, temperature=0), seeds=SEEDS)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        output = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=[1, *range(30, 130)],
            pad_token_id=0,
        )
        assert completion.token_ids == output[0, len(prompt) :].tolist()
    assert {len(c.token_ids) for c in completions} != {20}  # some ended early, so rows left the batch


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=0.6, top_p=0.95)],
    ids=["plain", "top-p"],
)
def test_the_loop_and_generate_sample_the_same(monkeypatch, sampling):
    ours = generate(sampling=sampling)
    monkeypatch.setattr(hf, "can_decode", lambda model: False)
    theirs = generate(sampling=sampling)
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    assert [c.finished for c in ours] == [c.finished for c in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_completion_depends_on_its_seed_and_not_on_its_batch():
    together = generate()
    one_by_one = [generate([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    small = generate(batch_size=4)
    assert [c.token_ids for c in together] == [c.token_ids for c in one_by_one] == [c.token_ids for c in small]
    assert generate(seeds=[seed + 1 for seed in SEEDS]) != together


def test_completions_end_with_an_end_token_or_are_unfinished():
    completions = generate()
    assert any(c.finished for c in completions)
    assert any(not c.finished for c in completions)
    for completion in completions:
        ends = [token in {1, *range(30, 130)} for token in completion.token_ids]
        assert sum(ends) == (1 if completion.finished else 0)
        assert not completion.finished or ends[-1]
        assert len(completion.logprobs) == len(completion.token_ids)
        assert completion.finished or len(completion.token_ids) == 20


@pytest.mark.parametrize("loop", [True, False])
def test_the_models_own_generation_config_is_ignored(monkeypatch, loop):
    expected = generate(eos_ids=[1])
    hostile = tiny_qwen2()
    hostile.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.01,
        top_k=1,
        top_p=0.1,
        min_p=0.5,
        typical_p=0.2,
        repetition_penalty=3.0,
        no_repeat_ngram_size=2,
        bad_words_ids=[[7], [8]],
        suppress_tokens=list(range(100)),
        begin_suppress_tokens=[70, 80],
        max_length=4,
        max_new_tokens=3,
        min_new_tokens=19,
        num_beams=3,
        eos_token_id=99,
        renormalize_logits=True,
        pad_token_id=50,
        sequence_bias=[[[60], 50.0]],
        exponential_decay_length_penalty=(1, 2.0),
    )
    monkeypatch.setattr(hf, "can_decode", lambda model: loop)
    original = hostile.generation_config
    got = generate(model=hostile, eos_ids=[1])
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    assert hostile.generation_config is original


def test_the_generation_config_below_adapters_is_the_same_after(monkeypatch):
    model = get_peft_model(tiny_qwen2(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    below = model.get_base_model().generation_config
    monkeypatch.setattr(hf, "can_decode", lambda model: False)
    assert [c.token_ids for c in generate(model=model)] == [c.token_ids for c in generate()]
    assert model.get_base_model().generation_config is below
    assert model.generation_config is below


def test_a_model_whose_batches_are_wrong_is_refused():
    size = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    with pytest.raises(InputError, match="RwkvForCausalLM: generates wrong tokens for all but one row of a batch"):
        engine(RwkvForCausalLM(RwkvConfig(vocab_size=258, **size)))


def test_a_model_that_cannot_hide_padding_gets_none():
    """It attends to the two tokens that an index finds."""
    deepseek = pytest.importorskip("transformers.models.deepseek_v32")
    torch.manual_seed(0)
    config = deepseek.DeepseekV32Config(
        vocab_size=258, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        index_topk=2, index_head_dim=16, index_n_heads=2, first_k_dense_replace=1,
    )  # fmt: skip
    model = deepseek.DeepseekV32ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    together = engine(model).generate(PROMPTS, Sampling(max_tokens=4), seeds=SEEDS)
    for prompt, seed, completion in zip(PROMPTS, SEEDS, together, strict=True):
        (alone,) = engine(model).generate([prompt], Sampling(max_tokens=4), seeds=[seed])
        assert completion.token_ids == alone.token_ids
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_a_model_with_sliding_windows_falls_back_to_generate():
    config = MistralConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    assert not can_decode(model)
    assert can_decode(tiny_qwen2())
    completions = engine(model, eos_ids=[1]).generate(PROMPTS, Sampling(max_tokens=8, temperature=0), seeds=SEEDS)
    expected = model.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert completions[2].token_ids == expected[0, 6:].tolist()


def test_each_distinct_prompt_is_computed_once(monkeypatch):
    rows = []
    original = hf._next_logits
    monkeypatch.setattr(
        hf,
        "_next_logits",
        lambda model, cache, ids, *rest: rows.append(len(ids)) or original(model, cache, ids, *rest),
    )
    generate(eos_ids=[1, *range(30, 50)])
    assert rows[0] == 4  # of 15 prompts
    assert rows[1] > 12
    assert rows[-1] < rows[1]  # ended rows have left


def test_room_grows_with_the_completions_and_changes_nothing(monkeypatch):
    rooms = []
    original = hf._next_logits

    def watched(model, cache, *rest):
        logits = original(model, cache, *rest)
        rooms.extend(layer.key_room.shape[2] for layer in cache.layers)
        return logits

    eos_ids = [1, *range(30, 50)]  # rows leave before and after the room grows
    expected = generate(eos_ids=eos_ids)
    monkeypatch.setattr(hf, "_next_logits", watched)
    monkeypatch.setattr(hf, "FIRST_ROOM", 4)
    assert generate(eos_ids=eos_ids) == expected
    assert sorted(set(rooms)) == [6 + 4, 20, 6 + 20]  # the longest prompt has 6 tokens, the limit is 20
    rooms.clear()
    generate([PROMPTS[0]], [0], Sampling(max_tokens=10_000), eos_ids=range(256))
    assert set(rooms) == {3 + 4}


def test_training_mode_is_restored():
    model = tiny_qwen2().train()
    engine(model).generate(PROMPTS[:1], Sampling(max_tokens=2), seeds=[0])
    assert model.training


def test_end_tokens_are_the_tokenizers_and_the_models(tokenizer):
    model = tiny_qwen2()
    model.generation_config.eos_token_id = [1, 42]
    assert end_token_ids(model, tokenizer) == [1, 42]
    model.generation_config.eos_token_id = 7
    assert end_token_ids(model, tokenizer) == [1, 7]


def test_prompts_go_through_the_chat_template_where_there_is_one(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, "2+2?")) == "2+2?"
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[you]{% endif %}"
    )
    try:
        tokenizer.chat_template = template
        assert tokenizer.decode(encode_prompt(tokenizer, "2+2?")) == "[user]2+2?[you]"
    finally:
        tokenizer.chat_template = None
