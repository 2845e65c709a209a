"""Recipes: one YAML file per run a person would start, checked before anything is loaded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from sgpo.algorithms import algorithm_class
from sgpo.errors import InputError
from sgpo.problems import Problem, load_problems
from sgpo.prompts import read_texts
from sgpo.rollouts.models import QUANTIZED_WITHOUT_ADAPTERS
from sgpo.training.config import NO_TOKEN, SGPOConfig
from sgpo.training.options import installed_name, refuse_old_names, unread_options

logger = logging.getLogger("sgpo")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemSource(_Section):
    """A problem file or a Hugging Face dataset, and which of its columns is which field."""

    source: str
    fields: dict[str, str] = {}
    split: str = "train"
    subset: str | None = None
    limit: int | None = Field(default=None, ge=1)
    kind: str = "math"

    def load(self) -> list[Problem]:
        """The problems. Raises InputError as `load_problems`."""
        return load_problems(**self.model_dump())


class WarmupSection(BaseModel):
    """Supervised fine-tuning on `solution` before reinforcement: the fraction of the problems that it takes, the
    fraction of these that are shown with their strategy, its epochs, and any option of TRL's SFTConfig beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    fraction: float = Field(default=1 / 3, gt=0, lt=1)
    guided_fraction: float = Field(default=0, ge=0, le=1)
    epochs: float = Field(default=10, gt=0)

    @property
    def sft(self) -> dict[str, Any]:
        """The options of SFTConfig."""
        return {"num_train_epochs": self.epochs, **(self.model_extra or {})}


class LoraSection(BaseModel):
    """Low-rank adapters in place of full fine-tuning (arXiv 2106.09685): any option of peft.LoraConfig."""

    model_config = ConfigDict(extra="allow", frozen=True)

    r: int = Field(default=32, ge=1)
    lora_alpha: int = Field(default=64, ge=1)
    target_modules: str | list[str] = "all-linear"


class RewardSection(_Section):
    """A part of the reward: the verdict (`kind: verifier`) or a function (`module:function`), and its weight."""

    kind: Literal["verifier"] | None = None
    function: str | None = None
    weight: float = Field(default=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.kind is None) == (self.function is None):
            raise ValueError("give either kind: verifier, or function: module:function")
        return self


class Recipe(_Section):
    """A whole run. `train` holds options of `SGPOConfig`, `evaluation` the problems of evaluations during training,
    `prompts` texts in place of the prompt style's, or a YAML file of them; loaded, they are an option of `train`.
    `rewards` are what advantages are computed from in place of the verdict; `correct` is a function (`module:function`)
    that says what is correct in the verifier's place."""

    model: str
    problems: ProblemSource
    out: str
    bank: str | None = None
    evaluation: ProblemSource | None = None
    warmup: WarmupSection | None = None
    lora: LoraSection | None = None
    prompts: Any = None
    rewards: list[RewardSection] | None = Field(default=None, min_length=1)
    correct: str | None = None
    train: dict[str, Any] = {}


