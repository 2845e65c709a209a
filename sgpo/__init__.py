"""SGPO: Strategy-Guided Policy Optimization (arXiv 2606.24064).

The names below are resolved when first used, so that `import sgpo` is quick and `sgpo --help` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.errors import (
        BankError,
        BudgetError,
        DivergedError,
        EndpointError,
        InputError,
        RunDirectoryError,
        SGPOError,
    )
    from sgpo.problems import Problem, load_problems
    from sgpo.report import write_report
    from sgpo.strategies.bank import StrategyBank
    from sgpo.strategies.strategy import Strategy
    from sgpo.training.config import SGPOConfig
    from sgpo.training.trainer import SGPOTrainer
    from sgpo.verifier import Verdict, Verifier

__version__ = "0.1.0"

_HOMES = {
    "BankError": "sgpo.errors",
    "BudgetError": "sgpo.errors",
    "DivergedError": "sgpo.errors",
    "EndpointError": "sgpo.errors",
    "InputError": "sgpo.errors",
    "Problem": "sgpo.problems",
    "RunDirectoryError": "sgpo.errors",
    "SGPOConfig": "sgpo.training.config",
    "SGPOError": "sgpo.errors",
    "SGPOTrainer": "sgpo.training.trainer",
    "Strategy": "sgpo.strategies.strategy",
    "StrategyBank": "sgpo.strategies.bank",
    "Verdict": "sgpo.verifier",
    "Verifier": "sgpo.verifier",
    "load_problems": "sgpo.problems",
    "write_report": "sgpo.report",
}

__all__ = [
    "BankError",
    "BudgetError",
    "DivergedError",
    "EndpointError",
    "InputError",
    "Problem",
    "RunDirectoryError",
    "SGPOConfig",
    "SGPOError",
    "SGPOTrainer",
    "Strategy",
    "StrategyBank",
    "Verdict",
    "Verifier",
    "load_problems",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sgpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
