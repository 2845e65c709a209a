import pytest
import torch

from sgpo.objective import select_target


def tokens(*values):
    return torch.tensor(values)


def test_the_likeliest_correct_completion_per_token_is_chosen():
    # Means -1.0, -0.5, -0.1: the last is wrong, so the second; by sums it would be the first (-1.0 against -2.0).
    logprobs = [tokens(-1.0), tokens(-0.5, -0.5, -0.5, -0.5), tokens(-0.1)]
    assert select_target(logprobs, [True, True, False]) == 1


def test_means_may_be_given_as_one_tensor():
    assert select_target(torch.tensor([-0.9, -0.2, -0.4]), torch.tensor([1, 0, 1])) == 2


def test_ties_go_to_the_first():
    assert select_target([tokens(-9.0), tokens(-0.5), tokens(-0.25, -0.75)], [True, True, True]) == 1


@pytest.mark.parametrize("rule", ["likelihood", "random"])
def test_none_correct_is_no_target(rule):
    assert select_target([tokens(-0.1), tokens(-0.2)], [False, False], rule=rule) is None


def test_an_empty_completion_is_chosen_only_for_want_of_another():
    assert select_target([tokens(), tokens(-50.0)], [True, True]) == 1
    assert select_target([tokens(), tokens(-0.1)], [True, False]) == 0


def test_random_draws_every_correct_completion_and_no_other():
    logprobs, correct = [tokens(-1.0)] * 4, [True, False, True, True]
    generator = torch.Generator().manual_seed(0)
    drawn = [select_target(logprobs, correct, rule="random", generator=generator) for _ in range(300)]
    assert set(drawn) == {0, 2, 3}
    assert min(drawn.count(g) for g in (0, 2, 3)) > 60


def test_random_repeats_with_its_generator():
    def draw():
        generator = torch.Generator().manual_seed(7)
        return [select_target([tokens(-1.0)] * 9, [True] * 9, rule="random", generator=generator) for _ in range(20)]

    assert draw() == draw()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="'best'"):
        select_target([tokens(-1.0)], [True], rule="best")
    with pytest.raises(ValueError, match="2 completions"):
        select_target([tokens(-1.0), tokens(-2.0)], [True])