def load_recipe(
    path: str | Path, settings: Sequence[str] = (), *, problems: Path | None = None, kind: str | None = None
) -> Recipe:
    """Read a recipe and apply settings.

    A recipe may say `extends: other.yaml`, a path from its own place: it then changes that recipe, key by key. Where
    it changes the algorithm or the engine, lines of the other recipe that are no longer read are left out; where a
    setting does, lines of the recipe are, and one warning names them.

    A path in `extends` that begins with `sgpo:` is one inside the installed package.

    Args:
        path: The recipe, a YAML file.
        settings: `key=value` each: `train.learning_rate=1e-6`, or short `learning_rate=1e-6`.
        problems: A problem file in place of the recipe's source; it has our own field names.
        kind: The kind of problems, and of those of evaluations, that name none.

    Raises:
        InputError: One line that names the file, the key, and the nearest right one: no such file, no YAML, an unknown
            key or one of an earlier release, a value of a wrong type, an option that nothing would read.
    """
    path = Path(path)
    files = _read(path)
    content: dict[str, Any] = {}
    layers = []
    for file in files:
        content = _laid_over(content, file)
        layers.append(_Layer(_section(file, "train"), _section(content, "train")))
    if problems is not None:
        content["problems"] = str(problems)
    for setting in settings:
        _apply(content, setting)
    layers.append(_Layer(_set_options(settings, content), _section(content, "train")))
    for name in ("problems", "evaluation"):
        if isinstance(content.get(name), str):
            content[name] = {"source": content[name]}
        if kind is not None and isinstance(content.get(name), dict):
            content[name] = {**content[name], "kind": kind}
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from None
    recipe.train.update(_own_prompts(recipe, path))
    return recipe.model_copy(
        update={
            "prompts": None,
            "train": _check_train(recipe, path, layers),
            "warmup": _check_warmup(recipe, path),
            "lora": _check_lora(recipe, path),
        }
    )


