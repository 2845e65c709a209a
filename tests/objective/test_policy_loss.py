import math

import pytest
import torch

from sgpo.objective import importance_ratio, importance_weights, policy_loss, reference_kl, shaped_policy_loss


def test_worked_by_hand():
    # Ratios 1.5 and 0.5 with advantage 1: min(1.5, 1.28) = 1.28 and min(0.5, 0.8) = 0.5; with advantage -2:
    # min(-3, -2.56) = -3 and min(-1, -1.6) = -1.6. Loss = -(1.28 + 0.5 - 3 - 1.6) / 4 = 0.705.
    logprobs = torch.log(torch.tensor([[1.5, 0.5], [1.5, 0.5]]))
    loss = policy_loss(logprobs, torch.zeros(2, 2), torch.tensor([1.0, -2.0]), torch.ones(2, 2))
    assert loss.item() == pytest.approx(0.705)


def test_against_a_loop_written_from_the_equation():
    generator = torch.Generator().manual_seed(0)
    logprobs, old = (-torch.rand(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.tensor([1.3, -0.4, 0.0], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    total, tokens = 0.0, 0
    for b in range(3):
        for t in range(5):
            if mask[b, t]:
                ratio = math.exp(logprobs[b, t].item() - old[b, t].item())
                clipped = min(max(ratio, 0.9), 1.4)
                total -= min(ratio * advantages[b].item(), clipped * advantages[b].item())
                tokens += 1
    loss = policy_loss(logprobs, old, advantages, mask, clip_low=0.1, clip_high=0.4)
    assert loss.item() == pytest.approx(total / tokens, rel=1e-12)


def test_on_policy_the_gradient_is_the_plain_policy_gradient():
    logprobs = torch.tensor([[-0.5, -1.0], [-2.0, -0.1]], requires_grad=True)
    policy_loss(logprobs, logprobs.detach(), torch.tensor([1.0, -3.0]), torch.tensor([[1, 1], [1, 0]])).backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([-1 / 3, -1 / 3, 1.0, 0.0])


def test_gradient_by_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logprobs, old = (-torch.rand(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    advantages = torch.tensor([0.7, -1.1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, mask), logprobs.requires_grad_())


def test_poisoned_padding_changes_neither_value_nor_gradient():
    clean = torch.tensor([[-0.5, -1.0, 0.0]], requires_grad=True)
    poisoned = torch.tensor([[-0.5, -1.0, float("nan")]], requires_grad=True)
    old, mask = torch.tensor([[-0.7, -0.9, float("inf")]]), torch.tensor([[True, True, False]])
    losses = [policy_loss(x, old, torch.tensor([2.0]), mask) for x in (clean, poisoned)]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    assert torch.equal(clean.grad, poisoned.grad)
    assert poisoned.grad[0, 2] == 0.0


def test_clipped_tokens_have_no_gradient_in_the_direction_of_the_clip():
    logprobs = torch.log(torch.tensor([[1.5, 0.5]])).requires_grad_()
    policy_loss(logprobs, torch.zeros(1, 2), torch.tensor([1.0]), torch.ones(1, 2)).backward()
    assert logprobs.grad[0, 0] == 0.0  # already above 1.28, and the advantage pushes it up
    assert logprobs.grad[0, 1] < 0.0  # below 0.8, but the advantage pulls it back


def test_the_same_however_the_batch_is_split():
    generator = torch.Generator().manual_seed(2)
    logprobs, old = (-torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [4]])
    whole = policy_loss(logprobs, old, advantages, mask)
    parts = sum(
        policy_loss(logprobs[rows], old[rows], advantages[rows], mask[rows]) * mask[rows].sum() / mask.sum()
        for rows in (slice(0, 1), slice(1, 4))
    )
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


def test_without_a_token_the_loss_is_zero():
    logprobs = torch.zeros(2, 3, requires_grad=True)
    loss = policy_loss(logprobs, torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert not logprobs.grad.any()


def test_means_by_token_and_by_sequence_worked_by_hand():
    # On policy, rho = 1: a token's loss is -A. Completions of 3, 1 and 0 tokens with A = 1, -2 and 5.
    # By token: -(3 * 1 + 1 * -2) / 4 = -0.25. By sequence: (-(1) + 2) / 2 = 0.5: the third has no token.
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-0.3, float("nan"), 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    advantages = torch.tensor([1.0, -2.0, 5.0])
    losses = {
        mean: policy_loss(logprobs, logprobs, advantages, mask, loss_mean=mean).item() for mean in ("token", "sequence")
    }
    assert losses == {"token": pytest.approx(-0.25), "sequence": pytest.approx(0.5)}


def test_by_sequence_a_long_completion_pulls_no_more_than_a_short_one():
    logprobs = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    policy_loss(logprobs, logprobs.detach(), torch.tensor([3.0, 6.0]), mask, loss_mean="sequence").backward()
    # Each completion has half of the weight: 3 / 2 shared by three tokens, 6 / 2 on one.
    assert logprobs.grad.tolist() == [pytest.approx([-0.5] * 3), pytest.approx([-3.0, 0.0, 0.0])]


def test_without_a_token_the_mean_by_sequence_is_zero():
    logprobs = torch.zeros(2, 3, requires_grad=True)
    loss = policy_loss(logprobs, torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3), loss_mean="sequence")
    loss.backward()
    assert loss.item() == 0.0
    assert not logprobs.grad.any()


def test_importance_weights_worked_by_hand():
    # The trainer finds the tokens 1.5, 4 and 0.5 times as likely as the engine that sampled them; the fourth has no
    # log-probability. Capped at 2: 1.5, 2, 0.5, 1.
    old = torch.log(torch.tensor([[0.3, 0.4, 0.1, 0.2]])).requires_grad_()
    sampling = torch.log(torch.tensor([[0.2, 0.1, 0.2, float("nan")]]))
    weights = importance_weights(old, sampling, clip_max=2.0)
    assert weights.tolist() == [pytest.approx([1.5, 2.0, 0.5, 1.0])]
    assert not weights.requires_grad


def test_importance_weights_multiply_a_tokens_loss():
    # Two tokens, rho = 1 and A = -1: losses 1 and 1, weighed 1.5 and 0.5; padding is poisoned.
    logprobs = torch.tensor([[-1.0, -2.0, 0.0]], requires_grad=True)
    weights = torch.tensor([[1.5, 0.5, float("nan")]])
    loss = policy_loss(
        logprobs, logprobs.detach(), torch.tensor([-1.0]), torch.tensor([[1, 1, 0]]), importance_BT=weights
    )
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert logprobs.grad.tolist() == [pytest.approx([0.75, 0.25, 0.0])]


def test_shaped_loss_worked_by_hand():
    # pi = 0.9 and 0.1, shaping 0.1: f = 0.9 and 0.5; A = 2 gives -(1.8 + 1.0) / 2. The padding is poisoned.
    logprobs = torch.tensor([[math.log(0.9), math.log(0.1), math.nan]], requires_grad=True)
    loss = shaped_policy_loss(logprobs, torch.tensor([2.0]), torch.tensor([[1, 1, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(-1.4)
    # d/dlog pi of f = 0.1 pi / (pi + 0.1)^2: 0.09 and 0.25, so the unlikely token pulls harder; times -2 / 2.
    assert logprobs.grad.tolist() == [pytest.approx([-0.09, -0.25, 0.0])]


def test_shaped_loss_without_a_token_is_zero():
    logprobs = torch.zeros(1, 2, requires_grad=True)
    assert shaped_policy_loss(logprobs, torch.ones(1), torch.zeros(1, 2)).item() == 0.0


# -- the ratio of a sequence (GSPO), and the KL to the reference


def test_the_ratio_of_a_sequence_worked_by_hand():
    # Ratios 2 and 8 of one completion: their geometric mean, 4, counts for both tokens. The other has one token.
    logprobs = torch.log(torch.tensor([[2.0, 8.0], [0.5, 7.0]]))
    mask = torch.tensor([[1, 1], [1, 0]])
    ratio = importance_ratio(logprobs, torch.zeros(2, 2), mask, level="sequence")
    assert ratio.flatten().tolist() == pytest.approx([4.0, 4.0, 0.5, 1.0])
    # With advantages 1 and -1 and a clip of 0.2, 0.28: -(1.28 + 1.28)/2 and +max(0.5, 0.8), their mean -0.24.
    options = {"ratio_level": "sequence", "loss_mean": "sequence"}
    loss = policy_loss(logprobs, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), mask, **options)
    assert loss.item() == pytest.approx(-0.24)


def test_a_sequence_clipped_has_no_gradient_at_any_token():
    logprobs = torch.log(torch.tensor([[4.0, 0.9], [1.1, 0.9]])).requires_grad_()
    options = {"ratio_level": "sequence", "loss_mean": "sequence"}
    policy_loss(logprobs, torch.zeros(2, 2), torch.ones(2), torch.ones(2, 2), **options).backward()
    assert logprobs.grad[0].tolist() == [0.0, 0.0]
    # d/dlogprob of -(1/2) (s + s)/2 is -s/4, half of it through each token: s is the root of 0.99.
    assert logprobs.grad[1].tolist() == pytest.approx([-(0.99**0.5) / 4] * 2)


def test_the_kl_worked_by_hand():
    # The reference finds the token twice as likely: 2 - ln 2 - 1; half as likely: 0.5 + ln 2 - 1; as likely: 0.
    policy = torch.log(torch.tensor([[0.2, 0.4, 0.5]]))
    reference = torch.log(torch.tensor([[0.4, 0.2, 0.5]]))
    kl = reference_kl(policy, reference, torch.ones(1, 3))
    assert kl[0].tolist() == pytest.approx([0.3068528, 0.1931472, 0.0], abs=1e-6)
    assert reference_kl(policy, reference, torch.full((1, 3), 2.0))[0, 0].item() == pytest.approx(0.6137056)


def test_on_average_over_tokens_the_kl_and_its_gradient_are_those_of_the_distributions():
    """The expectation over all tokens of the vocabulary, in place of a sample."""
    generator = torch.Generator().manual_seed(3)
    logits, other = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    logprobs, reference = logits.log_softmax(-1), other.log_softmax(-1)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    ratio = (logprobs - logprobs.detach()).exp()
    estimate = (logprobs.exp().detach() * reference_kl(logprobs, reference, ratio)).sum()
    (gradient,) = torch.autograd.grad(estimate, logits)
    assert estimate.item() == pytest.approx(exact.item(), rel=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-10)
    assert expected.abs().max() > 0.1
