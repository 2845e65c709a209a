from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy
from sgpo.training.metrics import record_effects, strategy_effects


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


def test_a_bank_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    path = tmp_path / "bank.db"
    with StrategyBank(path) as bank:
        bank.add(Strategy("p", "Sums", "Add", ("Add",), id="s-1"))
    record_effects(path, "run", {"s-1": [1, 2, 1, 2]})
    assert caplog.text == ""
    with StrategyBank(path, read_only=True) as bank:
        assert bank.effect("s-1").guided_total == 2
    path.write_bytes(b"")
    record_effects(path, "run", {"s-1": [1, 2, 1, 2]})
    assert len(caplog.records) == 1
    assert "was not told what its strategies did in this run" in caplog.text
    assert "bank.db: an empty file, but no strategy bank" in caplog.text
