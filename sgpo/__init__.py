"""SGPO: Strategy-Guided Policy Optimization (arXiv 2606.24064).

The names below are resolved when first used, so that `import sgpo` is quick and `sgpo --help` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.problems import Problem
    from sgpo.strategies.bank import StrategyBank
    from sgpo.strategies.strategy import Strategy
    from sgpo.training.config import SGPOConfig
    from sgpo.training.trainer import SGPOTrainer
    from sgpo.verifier import Verifier

__version__ = "0.1.0"

_HOMES = {
    "Problem": "sgpo.problems",
    "SGPOConfig": "sgpo.training.config",
    "SGPOTrainer": "sgpo.training.trainer",
    "Strategy": "sgpo.strategies.strategy",
    "StrategyBank": "sgpo.strategies.bank",
    "Verifier": "sgpo.verifier",
}

__all__ = ["Problem", "SGPOConfig", "SGPOTrainer", "Strategy", "StrategyBank", "Verifier"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sgpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
