"""The plan of a study: which arms it compares, in which tables, and the runs that this takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgpo.errors import InputError
from sgpo.puzzles.base import SolutionStyle
from sgpo.puzzles.benchmark import HeldOut
from sgpo.training.config import SGPOConfig
from sgpo.training.options import RENAMED
from sgpo.training.recipe import check_options, load_recipe

SHIPPED = Path("research/study.yaml")  # from the root of a clone, as all paths in it

# How much the warm-up gives away of the untaught words. `readers` gives away little, and has four times as many rows
# in which a solution stands in the prompt.
WarmupKind = Literal["little", "much", "readers"]
SPLITS = ("fresh", "harder", "recombined", "reworded", "guided", "untouched")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Section):
    """A method: recipes trained one after the other, each in an equal part of the steps, on solutions in one style.

    Without recipes it is the warmed-up policy as it is. `rate_of` names the arm whose learning rate it takes,
    `rate_factors` what each recipe multiplies that rate by (1, if not given).
    """

    recipes: list[str]
    style: SolutionStyle = "own"
    rate_of: str | None = None
    rate_factors: list[float] = []


class Table(_Section):
    """Arms side by side, `replicates` runs of each, counted from `first_replicate`.

    With `rates`, each arm is run once per rate and replicate. Warm-ups are counted from `first_warmup`: another number
    means other policies. `compared` names the arms that all others are compared with, in place of the study's. The
    page shows `note` above the table.
    """

    arms: list[str]
    replicates: int = Field(ge=1)
    first_replicate: int = Field(default=0, ge=0)
    first_warmup: int = Field(default=0, ge=0)
    warmup_kind: WarmupKind = "little"
    held_out: HeldOut = "fresh"
    rates: list[float] = []
    compared: list[str] = []
    note: str = ""


class Study(_Section):
    """`pool` problems to train on and `problems` of each split to score, `samples` times each. Replicate `r` starts
    from warm-up `r % warmups` and has training problems, test problems and sampling of its own.

    A warm-up takes `warmup_rows` rows of the benchmark's and `solution_rows` in which a solution stands in the prompt.
    `train` holds options of SGPOConfig for every arm; `rates` the learning rates chosen on the validation problems.
    `compared` is the arm that all others are compared with. `results`, `page` and `work` are paths: the finished runs,
    the page about them (its figures lie in a folder of its name beside it), and what may be deleted afterwards.
    """

    compared: str
    problems: int = Field(ge=1)
    pool: int = Field(ge=1)
    samples: int = Field(ge=1)
    warmups: int = Field(ge=1)
    warmup_rows: int = Field(ge=1)
    solution_rows: int = Field(ge=0)
    results: Path
    page: Path
    work: Path
    train: dict[str, Any]
    rates: dict[str, float]
    arms: dict[str, Arm]
    tables: dict[str, Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run. It belongs to every table that asks for the same: what two tables have in common is run once."""

    arm: str
    style: SolutionStyle
    warmup_kind: WarmupKind
    held_out: HeldOut
    warmup: int
    replicate: int
    learning_rate: float | None  # None: nothing is trained

    @property
    def name(self) -> str:
        """The path of its result in the study's results, without `.json`."""
        return f"{self.warmup_kind}-{self.held_out}/{self.arm}{self._rate}-r{self.replicate}"

    @property
    def _rate(self) -> str:
        if self.learning_rate is None:
            return ""
        digits, exponent = f"{self.learning_rate:e}".split("e")
        return f"-{float(digits):g}e{int(exponent)}"

    def to_json(self) -> dict[str, Any]:
        """The fields, as the result file holds them."""
        return asdict(self)