def check_options(
    config: type[Any], options: Mapping[str, Any], *, where: str, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Options of a dataclass of options, each of its declared type (`1e-6`, which YAML reads as text, is a number).

    Those that the installed release of transformers or TRL calls otherwise get that name.

    Raises:
        InputError: An unknown option, with the nearest right one (of those in `also` too), or a value of a wrong type.
    """
    hints = get_type_hints(config)
    known = [field.name for field in fields(config) if field.init]
    checked = {}
    for name, value in options.items():
        if name == "output_dir":
            raise InputError(f"{where}: output_dir is the recipe's 'out'")
        if name == "hub_token":
            raise InputError(f"{where}: {NO_TOKEN}")
        name = installed_name(config, name)
        if name not in known:
            hint = _nearest(name, [*also, *known]) or f"; the options are those of {config.__name__}"
            raise InputError(f"{where}: unknown option {name!r}{hint}")
        if value is False and name.endswith("_strategy"):
            value = "no"  # YAML reads the word `no` as false
        try:
            checked[name] = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
                value
            )
        except ValidationError as error:
            raise InputError(f"{where}: {name}={value!r} is of the wrong type: {error.errors()[0]['msg']}") from None
    return checked


# -- the sections


@dataclass(frozen=True, slots=True)
class _Layer:
    """A file of the chain of recipes, or the settings: the options of `train` that it names, and all of them once it
    is laid over the layers below."""

    own: Mapping[str, Any]
    so_far: Mapping[str, Any]


def _check_train(recipe: Recipe, path: Path, layers: Sequence[_Layer]) -> dict[str, Any]:
    refuse_old_names(recipe.train, where=f"{path}, train: ")
    train = check_options(SGPOConfig, recipe.train, where=f"{path}, train")
    algorithm_class(train.get("algorithm", "sgpo"))
    if recipe.lora is None and "quantization_config" in (train.get("model_init_kwargs") or {}):
        raise InputError(f"{path}, train: {QUANTIZED_WITHOUT_ADAPTERS}")
    return _without_unread(train, path, layers)


def _without_unread(train: dict[str, Any], path: Path, layers: Sequence[_Layer]) -> dict[str, Any]:
    """The options without those that nothing reads because a higher layer changed what they belong to.

    Raises InputError for one that was unread where it was written: the layer that names it is wrong itself.
    """
    left_out = []
    for name, why in unread_options(SGPOConfig, train).items():
        place = max(number for number, layer in enumerate(layers) if name in layer.own)
        if name in unread_options(SGPOConfig, layers[place].so_far):
            raise InputError(f"{path}, train: {why}")
        # A recipe that extends another one means what it changes; a setting may not know what it takes away.
        if name not in unread_options(SGPOConfig, layers[-2].so_far):
            left_out.append(why.removesuffix("; leave it out"))
        train.pop(name)
    if left_out:
        logger.warning("%s: left out, as nothing reads it now: %s", path, " | ".join(left_out))
    return train


def _own_prompts(recipe: Recipe, path: Path) -> dict[str, Any]:
    """The option `prompts` of `train`, checked; empty where the recipe has no texts of its own.

    A file of them is looked for in the working directory, as every file is, and then beside the recipe.
    """
    texts = recipe.train.get("prompts") if recipe.prompts is None else recipe.prompts
    if texts is None:
        return {}
    if isinstance(texts, str) and not Path(texts).is_file() and (path.parent / texts).is_file():
        texts = path.parent / texts
    return {"prompts": read_texts(texts, where=f"{path}, prompts")}


def _check_warmup(recipe: Recipe, path: Path) -> WarmupSection | None:
    if recipe.warmup is None:
        return None
    from trl import SFTConfig

    where = f"{path}, warmup"
    options = recipe.warmup.model_extra or {}
    refuse_old_names(options, where=f"{where}: ", section="warmup.")
    sft = check_options(SFTConfig, options, where=where, also=list(WarmupSection.model_fields))
    if sft.get("push_to_hub"):
        raise InputError(f"{where}: push_to_hub is an option of train; the model of the whole run is uploaded")
    return recipe.warmup.model_copy(update=sft)


def _check_lora(recipe: Recipe, path: Path) -> LoraSection | None:
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    return LoraSection(**check_options(LoraConfig, recipe.lora.model_dump(), where=f"{path}, lora"))


# -- files and settings


def _read(path: Path, chain: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The content of a recipe file, after that of the recipes which it extends."""
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; the shipped ones lie in recipes/")
    if path.suffix == ".toml":
        raise InputError(f"{path}: recipes are YAML files; rewrite it as {path.with_suffix('.yaml').name}")
    if path.resolve() in chain:
        raise InputError(f"{path}: extends itself, by way of {' and '.join(p.name for p in chain)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable YAML file: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    base = content.pop("extends", None)
    if base is None:
        return [content]
    if not isinstance(base, str):
        raise InputError(f"{path}: extends={base!r}: expected the path of another recipe")
    packaged = base.startswith("sgpo:")
    extended = Path(__file__).parents[1] / base.removeprefix("sgpo:") if packaged else path.parent / base
    return [*_read(extended, (*chain, path.resolve())), content]


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of a section; empty where it is no section, which the schema refuses."""
    section = content.get(name)
    return dict(section) if isinstance(section, dict) else {}


def _apply(content: dict[str, Any], setting: str) -> None:
    """Change one key of a recipe's content."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: expected key=value, such as --set learning_rate=1e-6")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: its value is no YAML; put text in quotes") from None
    names = _path_of(key)
    section: Any = content
    for name in names[:-1]:
        if isinstance(section.get(name), str) and name in ("problems", "evaluation"):
            section[name] = {"source": section[name]}
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {setting}: {name!r} holds no options")
    section[names[-1]] = value


def _path_of(key: str) -> list[str]:
    """The keys from the recipe's top down to what a setting changes; a bare option is one of `train`."""
    names = key.split(".")
    return ["train", key] if len(names) == 1 and key not in Recipe.model_fields else names


def _set_options(settings: Sequence[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `train` that settings name, with their values."""
    train = _section(content, "train")
    paths = [_path_of(setting.partition("=")[0]) for setting in settings]
    if ["train"] in paths:
        return train
    named = {names[1] for names in paths if names[0] == "train"}
    return {name: value for name, value in train.items() if name in named}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{place}: {first['msg']}"
    sections = {"problems": ProblemSource, "evaluation": ProblemSource, "rewards": RewardSection}
    section: Any = sections.get(str(first["loc"][0]), Recipe) if len(first["loc"]) > 1 else Recipe
    return f"unknown key {place!r}{_nearest(str(first['loc'][-1]), list(section.model_fields))}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}" if len(known) < 20 else ""
