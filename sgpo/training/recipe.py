"""Recipes: one file per run a person would start, in YAML or TOML, checked before anything is loaded."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sgpo.errors import InputError
from sgpo.problems import Problem, load_problems


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemSource(_Section):
    """A problem file or a Hugging Face dataset, and which of its columns is which field."""

    source: str
    fields: dict[str, str] = {}
    split: str = "train"
    subset: str | None = None
    limit: int | None = Field(default=None, ge=1)

    def load(self) -> list[Problem]:
        """The problems. Raises InputError as `load_problems`."""
        return load_problems(self.source, fields=self.fields, split=self.split, subset=self.subset, limit=self.limit)


class WarmupSection(BaseModel):
    """Supervised fine-tuning on `solution` before reinforcement: the share of the problems that it takes, its epochs,
    and any option of TRL's SFTConfig beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    share: float = Field(default=1 / 3, gt=0, lt=1)
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


class Recipe(_Section):
    """A whole run. `train` holds options of `SGPOConfig`, `evaluation` the problems of evaluations during training."""

    model: str
    problems: ProblemSource
    out: str
    bank: str | None = None
    evaluation: ProblemSource | None = None
    warmup: WarmupSection | None = None
    lora: LoraSection | None = None
    train: dict[str, Any] = {}


def load_recipe(path: str | Path, settings: Sequence[str] = (), *, problems: Path | None = None) -> Recipe:
    """Read a recipe and apply `key=value` settings: `train.learning_rate=1e-6`, or short `learning_rate=1e-6`.

    `problems` is a problem file in place of the recipe's source; it has our own field names.

    A recipe may say `extends: other.yaml`, a path from its own place: it then changes that recipe, key by key. A path
    that begins with `sgpo:` is one inside the installed package.

    Raises InputError that names the file, the key, and the nearest right one: no such file, no YAML or TOML, an unknown
    key, a value of a wrong type.
    """
    path = Path(path)
    content = _read(path)
    if problems is not None:
        content["problems"] = str(problems)
    for setting in settings:
        _apply(content, setting)
    if isinstance(content.get("problems"), str):
        content["problems"] = {"source": content["problems"]}
    if isinstance(content.get("evaluation"), str):
        content["evaluation"] = {"source": content["evaluation"]}
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from None
    from sgpo.training.config import SGPOConfig

    train = check_options(SGPOConfig, recipe.train, where=f"{path}, train")
    warmup = recipe.warmup
    if warmup is not None:
        from trl import SFTConfig

        own = list(WarmupSection.model_fields)
        sft = check_options(SFTConfig, warmup.model_extra or {}, where=f"{path}, warmup", also=own)
        if sft.get("push_to_hub"):
            raise InputError(
                f"{path}, warmup: push_to_hub is an option of train; the model of the whole run is uploaded"
            )
        warmup = WarmupSection(share=warmup.share, epochs=warmup.epochs, **sft)
    lora = recipe.lora
    if lora is not None:
        from peft import LoraConfig

        lora = LoraSection(**check_options(LoraConfig, lora.model_dump(), where=f"{path}, lora"))
    return recipe.model_copy(update={"train": train, "warmup": warmup, "lora": lora})


def check_options(
    config: type[Any], options: Mapping[str, Any], *, where: str, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Options of a dataclass of options, each of its declared type (`1e-6`, which YAML reads as text, is a number).

    Raises InputError for an unknown option, with the nearest right one (of those in `also` too), or a value of a wrong
    type.
    """
    hints = get_type_hints(config)
    known = [field.name for field in fields(config) if field.init]
    checked = {}
    for name, value in options.items():
        if name == "output_dir":
            raise InputError(f"{where}: output_dir is the recipe's 'out'")
        if name == "hub_token":
            from sgpo.training.config import NO_TOKEN

            raise InputError(f"{where}: {NO_TOKEN}")
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


def _read(path: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a recipe file, laid over that of the recipe which it extends."""
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; the shipped ones lie in recipes/")
    if path.resolve() in chain:
        raise InputError(f"{path}: extends itself, by way of {' and '.join(p.name for p in chain)}")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a readable {'TOML' if path.suffix == '.toml' else 'YAML'} file: {error}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise InputError(f"{path}: extends={base!r}: expected the path of another recipe")
    packaged = base.startswith("sgpo:")
    extended = Path(__file__).parents[1] / base.removeprefix("sgpo:") if packaged else path.parent / base
    return _laid_over(_read(extended, (*chain, path.resolve())), content)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: expected key=value, such as --set learning_rate=1e-6")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: its value is no YAML; put text in quotes") from None
    names = key.split(".")
    if len(names) == 1 and key not in Recipe.model_fields:
        names = ["train", key]
    section: Any = content
    for name in names[:-1]:
        if isinstance(section.get(name), str) and name in ("problems", "evaluation"):
            section[name] = {"source": section[name]}
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {setting}: {name!r} holds no options")
    section[names[-1]] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{place}: {first['msg']}"
    sections = {"problems": ProblemSource, "evaluation": ProblemSource}
    section: Any = sections.get(str(first["loc"][0]), Recipe) if len(first["loc"]) > 1 else Recipe
    return f"unknown key {place!r}{_nearest(str(first['loc'][-1]), list(section.model_fields))}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}" if len(known) < 20 else ""
