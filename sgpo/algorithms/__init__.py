"""Each row of the paper's tables is one small class here, or one option of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sgpo.algorithms.base import Algorithm, Needs, Part, Target, TrainingRow
from sgpo.algorithms.grpo import GRPO
from sgpo.algorithms.guided_sft import GuidedSFT
from sgpo.algorithms.hpt import HPT
from sgpo.algorithms.luffy import LUFFY
from sgpo.algorithms.opsd import OPSD
from sgpo.algorithms.sft import SFT
from sgpo.algorithms.sgpo import SGPO
from sgpo.errors import InputError

ALGORITHMS: dict[str, type[Algorithm]] = {
    "sgpo": SGPO,
    "grpo": GRPO,
    "sft": SFT,
    "guided_sft": GuidedSFT,
    "luffy": LUFFY,
    "hpt": HPT,
    "opsd": OPSD,
}


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of that name. Raises InputError for an unknown one."""
    if name not in ALGORITHMS:
        raise InputError(f"unknown algorithm {name!r}; there are: {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def build_algorithm(name: str, options: Mapping[str, Any]) -> Algorithm:
    """The algorithm of that name, its fields taken from `options`. Raises InputError for an unknown name."""
    cls = algorithm_class(name)
    return cls(**{option: options[option] for option in fields_of(cls)})


def fields_of(cls: type[Algorithm]) -> list[str]:
    """The options of `SGPOConfig` that are fields of an algorithm."""
    return [field.name for field in fields(cls)]  # type: ignore[arg-type]  # every subclass is a dataclass


def readers_of(option: str, part: Part | None) -> list[str]:
    """The algorithms that read an option: it is one of their fields, or belongs to a part that they have.

    An option that is neither is not the algorithm's business: every one reads it.
    """
    readers = [name for name, cls in ALGORITHMS.items() if option in fields_of(cls) or part in cls.parts]
    return readers or list(ALGORITHMS)


__all__ = [
    "ALGORITHMS",
    "GRPO",
    "HPT",
    "LUFFY",
    "OPSD",
    "SFT",
    "SGPO",
    "Algorithm",
    "GuidedSFT",
    "Needs",
    "Part",
    "Target",
    "TrainingRow",
    "algorithm_class",
    "build_algorithm",
    "readers_of",
]
