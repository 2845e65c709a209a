import pytest
import torch

from sgpo.objective import logprobs as tiles
from sgpo.objective.logprobs import chunked_token_logprobs

IDS = torch.tensor([0, 10, 3, 3, 7, 1])


def inputs(dtype=torch.float64, *, hidden=5):
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(rows, hidden, generator=generator, dtype=torch.float64) for rows in (6, 11))
    return states.to(dtype).requires_grad_(), head.to(dtype)


def from_full_logits(states, head, temperature):
    probabilities = (states @ head.T / temperature).exp()
    return (probabilities[torch.arange(6), IDS] / probabilities.sum(-1)).log()


@pytest.fixture(params=[(1, 1), (2, 6), (4, 16), (100, 10_000)], ids="tiles of {0[0]} tokens, {0[1]} logits".format)
def tile_size(request, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_TOKENS", request.param[0])
    monkeypatch.setattr(tiles, "TILE_LOGITS", request.param[1])


@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_full_logits(tile_size, frozen_head, temperature):
    states, head = inputs()
    head.requires_grad_(not frozen_head)
    leaves = [states] if frozen_head else [states, head]
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0], dtype=torch.float64)
    ours = chunked_token_logprobs(states, head, IDS, temperature=temperature)
    full = from_full_logits(states, head, temperature)
    torch.testing.assert_close(ours, full, rtol=1e-10, atol=1e-12)
    for mine, reference in zip(
        torch.autograd.grad(ours @ upstream, leaves), torch.autograd.grad(full @ upstream, leaves), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def test_gradient_by_finite_differences(tile_size):
    states, head = inputs()
    assert torch.autograd.gradcheck(
        lambda s, h: chunked_token_logprobs(s, h, IDS, temperature=0.7), (states, head.requires_grad_())
    )


@pytest.mark.parametrize("frozen_head", [False, True])
def test_bfloat16_is_summed_in_float32(tile_size, frozen_head):
    states, head = inputs(torch.bfloat16, hidden=64)
    head.requires_grad_(not frozen_head)
    leaves = [states] if frozen_head else [states, head]
    ours = chunked_token_logprobs(states, head, IDS)
    assert ours.dtype == torch.float32
    full = (states.double() @ head.double().T).log_softmax(-1)[torch.arange(6), IDS]
    torch.testing.assert_close(ours.double(), full, rtol=1e-2, atol=0.1)
    for mine, reference in zip(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(full.sum(), leaves), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, reference, rtol=0.05, atol=0.05)


def test_large_logits_do_not_overflow(tile_size):
    states, head = inputs(torch.float32)
    logprobs = chunked_token_logprobs(states.detach() * 1e4, head, IDS)
    assert torch.isfinite(logprobs).all()


def test_no_tokens():
    states, head = torch.zeros(0, 5, requires_grad=True), torch.ones(11, 5, requires_grad=True)
    logprobs = chunked_token_logprobs(states, head, torch.zeros(0, dtype=torch.long))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert head.grad.abs().sum() == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one of each a token"):
        chunked_token_logprobs(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="temperature"):
        chunked_token_logprobs(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, dtype=torch.long), temperature=0.0)


def test_sixteen_bits_round_the_logit_of_a_token_as_all_others():
    """Logits of which a bfloat16 is off by up to a quarter: the logarithm of a token that is certain is still 0."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randint(-8, 9, shape, generator=generator) / 8 for shape in ((32, 256), (64, 256)))
    hidden, head = (4 * hidden).bfloat16(), head.bfloat16()  # whole eighths: any order of a sum gives the same
    logits = (hidden.float() @ head.float().T).bfloat16().float()
    ids = logits.argmax(-1)
    expected = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    values = chunked_token_logprobs(hidden, head, ids)
    assert torch.allclose(values, expected, atol=1e-5)
    assert values.max() <= 0
