"""How an option of training is declared: once, at its field, with its range and with what reads it.

The declaration refuses a value out of range, refuses an option that nothing would read, and prints the tables of
docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal, get_args, get_type_hints

from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from sgpo.algorithms import ALGORITHMS, Part, readers_of
from sgpo.errors import InputError
from sgpo.rollouts.vllm import QUANTIZED_WITH_VLLM

# What another option must be for this one to be read: one of some words, `True`, or anything but null.
NOT_NULL: Literal["not null"] = "not null"
Condition = tuple[str, ...] | Literal[True, "not null"]

# The TrainingArguments that recipes may rely on. Every release of transformers that we support knows them; any other is
# passed on where the installed release knows it, and refused where it does not.
SUPPORTED = {
    "max_steps num_train_epochs": "how long the run is; `max_steps` goes first",
    "per_device_train_batch_size gradient_accumulation_steps": "problems of one optimizer step, per process",
    "lr_scheduler_kwargs warmup_steps": "the learning rate's schedule",
    "optim weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm": "the optimizer, AdamW by default",
    "bf16 fp16": "the precision of the arithmetic; weights stay in float32",
    "activation_checkpointing activation_checkpointing_kwargs": (
        "less memory for more arithmetic; older releases of transformers call it `gradient_checkpointing`"
    ),
    "eval_strategy eval_steps eval_on_start": "when the recipe's `evaluation` is evaluated on",
    "save_strategy save_steps save_total_limit": "when a checkpoint is written, and how many are kept",
    "report_to run_name disable_tqdm": "loggers beside `metrics.jsonl`, and the progress bar",
    "push_to_hub hub_model_id hub_private_repo hub_revision": "where the final model is uploaded",
    "seed use_cpu": "the seed of everything that is drawn; train on the CPU",
    "fsdp fsdp_config deepspeed ddp_backend ddp_timeout": "several processes; best set by `accelerate launch`",
}
# What one of them is called in a release of transformers that does not know it.
OTHER_NAMES = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}

# Options and recipe keys of earlier releases: {old: (new, what becomes of the value)}.
RENAMED = {
    "wrong_strategy_share": ("wrong_strategy_fraction", "the value stays as it is"),
    "warmup.share": ("warmup.fraction", "the value stays as it is"),
}
REMOVED = (
    "distill_token_share",
    "target_candidates",
    "num_distill_targets",
    "guide_decay",
    "distill_loss=capped_sft",
)

# Loggers whose package has another name.
_PACKAGES = {"azure_ml": "azureml", "flyte": "flytekit"}

_NO_CUT = "nothing: tokens outside of a cut would bias the importance ratio"
# What an option of TRL's GRPOConfig is called here.
TRL_NAMES = {
    "num_generations": "num_autonomous (completions without a strategy) and num_guided (with one)",
    "num_generations_eval": "eval_samples",
    "steps_per_generation": "num_iterations (updates on the same completions)",
    "use_vllm": "engine=vllm",
    "vllm_server_host": "vllm_server_base_url",
    "vllm_server_port": "vllm_server_base_url",
    "vllm_importance_sampling_mode": "vllm_importance_sampling_correction (per token)",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high",
    "scale_rewards": "scale_advantages (true or false)",
    "loss_type": "loss_mean (token as in DAPO, or sequence as in GRPO)",
    "reward_funcs": "the recipe's `rewards`, or reward_funcs= of SGPOTrainer",
    "top_k": _NO_CUT,
    "min_p": _NO_CUT,
    "repetition_penalty": _NO_CUT,
    "trust_remote_code": "model_init_kwargs={trust_remote_code: true}",
    "disable_dropout": "nothing: dropout is always off",
    "shuffle_dataset": "nothing: the order follows from seed",
    "log_completions": "nothing: rollouts/ has every completion",
    "sync_ref_model": "nothing: the reference is the weights that training began with",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What an option says of itself; see `option`."""

    help: str
    source: str
    at_least: float | None
    above: float | None
    at_most: float | None
    must: str | None
    why: str
    part: Part | None
    only_with: Mapping[str, Condition]
    read_by: str | None
    never_refused: bool

    def accepts(self, value: Any) -> bool:
        """Whether a value lies in the range; NaN lies in none, null in every one."""
        if value is None:
            return True
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    @property
    def requirement(self) -> str:
        """The range in words, after "must"."""
        if self.must is not None:
            return self.must
        if self.at_most is not None:
            low = f"({self.above}" if self.at_least is None else f"[{self.at_least}"
            return f"lie in {low}, {self.at_most}]"
        return "be positive" if self.at_least is None else f"be at least {self.at_least}"


