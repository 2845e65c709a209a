"""The tiny policy: its tokenizer, its weights, and what the warm-up shows it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.puzzles import DEFAULT_FAMILIES, FAMILIES, draw_puzzles, mix_puzzles, select_families
from sgpo.puzzles.base import warmup_rows
from sgpo.puzzles.policy import build_policy, build_tokenizer, vocabulary


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The tokenizer as built, and as AutoTokenizer loads it from beside the model."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_policy(tokenizer, seed=0).save_pretrained(folder)
    return tokenizer, AutoTokenizer.from_pretrained(folder)


def test_every_word_is_one_token_and_every_text_comes_back(tokenizers):
    built, loaded = tokenizers
    for puzzle in mix_puzzles(list(FAMILIES.values()), 2000, split="fresh", seed=0):
        for prompt in (
            autonomous_prompt(puzzle.compact.problem, style="compact"),
            guided_prompt(puzzle.compact.problem, puzzle.compact, style="compact"),
        ):
            text = prompt + puzzle.compact.solution
            ids = built(text)["input_ids"]
            assert len(ids) == len(text.split())
            assert loaded(text)["input_ids"] == ids
            assert built.decode(ids) == loaded.decode(ids) == text
            # A prompt and its completion, encoded apart, are the tokens of the whole.
            assert built(prompt)["input_ids"] + built(puzzle.compact.solution)["input_ids"] == ids


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: "<pad>" not in text and "<eos>" not in text))
def test_any_other_text_comes_back(tokenizers, text):
    import unicodedata

    for tokenizer in tokenizers:
        ids = tokenizer(text)["input_ids"]
        assert max(ids, default=0) < len(tokenizer)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)  # as Qwen2's tokenizer does


def test_special_tokens_and_words(tokenizers):
    for tokenizer in tokenizers:
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 0)
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<eos>", 1)
        assert tokenizer.decode([1, 0], skip_special_tokens=True) == ""
        assert tokenizer.chat_template is None
        assert len(tokenizer) == 2 + 256 + len(vocabulary())


def test_the_same_seed_gives_the_same_policy():
    tokenizer = build_tokenizer()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (build_policy(tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's random numbers are left alone
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert 300_000 < sum(parameter.numel() for parameter in first.parameters()) < 600_000


def test_a_saved_policy_loads_as_any_other(tmp_path):
    tokenizer = build_tokenizer()
    policy = build_policy(tokenizer, seed=3).eval()
    policy.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.model_type == "qwen2"
    assert (loaded.config.vocab_size, loaded.generation_config.eos_token_id) == (len(tokenizer), 1)
    tokens = torch.tensor([tokenizer(" flip roll : 3 1 4 2")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(policy(tokens).logits, loaded(tokens).logits)


def test_warmup_rows_are_thirds_of_taught_scrambled_and_guided_puzzles():
    families = select_families()
    rows = warmup_rows(families, 900, seed=0)
    assert len(rows) == 900
    assert rows == warmup_rows(families, 900, seed=0)
    assert rows != warmup_rows(families, 900, seed=1)
    guided = [row for row in rows if "|" in row["prompt"].split()]
    assert len(guided) == 300
    for row in guided:
        strategy = row["prompt"].split(" | ")[0]
        steps = strategy.split(" : ")[1].split(" ; ")
        told = [word for word in row["completion"].split(" answer : ")[0].split() if word in steps]
        assert told == steps  # the completion follows the strategy, step by step


def test_the_warmup_shows_no_training_or_fresh_puzzle():
    families = select_families()
    shown = {row["prompt"].rsplit("| ", 1)[-1].strip() for row in warmup_rows(families, 6000, seed=0)}
    for name in DEFAULT_FAMILIES:
        for split in ("train", "fresh"):
            puzzles = draw_puzzles(FAMILIES[name], 2000, split=split, seed=0)
            assert not shown & {puzzle.compact.problem for puzzle in puzzles}
