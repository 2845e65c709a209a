import math

import pytest
import torch

from sgpo.objective import chunked_token_divergence, clip_divergence, divergence, logprobs, token_divergence


def loop_divergence(unguided, guided, *, direction, temperature):
    """KL_t from the equation, one vocabulary entry at a time."""

    def probabilities(row):
        weights = [math.exp(value / temperature) for value in row]
        return [weight / sum(weights) for weight in weights]

    values = []
    for u_row, p_row in zip(unguided.tolist(), guided.tolist(), strict=True):
        u, p = probabilities(u_row), probabilities(p_row)
        first, second = (p, u) if direction == "forward" else (u, p)
        values.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(first, second, strict=True)))
    return values


def random_logits(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_against_a_loop_written_from_the_equation(direction, temperature):
    unguided, guided = 2 * random_logits(5, 7, seed=0), 2 * random_logits(5, 7, seed=1)
    values = token_divergence(unguided, guided, direction=direction, temperature=temperature)
    assert values.tolist() == pytest.approx(
        loop_divergence(unguided, guided, direction=direction, temperature=temperature), rel=1e-10
    )


def test_worked_by_hand():
    # Guided (3/4, 1/4), unguided (1/2, 1/2): forward 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308; reverse 1/2 ln 2/3 + 1/2 ln 2 =
    # 0.1438. Not symmetric: swapped arguments or directions fail.
    guided, unguided = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert token_divergence(unguided, guided).item() == pytest.approx(0.130812, abs=1e-6)
    assert token_divergence(unguided, guided, direction="reverse").item() == pytest.approx(0.143841, abs=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_branch_does_not_diverge_from_itself(direction):
    logits = 5 * random_logits(4, 9, seed=2)
    assert token_divergence(logits, logits + 3.0, direction=direction).abs().max() < 1e-12  # a shift changes nothing


def test_tokens_that_a_branch_rules_out():
    ruled_out = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert token_divergence(torch.zeros(1, 3), ruled_out).item() == pytest.approx(math.log(1.5))
    assert token_divergence(ruled_out, ruled_out).item() == 0.0
    assert token_divergence(ruled_out, torch.zeros(1, 3)).item() == math.inf


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradient_by_finite_differences(direction):
    unguided, guided = random_logits(3, 5, seed=3).requires_grad_(), random_logits(3, 5, seed=4)
    assert torch.autograd.gradcheck(
        lambda logits: token_divergence(logits, guided, direction=direction, temperature=0.7), unguided
    )


def test_no_gradient_reaches_the_guided_branch():
    unguided, guided = random_logits(3, 5, seed=5).requires_grad_(), random_logits(3, 5, seed=6).requires_grad_()
    token_divergence(unguided, guided).sum().backward()
    assert guided.grad is None
    assert unguided.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_reduced_in_float32(dtype):
    unguided, guided = random_logits(4, 1000, seed=7).to(dtype), random_logits(4, 1000, seed=8).to(dtype)
    values = token_divergence(unguided, guided)
    assert values.dtype == torch.float32
    torch.testing.assert_close(
        values.double(), token_divergence(unguided.double(), guided.double()), rtol=1e-5, atol=1e-6
    )


# -- the chunked form


def hidden_and_head(*, seed, tokens=7, hidden=5, vocabulary=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    unguided, guided, head = (
        torch.randn(rows, hidden, generator=generator, dtype=torch.float64).to(dtype)
        for rows in (tokens, tokens, vocabulary)
    )
    return unguided.requires_grad_(), guided, head


@pytest.fixture(params=[(1, 1), (2, 6), (3, 33), (100, 10_000)], ids="tiles of {0[0]} tokens, {0[1]} logits".format)
def tile_size(request, monkeypatch):
    monkeypatch.setattr(logprobs, "TILE_TOKENS", request.param[0])
    monkeypatch.setattr(logprobs, "TILE_LOGITS", request.param[1])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("heads", [1, 2])
def test_chunked_equals_full(tile_size, direction, frozen_head, temperature, heads):
    unguided, guided, head = hidden_and_head(seed=0)
    guided_head = head if heads == 1 else hidden_and_head(seed=5)[2]
    head.requires_grad_(not frozen_head)
    inputs = [unguided] if frozen_head else [unguided, head]
    upstream = random_logits(7, seed=9)

    options = {"direction": direction, "temperature": temperature}
    second = {} if heads == 1 else {"guided_lm_head_VH": guided_head.requires_grad_()}
    chunked = chunked_token_divergence(unguided, guided, head, **second, **options)
    full = token_divergence(unguided @ head.T, guided @ guided_head.detach().T, **options)
    torch.testing.assert_close(chunked, full, rtol=1e-10, atol=1e-12)
    for ours, reference in zip(
        torch.autograd.grad(chunked @ upstream, inputs), torch.autograd.grad(full @ upstream, inputs), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_chunked_gradient_by_finite_differences(tile_size, direction):
    unguided, guided, head = hidden_and_head(seed=1, tokens=4)
    assert torch.autograd.gradcheck(
        lambda hidden: chunked_token_divergence(hidden, guided, head, direction=direction, temperature=0.8), unguided
    )


def test_no_gradient_reaches_the_guided_branch_of_the_chunked_form():
    unguided, guided, head = hidden_and_head(seed=2)
    guided.requires_grad_()
    head.requires_grad_()
    chunked_token_divergence(unguided, guided, head).sum().backward()
    assert guided.grad is None
    # The unguided branch alone: with equal branches the divergence is at its minimum, and the head's gradient is zero.
    head.grad = None
    chunked_token_divergence(unguided, unguided.detach(), head).sum().backward()
    assert head.grad.abs().max() < 1e-12


@pytest.mark.parametrize("frozen_head", [False, True])
def test_chunked_in_bfloat16_follows_the_full_form(tile_size, frozen_head):
    unguided, guided, head = hidden_and_head(seed=3, tokens=9, hidden=64, dtype=torch.bfloat16)
    head.requires_grad_(not frozen_head)
    inputs = [unguided] if frozen_head else [unguided, head]
    chunked = chunked_token_divergence(unguided, guided, head)
    full = token_divergence(unguided @ head.T, guided @ head.detach().T)
    assert chunked.dtype == torch.float32
    torch.testing.assert_close(chunked, full, rtol=1e-3, atol=1e-4)
    for ours, reference in zip(
        torch.autograd.grad(chunked.sum(), inputs), torch.autograd.grad(full.sum(), inputs), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, reference, rtol=0.05, atol=0.05)


def test_two_heads_must_be_of_one_shape():
    unguided, guided, head = hidden_and_head(seed=0)
    with pytest.raises(ValueError, match=r"the same shape, got \(11, 5\) and \(10, 5\)"):
        chunked_token_divergence(unguided, guided, head, guided_lm_head_VH=head[:10])
    guided_head = head.clone().requires_grad_()
    chunked_token_divergence(unguided, guided, head.requires_grad_(), guided_lm_head_VH=guided_head).sum().backward()
    assert guided_head.grad is None


def test_chunked_never_holds_all_logits(monkeypatch):
    monkeypatch.setattr(logprobs, "TILE_TOKENS", 3)
    monkeypatch.setattr(logprobs, "TILE_LOGITS", 12)
    seen = []
    original = divergence.tile_logits
    monkeypatch.setattr(divergence, "tile_logits", lambda *args: seen.append((made := original(*args)).shape) or made)
    unguided, guided, head = hidden_and_head(seed=4)
    chunked_token_divergence(unguided, guided, head.requires_grad_()).sum().backward()
    assert seen
    assert all(rows <= 3 and rows * columns <= 12 for rows, columns in seen)


def test_no_tokens():
    unguided, guided, head = hidden_and_head(seed=5, tokens=0)
    values = chunked_token_divergence(unguided, guided, head)
    assert values.shape == (0,)
    values.sum().backward()
    assert unguided.grad.shape == (0, 5)


@pytest.mark.parametrize(
    "function", [token_divergence, lambda u, g, **k: chunked_token_divergence(u, g, torch.ones(4, 3), **k)]
)
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match="same two-dimensional shape"):
        function(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="'sideways'"):
        function(torch.zeros(2, 3), torch.zeros(2, 3), direction="sideways")
    with pytest.raises(ValueError, match="temperature"):
        function(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)


# -- the cap


@pytest.mark.parametrize("mode", ["scale", "clamp"])
def test_the_value_is_the_minimum(mode):
    capped = clip_divergence(torch.tensor([0.0, 0.5, 1.0, 4.0]), kl_clip=1.0, mode=mode)
    assert capped.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_the_modes_differ_in_the_gradient_above_the_cap():
    values = torch.tensor([0.5, 4.0])
    gradients = {}
    for mode in ("scale", "clamp"):
        leaf = values.clone().requires_grad_()
        clip_divergence(leaf, kl_clip=2.0, mode=mode).sum().backward()
        gradients[mode] = leaf.grad.tolist()
    assert gradients == {"scale": [1.0, 0.5], "clamp": [1.0, 0.0]}


def test_no_clip_is_no_change():
    values = torch.tensor([0.5, 40.0])
    assert clip_divergence(values, kl_clip=None) is values


@pytest.mark.parametrize("kl_clip", [0.0, -1.0, float("nan")])
def test_a_cap_must_be_positive(kl_clip):
    with pytest.raises(ValueError, match="kl_clip"):
        clip_divergence(torch.ones(2), kl_clip=kl_clip)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'soft'"):
        clip_divergence(torch.ones(2), kl_clip=1.0, mode="soft")