def load_study(path: Path, *, quick: bool = False) -> Study:
    """Read a study file; `quick` lays its `quick` section over the rest.

    Raises:
        InputError: No such file, no YAML, an unknown key or arm, a wrong option or recipe. It names file and key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such study; the shipped one is {SHIPPED}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable YAML file: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a study is a mapping with the keys {', '.join(Study.model_fields)}")
    changes = content.pop("quick", {})
    if quick:
        content = {**content, **changes, "train": {**content.get("train", {}), **changes.get("train", {})}}
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_arms(study, path)
    _check_names(study, path)
    train = check_options(SGPOConfig, study.train, where=f"{path}, train")
    recipes = {name: [str(path.parent / recipe) for recipe in arm.recipes] for name, arm in study.arms.items()}
    for paths in recipes.values():
        for recipe in paths:
            load_recipe(recipe)
    arms = {name: arm.model_copy(update={"recipes": recipes[name]}) for name, arm in study.arms.items()}
    return study.model_copy(update={"train": train, "arms": arms})


def _check_arms(study: Study, path: Path) -> None:
    named = [(f"tables.{name}.arms", arm) for name, table in study.tables.items() for arm in table.arms]
    named += [(f"tables.{name}.compared", arm) for name, table in study.tables.items() for arm in table.compared]
    named += [("rates", arm) for arm in study.rates] + [("compared", study.compared)]
    named += [(f"arms.{name}.rate_of", arm.rate_of) for name, arm in study.arms.items() if arm.rate_of is not None]
    for name, its in study.arms.items():
        if its.rate_factors and len(its.rate_factors) != len(its.recipes):
            raise InputError(
                f"{path}: arms.{name}.rate_factors: {len(its.rate_factors)} for {len(its.recipes)} recipes; "
                "give one each"
            )
    for where, arm in named:
        if arm not in study.arms:
            raise InputError(f"{path}: {where}: no arm {arm!r}; there are: {', '.join(study.arms)}")


def _check_names(study: Study, path: Path) -> None:
    """A file holds one run: tables that count replicates and warm-ups differently must not mean two by one name."""
    named: dict[str, StudyRun] = {}
    for name, table in study.tables.items():
        for run in runs_of(study, table):
            if named.setdefault(run.name, run) != run:
                raise InputError(
                    f"{path}: tables.{name}: replicate {run.replicate} of {run.arm!r} starts from warm-up "
                    f"{run.warmup}, in another table from {named[run.name].warmup}; give it another first_replicate"
                )


def runs_of(study: Study, table: Table) -> list[StudyRun]:
    """The runs of a table, replicate by replicate, so that all arms of a stopped study have about as many.

    An arm whose learning rate is not chosen yet has no runs (`check_rates`).
    """
    return [
        StudyRun(
            arm=name,
            style=study.arms[name].style,
            warmup_kind=table.warmup_kind,
            held_out=table.held_out,
            warmup=table.first_warmup + replicate % study.warmups,
            replicate=replicate,
            learning_rate=rate,
        )
        for replicate in range(table.first_replicate, table.first_replicate + table.replicates)
        for name in table.arms
        for rate in _rates(study, table, name)
    ]


def _rates(study: Study, table: Table, name: str) -> Sequence[float | None]:
    arm = study.arms[name]
    if not arm.recipes:
        return [None]
    if table.rates:
        return table.rates
    rate = study.rates.get(arm.rate_of or name)
    return [] if rate is None else [rate]


def check_rates(study: Study, table: Table) -> None:
    """Raise InputError if an arm has no learning rate."""
    for name in table.arms:
        if not _rates(study, table, name):
            raise InputError(
                f"no learning rate for the arm {name!r}: run the table with a grid of 'rates' first, and enter the one "
                "that does best on the validation problems under the study's 'rates'"
            )


def stages_of(study: Study, run: StudyRun) -> list[dict[str, Any]]:
    """The options of SGPOConfig for each stage of a run: the recipe's, over them the study's, then the run's own."""
    arm, steps = study.arms[run.arm], study.train["max_steps"]
    recipes = arm.recipes
    if run.learning_rate is None:
        return []
    ends = [steps * number // len(recipes) for number, _ in enumerate(recipes, start=1)]
    factors = arm.rate_factors or [1.0] * len(recipes)
    return [
        {
            **load_recipe(recipe).train,
            **study.train,
            "max_steps": end - start,
            "learning_rate": run.learning_rate * factor,
            "seed": run.replicate,
        }
        for recipe, start, end, factor in zip(recipes, [0, *ends], ends, factors, strict=False)
    ]


def settings_of(study: Study, run: StudyRun) -> dict[str, Any]:
    """All that a run's result depends on and its name does not say, as the result file holds it."""
    sizes = ("problems", "pool", "samples", "warmup_rows", "solution_rows")
    return {**{size: getattr(study, size) for size in sizes}, "stages": stages_of(study, run)}


def check_settings(file: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise InputError if the result in `file` was made with other settings than are wanted now.

    An option that is spelled out with its default counts as one that is not there.
    """
    for key, value in found.items():
        ours, theirs = wanted[key], value
        if key == "stages":
            ours, theirs = [_changed(stage) for stage in ours], [_changed(stage) for stage in theirs]
        if ours != theirs:
            raise InputError(
                f"{file}: made with {key}={theirs}, the study has {ours}; remove the file to make the run again"
            )


def _changed(stage: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults, by their present names."""
    defaults = {field.name: field.default for field in fields(SGPOConfig)}
    present = {RENAMED[name][0] if name in RENAMED else name: value for name, value in stage.items()}
    return {name: value for name, value in present.items() if value != defaults[name]}