def option(
    default: Any,
    help: str,
    *,
    source: str = "ours",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    must: str | None = None,
    why: str = "",
    part: Part | None = None,
    only_with: Mapping[str, Condition] | None = None,
    read_by: str | None = None,
    never_refused: bool = False,
) -> Any:
    """Declare an option of `SGPOConfig`.

    Which algorithms read it follows from the algorithms: those with a field of its name, and those that have its
    `part`; without either, all of them. Choices follow from its type, a `Literal`.

    Args:
        default: The value of a run that does not name it.
        help: One sentence for the documentation.
        source: Where its default or its meaning comes from, in Markdown.
        at_least: The smallest value allowed.
        above: The largest value that is too small.
        at_most: The largest value allowed.
        must: The range in words after "must", where the bounds do not say it well.
        why: The reason for the range, after the value that was refused.
        part: The part of an algorithm that it belongs to.
        only_with: The values of other options without which nothing reads it.
        read_by: Its reader in words, for the documentation, where that is no algorithm.
        never_refused: Accept it even where nothing reads it.
    """
    declaration = Declaration(
        help=help,
        source=source,
        at_least=at_least,
        above=above,
        at_most=at_most,
        must=must,
        why=why,
        part=part,
        only_with=only_with or {},
        read_by=read_by,
        never_refused=never_refused,
    )
    return field(default=default, metadata={"help": help, "declaration": declaration})


def declarations(config: type[Any]) -> dict[str, Declaration]:
    """The declared options of a dataclass, in their order."""
    return {f.name: f.metadata["declaration"] for f in fields(config) if "declaration" in f.metadata}


def defaults_of(config: type[Any]) -> dict[str, Any]:
    """The defaults of a dataclass, those that a factory makes left out."""
    return {f.name: f.default for f in fields(config) if f.default is not MISSING}


def choices_of(config: type[Any]) -> dict[str, tuple[str, ...]]:
    """The declared options that are a choice of words, read off their types."""
    hints = get_type_hints(config)
    found = {name: get_args(hints[name]) for name in declarations(config)}
    return {name: words for name, words in found.items() if words and all(isinstance(w, str) for w in words)}


def check_ranges(config: type[Any], values: Mapping[str, Any]) -> None:
    """Raises InputError for a value that is none of an option's choices or lies out of its range."""
    for name, choices in choices_of(config).items():
        if values[name] not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {values[name]!r}")
    for name, declared in declarations(config).items():
        if not declared.accepts(values[name]):
            raise InputError(f"{name} must {declared.requirement}, got {values[name]}{declared.why}")


def check_combinations(values: Mapping[str, Any]) -> None:
    """Raises InputError for options of training that do not go together, each by itself in its range."""
    for name in ("neftune_noise_alpha", "label_smoothing_factor"):
        if values[name]:
            raise InputError(f"{name}={values[name]} is for supervised training: it would bias the policy")
    sampling, iterations = values["dynamic_sampling"], values["num_iterations"]
    if sampling and iterations > 1:
        raise InputError(
            f"dynamic_sampling={sampling} needs num_iterations=1, got {iterations}: later updates repeat the problems "
            "that it replaced"
        )
    wrong, content = values["wrong_strategy_fraction"], values["strategy_content"]
    if wrong and content != "own":
        raise InputError(f"wrong_strategy_fraction={wrong} needs strategy_content='own', got {content!r}")
    cache, limit = values["soft_punish_cache"], values["max_completion_length"]
    if cache > limit:
        raise InputError(
            f"soft_punish_cache={cache} is the last part of max_completion_length={limit}; choose no more than that"
        )
    if values["engine"] == "vllm" and "quantization_config" in (values["model_init_kwargs"] or {}):
        raise InputError(QUANTIZED_WITH_VLLM)


def unread_options(config: type[Any], values: Mapping[str, Any]) -> dict[str, str]:
    """The options whose value differs from the default and that nothing reads: each with a line that says so.

    Args:
        config: A dataclass of declared options.
        values: Values of its options; one that is not named has its default.
    """
    defaults = defaults_of(config)
    everything = {**defaults, **values}
    unread = {}
    for name, declared in declarations(config).items():
        if declared.never_refused or everything[name] == defaults[name]:
            continue
        for other, condition in _conditions(name, declared).items():
            if not _holds(condition, everything[other]):
                now = f"{other}={_shown(everything[other])}" if condition == NOT_NULL else _shown(everything[other])
                unread[name] = (
                    f"{name}={_shown(everything[name], quoted=True)} is an option of {_owner(other, condition)}; "
                    f"{now} does not read it; leave it out"
                )
                break
    return unread


