import pytest
import torch

from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.hf import sample_tokens, uniform_numbers


def logits_of(*probabilities):
    return torch.tensor([probabilities]).log()


def test_a_uniform_number_picks_by_the_cumulative_distribution():
    # Cumulative 0.2, 0.5, 1.0.
    logits = logits_of(0.2, 0.3, 0.5).expand(5, 3)
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.0, 0.19, 0.21, 0.49, 0.99]), Sampling(max_tokens=1))
    assert tokens.tolist() == [0, 0, 1, 1, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3, 0.5])


def test_a_large_vocabulary_is_summed_exactly():
    """Half a step from each edge the choice is that token's, to the last of 100,000."""
    tokens = torch.tensor([0, 1, 33_333, 65_535, 77_777, 99_998, 99_999])
    logits = torch.zeros(1, 100_000).expand(len(tokens), -1)
    chosen, _ = sample_tokens(logits, (tokens.double() + 0.5) / 100_000, Sampling(max_tokens=1))
    assert chosen.tolist() == tokens.tolist()


def test_frequencies_follow_the_temperature():
    # At temperature 0.5 probabilities are squared: 0.04, 0.09, 0.25 of 0.38.
    logits = logits_of(0.2, 0.3, 0.5).expand(20_000, 3)
    uniforms = uniform_numbers([0], 20_000)[0]
    tokens, logprobs = sample_tokens(logits, uniforms, Sampling(max_tokens=1, temperature=0.5))
    shares = torch.bincount(tokens, minlength=3) / 20_000
    assert shares.tolist() == pytest.approx([4 / 38, 9 / 38, 25 / 38], abs=0.01)
    assert logprobs[tokens == 2][0].exp().item() == pytest.approx(25 / 38, rel=1e-4)


def test_top_p_keeps_the_smallest_set_that_holds_it():
    logits = logits_of(0.05, 0.5, 0.15, 0.3).expand(1000, 4)
    uniforms = uniform_numbers([1], 1000)[0]
    for top_p, kept in ((0.49, {1}), (0.51, {1, 3}), (0.8, {1, 3}), (0.9, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        tokens, _ = sample_tokens(logits, uniforms, Sampling(max_tokens=1, top_p=top_p))
        assert set(tokens.tolist()) == kept


def test_log_probabilities_are_those_before_the_top_p_cut():
    _, logprobs = sample_tokens(logits_of(0.4, 0.6), torch.tensor([0.5]), Sampling(max_tokens=1, top_p=0.5))
    assert logprobs.exp().item() == pytest.approx(0.6)


def test_greedy_takes_the_likeliest_whatever_the_number():
    tokens, logprobs = sample_tokens(
        logits_of(0.1, 0.7, 0.2), torch.tensor([0.999]), Sampling(max_tokens=1, temperature=0)
    )
    assert tokens.item() == 1
    assert logprobs.exp().item() == pytest.approx(0.7)


def test_impossible_tokens_are_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(4, 5)
    uniforms = torch.tensor([0.0, 0.5, 0.4999999, 1 - 2**-53], dtype=torch.float64)
    tokens, _ = sample_tokens(logits, uniforms, Sampling(max_tokens=1))
    assert set(tokens.tolist()) <= {1, 3}


def test_a_large_vocabulary_in_float32_never_runs_past_its_end():
    logits = torch.zeros(1, 151_936)
    tokens, _ = sample_tokens(logits, torch.tensor([1 - 2**-53], dtype=torch.float64), Sampling(max_tokens=1))
    assert 0 <= tokens.item() < 151_936


def test_numbers_depend_on_their_seed_alone():
    together, alone = uniform_numbers([3, 4, 5], 10), uniform_numbers([4], 10)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"max_tokens": 1, "temperature": -1}, {"max_tokens": 1, "top_p": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(reversed(options))):
        Sampling(**options)


def test_logits_that_are_not_numbers_end_it_with_a_word():
    with pytest.raises(FloatingPointError, match="training diverged"):
        sample_tokens(torch.tensor([[0.0, float("nan")]]), torch.tensor([0.5]), Sampling(max_tokens=1))
