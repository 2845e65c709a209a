import math

import pytest
import torch

from sgpo.objective import group_advantages

NAN = float("nan")


def test_worked_by_hand():
    # r = (1, 0, 0, 0): mean 1/4, deviations (3/4, -1/4, -1/4, -1/4), unbiased variance (9 + 1 + 1 + 1) / 16 / 3 = 1/4.
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert advantages.tolist()[0] == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3, rel=1e-5)


def test_without_scale_only_the_mean_is_taken_off():
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), scale=False)
    assert advantages.tolist() == [[0.75, -0.25, -0.25, -0.25]]


def test_groups_do_not_mix():
    together = group_advantages(torch.tensor([[1.0, 0.0, 0.0], [5.0, 5.0, 2.0]]))
    assert torch.equal(together[0], group_advantages(torch.tensor([[1.0, 0.0, 0.0]]))[0])
    assert torch.equal(together[1], group_advantages(torch.tensor([[5.0, 5.0, 2.0]]))[0])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e8])
@pytest.mark.parametrize("scale", [True, False])
def test_equal_rewards_give_exact_zeros(reward, scale):
    # The mean of three times 0.1 is not 0.1 in float32, so subtraction alone would leave noise / 1e-4.
    assert group_advantages(torch.full((1, 3), reward), scale=scale).tolist() == [[0.0, 0.0, 0.0]]


def test_nan_rewards_are_left_out_and_get_zero():
    advantages = group_advantages(torch.tensor([[1.0, NAN, 0.0, 0.0, NAN]]))
    without = group_advantages(torch.tensor([[1.0, 0.0, 0.0]]))
    assert advantages[0, [0, 2, 3]].tolist() == pytest.approx(without[0].tolist())
    assert advantages[0, [1, 4]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("row", [[NAN, NAN], [1.0, NAN], [NAN, 0.0]])
def test_a_group_with_fewer_than_two_rewards_gives_zeros(row):
    assert group_advantages(torch.tensor([row])).tolist() == [[0.0, 0.0]]


def test_against_a_loop_written_from_the_equation():
    rewards = torch.tensor([[0.3, 0.9, -1.2, 0.0], [1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    advantages = group_advantages(rewards)
    for p, row in enumerate(rewards.tolist()):
        mean = sum(row) / len(row)
        std = math.sqrt(sum((r - mean) ** 2 for r in row) / (len(row) - 1))
        for g, r in enumerate(row):
            assert advantages[p, g].item() == pytest.approx((r - mean) / (std + 1e-4), rel=1e-12)


def test_a_flat_list_of_rewards_is_refused():
    with pytest.raises(ValueError, match="problems, completions"):
        group_advantages(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_has_no_advantages(shape):
    assert group_advantages(torch.empty(shape)).shape == shape
