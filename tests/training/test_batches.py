import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgpo.training.data import token_batches
from tests.training.building import build_trainer
from tests.training.test_step import SpyPredictor


def test_neighbours_in_length_share_a_batch():
    # 9 alone (2 x 9 > 10); 5 and 4 padded to 5 fill 10; 2 and 2; 1 is shorter than three quarters of 2.
    assert token_batches([2, 9, 1, 5, 4, 2], 10) == [[1], [3, 4], [0, 5], [2]]
    assert token_batches([4, 3, 2], 100) == [[0, 1], [2]]


def test_a_row_over_the_budget_is_alone():
    assert token_batches([3, 50, 3], 6) == [[1], [0, 2]]
    assert token_batches([], 6) == []


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_row_once_and_no_batch_over_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_no_training_forward_is_over_the_budget(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer, max_tokens_per_batch=120, max_steps=2)
    spy = trainer.predictor = SpyPredictor(trainer.predictor)
    trainer.train()
    sizes = [
        len(prompts) * max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        for prompts, completions, _ in spy.calls
        if len(prompts) > 1
    ]
    assert len(sizes) > 4
    assert max(sizes) <= 120


def test_the_budget_must_hold_a_token(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="max_tokens_per_batch must be at least 1, got 0"):
        build_trainer(tmp_path / "run", tokenizer, max_tokens_per_batch=0)
