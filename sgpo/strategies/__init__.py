"""Strategies: extracted from a strong model, checked for leaks, stored in a bank."""

from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Effect, Leak, Scores, Strategy

__all__ = ["Effect", "Leak", "Scores", "Strategy", "StrategyBank"]
