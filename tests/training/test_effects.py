from sgpo.training.effects import strategy_effects


def row(problem, group, reward):
    return {"problem_id": problem, "group": group, "reward": reward}


def test_passes_and_completions_of_both_groups_count_for_the_problems_strategy():
    rows = [
        row("p", "guided", 1.0),
        row("p", "guided", 0.0),
        row("p", "autonomous", 0.0),
        row("p", "autonomous", 1.0),
        row("p", "autonomous", None),  # judging it took too long
        row("q", "guided", 1.0),
        row("without", "autonomous", 1.0),
    ]
    assert strategy_effects(rows, {"p": "s-1", "q": "s-2"}) == {"s-1": [1, 2, 1, 2], "s-2": [1, 1, 0, 0]}