def installed_name(config: type[Any], name: str) -> str:
    """The name by which the installed release of transformers or TRL knows an option; the same if it knows neither."""
    known = {field.name for field in fields(config)}
    other = OTHER_NAMES.get(name)
    return other if name not in known and other in known else name


def check_installed(args: TrainingArguments) -> None:
    """Check that the packages are installed that loggers and the optimizer need.

    Raises:
        InputError: one is not.
    """
    loggers = [args.report_to] if isinstance(args.report_to, str) else args.report_to
    for name in set(loggers) - {"all", "none", *get_available_reporting_integrations()}:
        package = _PACKAGES.get(name, name)
        if find_spec(package) is None:
            raise InputError(f"report_to={name}: the package {package} is not installed; install it, or leave this out")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:  # some need the model, which is not at hand
        if isinstance(error, ImportError) or "install" in str(error):
            raise InputError(f"optim={args.to_dict()['optim']}: {error}") from None


def refuse_old_names(options: Mapping[str, Any], *, where: str = "", section: str = "") -> None:
    """Raises InputError for an option or a recipe key that has another name now or in TRL, or was removed.

    Args:
        options: Options by name, as they were given.
        where: The place to name, before the message.
        section: The recipe's section with a dot, where it is not `train`.
    """
    for name, value in options.items():
        key = section + name
        if key in TRL_NAMES:
            raise InputError(f"{where}{key} is an option of TRL's GRPOConfig; here it is {TRL_NAMES[key]}")
        if key in RENAMED:
            new, hint = RENAMED[key]
            raise InputError(f"{where}{key} is called {new} now; {hint}")
        for gone in (key, f"{key}={value}"):
            if gone in REMOVED:
                raise InputError(
                    f"{where}{gone} was measured not to help and removed; docs/log.md names the commit that has it"
                )


def configuration_page(config: type[Any], sections: Mapping[str, str]) -> str:
    """All declared options as Markdown tables, one a section, and the supported TrainingArguments.

    Args:
        config: A dataclass of declared options.
        sections: The title of each section by its first option.
    """
    members: dict[str, list[str]] = {}
    for name in declarations(config):
        members.setdefault(sections.get(name) or list(members)[-1], []).append(name)
    tables = [f"### {title}\n{options_table(config, names)}" for title, names in members.items()]
    rows = [f"| {', '.join(f'`{name}`' for name in names.split())} | {what} |" for names, what in SUPPORTED.items()]
    supported = "\n".join(["### Supported TrainingArguments", "| options | what for |", "|---|---|", *rows])
    return "\n\n".join([*tables, supported]) + "\n"


def options_table(config: type[Any], names: list[str]) -> str:
    """Options as a Markdown table: default, meaning, what reads them, and where they come from."""
    rows = ["| option | default | meaning | read by | source |", "|---|---|---|---|---|"]
    for name in names:
        declared = declarations(config)[name]
        default = defaults_of(config)[name]
        shown = "null" if default is None else default
        rows.append(f"| `{name}` | `{shown}` | {declared.help} | {_readers(name, declared)} | {declared.source} |")
    return "\n".join(rows)


def _conditions(name: str, declared: Declaration) -> dict[str, Condition]:
    """All that must hold for an option to be read, the algorithm first."""
    readers = readers_of(name, declared.part)
    algorithm: dict[str, Condition] = {} if len(readers) == len(ALGORITHMS) else {"algorithm": tuple(readers)}
    return {**algorithm, **declared.only_with}


def _holds(condition: Condition, value: Any) -> bool:
    if condition == NOT_NULL:
        return value is not None
    return value is True if condition is True else value in condition


def _owner(other: str, condition: Condition, last: str = " or ") -> str:
    if condition == NOT_NULL:
        return f"a {other} that is not null"
    words = ["true"] if condition is True else list(condition)
    return f"{other} " + last.join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _readers(name: str, declared: Declaration) -> str:
    if declared.read_by is not None:
        return declared.read_by
    words = [_owner(other, condition, ", ") for other, condition in _conditions(name, declared).items()]
    return "; ".join(words).removeprefix("algorithm ") or "all"


def _shown(value: Any, *, quoted: bool = False) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if quoted else str(value)
