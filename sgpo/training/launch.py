"""From a recipe to a trained model: the stages of `sgpo train`."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase

from sgpo.algorithms import build_algorithm
from sgpo.errors import InputError
from sgpo.io import counted, holding, read_json, write_json, write_text
from sgpo.problems import Problem, split_problems, system_prompt_for
from sgpo.rollouts.groups import RewardFunction
from sgpo.rollouts.models import context_length, load_policy, load_tokenizer, policy_config, shape_chat_template
from sgpo.strategies.bank import StrategyBank
from sgpo.training.checkpoints import saved_prompts
from sgpo.training.config import SGPOConfig
from sgpo.training.data import Prepared, check_start, prepare_problems
from sgpo.training.distributed import check_launch, part_quietly
from sgpo.training.guidance import warmup_prompts
from sgpo.training.measure import judge_name
from sgpo.training.options import check_installed
from sgpo.training.plan import describe_plan, describe_warmup
from sgpo.training.recipe import Recipe
from sgpo.training.resume import changed_options, check_continuation, refuse_changes
from sgpo.training.rewards import VERIFIER, Rewards, as_reward, correct_function
from sgpo.training.run_directory import RunDirectory, provenance
from sgpo.training.trainer import SGPOTrainer
from sgpo.training.warmup import Row, run_warmup, solution_rows, warmup_config, wrong_solutions
from sgpo.verifier import Verifier

logger = logging.getLogger("sgpo")

Stage = Literal["warmup", "rl", "all"]
SPLIT = "split.json"


@dataclass(frozen=True, slots=True)
class _Split:
    """The problems of the warm-up, and those of reinforcement."""

    warmup: list[Problem]
    rl: list[Problem]


def run_recipe(recipe: Recipe, *, stage: Stage = "all", resume: bool = False, model_given: bool = False) -> Path:
    """Run a recipe's warm-up, its reinforcement, or both.

    The warm-up takes its fraction of the problems, reinforcement the rest; `split.json` keeps which is which.
    Everything that can be refused is refused before anything is written.

    Args:
        recipe: A recipe as `load_recipe` returns it.
        stage: What to run.
        resume: Resume the run of the recipe's directory from its last checkpoint.
        model_given: The user named the model: `--stage rl` trains it even where the run has a warm-up of its own.

    Returns:
        The directory of the model that came out.

    Raises:
        InputError: The recipe, its data and its directory do not fit.
        RunDirectoryError: Another process is at work in the directory.
    """
    run, args = _check_recipe(recipe, stage, resume=resume)
    part_quietly()
    # From here on no other process may start or resume this run.
    with holding(run.path) if args.process_index == 0 else nullcontext():
        return _run_stages(run, recipe, args, stage, resume=resume, model_given=model_given)


def _run_stages(
    run: RunDirectory, recipe: Recipe, args: SGPOConfig, stage: Stage, *, resume: bool, model_given: bool
) -> Path:
    # All data is read before the first stage writes anything.
    problems, evaluation, bank = _read_data(recipe, args)
    if recipe.warmup is None:
        return _reinforce(run, recipe, args, recipe.model, problems, evaluation, bank, resume=resume)
    split = _split(run, problems, recipe, bank, seed=args.seed)
    if stage == "all" and not run.warm_model.exists():
        _check_reinforcement(recipe, args, recipe.model, split.rl, evaluation, bank)
    if stage in ("warmup", "all"):
        _warm_up(run, split, recipe, args, bank, resume=resume)
    if stage == "warmup":
        return run.warm_model
    model = _warm_model(run, recipe, stage, model_given=model_given)
    return _reinforce(run, recipe, args, model, split.rl, evaluation, bank, resume=resume, split=split)


def plan_recipe(
    recipe: Recipe, *, stage: Stage = "all", resume: bool = False, model_given: bool = False
) -> dict[str, Any]:
    """Say what `run_recipe` would do with the same arguments, without loading weights or writing anything.

    Returns:
        The object of `sgpo train --dry-run --json`; `--stage warmup` has the part of the warm-up alone.

    Raises:
        InputError, RunDirectoryError: as `run_recipe`, for all that it refuses before it loads a model.
    """
    run, args = _check_recipe(recipe, stage, resume=resume)
    with suppress(FileNotFoundError):
        os.stat(run.path)
        with holding(run.path):  # by nobody else
            pass
    problems, evaluation, bank = _read_data(recipe, args)
    split = _split(run, problems, recipe, bank, seed=args.seed) if recipe.warmup is not None else _Split([], problems)
    warms_up = recipe.warmup is not None and stage != "rl" and not _is_warmed_up(run, resume=resume)
    takes_warm_model = recipe.warmup is not None and not warms_up
    model = _warm_model(run, recipe, stage, model_given=model_given) if takes_warm_model else recipe.model
    plan: dict[str, Any] = {"out": recipe.out, "model": model, "stage": stage, "warmup": None}
    if stage != "warmup":
        prepared, tokenizer, config = _check_reinforcement(recipe, args, model, split.rl, evaluation, bank)
        algorithm = build_algorithm(args.algorithm, vars(args))
        plan |= describe_plan(prepared, tokenizer, config, args, algorithm, peft_config=_peft_config(recipe))
        judge = judge_name(correct_function(recipe.correct), args.verifier_policy)
        plan["reward"] = recipe_rewards(recipe).title(judge)
    if warms_up:
        options = _warmup_options(run, recipe, args)
        _, rows, counts = _warmup_rows(split, recipe, args, bank)
        plan["warmup"] = describe_warmup(rows, counts, options)
    return plan


# -- what is read, and refused before anything is loaded


def _check_recipe(recipe: Recipe, stage: Stage, *, resume: bool) -> tuple[RunDirectory, SGPOConfig]:
    """The run's directory and options. Raises InputError for what can be refused without reading data."""
    run = RunDirectory(recipe.out)
    _check_stage(run, recipe, stage, resume=resume)
    args = SGPOConfig(output_dir=recipe.out, **recipe.train)
    check_launch(args)
    if resume:
        _check_resumed_options(run, recipe, args)
    _check_evaluation(recipe, args)
    correct_function(recipe.correct), recipe_rewards(recipe)  # which refuse
    return run, args


def _read_data(
    recipe: Recipe, args: SGPOConfig
) -> tuple[list[Problem], dict[str, list[Problem]] | None, StrategyBank | None]:
    """The problems, those of evaluations by name, and the bank; the problems may bring the system prompt."""
    problems = recipe.problems.load()
    args.system_prompt = system_prompt_for(problems, args.system_prompt)
    # Named as its file, so that runs of other recipes on the same file can be compared.
    evaluation = {Path(recipe.evaluation.source).stem: recipe.evaluation.load()} if recipe.evaluation else None
    return problems, evaluation, StrategyBank(recipe.bank, read_only=True) if recipe.bank else None


def _check_stage(run: RunDirectory, recipe: Recipe, stage: Stage, *, resume: bool) -> None:
    """Raises InputError for a directory that is taken, or empty where a run is to be resumed; for no warm-up."""
    if not resume:
        run.check_unused()
    elif not any(path.exists() for path in (run.config_file, run.warm_model, run.path / SPLIT)):
        raise InputError(f"{run.path}: no run to continue here; check --out, or start it without --resume")
    if stage == "warmup" and recipe.warmup is None:
        raise InputError("--stage warmup: this recipe has no 'warmup' section")


def _check_resumed_options(run: RunDirectory, recipe: Recipe, args: SGPOConfig) -> None:
    """Raises InputError where what is learnt would change, before anything is loaded; the trainer knows the rest."""
    options = args.to_dict()
    if args.system_prompt is None:
        del options["system_prompt"]  # the problems may bring it
    check_continuation(run, {"algorithm": args.algorithm, "args": options})
    if run.recipe_file.exists():
        begun = _read_recipe(run.recipe_file)
        refuse_changes(run, changed_options(begun, recipe.model_dump(include={"warmup", "lora", "rewards", "correct"})))


def _read_recipe(file: Path) -> dict[str, Any]:
    """The recipe that a run began with. Raises InputError where it is damaged."""
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: damaged ({type(error).__name__}); put the run's recipe in its place") from None
    if not isinstance(recipe, dict):
        raise InputError(f"{file}: damaged (no mapping); put the run's recipe in its place")
    return recipe


def _check_evaluation(recipe: Recipe, args: SGPOConfig) -> None:
    """Raises InputError for evaluations without problems; warns of problems without evaluations."""
    evaluates = args.eval_strategy != "no" or args.eval_on_start
    if evaluates and recipe.evaluation is None:
        raise InputError(
            f"eval_strategy={args.eval_strategy.value}, eval_on_start={args.eval_on_start}: no problems to evaluate "
            "on; name a problem file with --set evaluation=FILE"
        )
    if recipe.evaluation is not None and not evaluates:
        logger.warning(
            "%s is never evaluated on: --set eval_strategy=steps --set eval_steps=N does so", recipe.evaluation.source
        )


def _check_reinforcement(
    recipe: Recipe,
    args: SGPOConfig,
    model: str,
    problems: list[Problem],
    evaluation: dict[str, list[Problem]] | None,
    bank: StrategyBank | None,
) -> tuple[Prepared, PreTrainedTokenizerBase, Any]:
    """Prepared problems, tokenizer and model config of reinforcement, which begins with `model`.

    Raises InputError for what would keep it from starting, while no warm-up has been paid for.
    """
    tokenizer = _tokenizer(model, args)
    algorithm = build_algorithm(args.algorithm, vars(args))
    prepared = prepare_problems(problems, tokenizer, args, bank=bank, algorithm=algorithm)
    config = policy_config(model, adapters=recipe.lora is not None, **(args.model_init_kwargs or {}))
    with _judging(recipe, args) as verifier:
        check_start(prepared, evaluation or {}, tokenizer, args, verifier=verifier, config=config)
    recipe_rewards(recipe).check(args.algorithm, prepared.problems)
    return prepared, tokenizer, config


def _judging(recipe: Recipe, args: SGPOConfig) -> AbstractContextManager[Verifier | RewardFunction]:
    """What says which completions are correct: the recipe's function, or a verifier, which is closed at the end."""
    correct = correct_function(recipe.correct)
    if correct is not None:
        return nullcontext(correct)
    return Verifier(workers=args.verifier_workers, timeout=args.verifier_timeout, policy=args.verifier_policy)


def _tokenizer(model: str, args: SGPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, as both stages use it."""
    tokenizer = load_tokenizer(model, pad_token=args.pad_token, init_kwargs=args.model_init_kwargs)
    shape_chat_template(tokenizer, template_kwargs=args.chat_template_kwargs, system_prompt=args.system_prompt)
    return tokenizer


# -- the warm-up


def _split(
    run: RunDirectory, problems: list[Problem], recipe: Recipe, bank: StrategyBank | None, *, seed: int
) -> _Split:
    """The problems of both stages: those of the run's `split.json`, or a new split.

    The warm-up learns from solutions: it takes problems without a strategy first, unless it shows strategies, and never
    one without a solution. Raises InputError where it would take none, or the split was made from other problems.
    """
    assert recipe.warmup is not None
    file = run.path / SPLIT
    if not file.exists():
        if all(problem.solution is None for problem in problems):
            raise InputError(
                "none of the problems has a 'solution' to warm up on; without a warm-up: --set warmup=null"
            )
        shows = recipe.warmup.guided_fraction > 0
        guided = {strategy.problem_id for strategy in bank or ()} if not shows else set()

        def rank(problem: Problem) -> int | None:
            return None if problem.solution is None else int(problem.id in guided)

        return _Split(*split_problems(problems, recipe.warmup.fraction, seed=seed, rank=rank))
    try:
        read = read_json(file)
        ids = {name: set(map(str, read[name])) for name in ("warmup", "rl")}
    except (KeyError, TypeError):
        raise InputError(f"{file}: damaged (no lists 'warmup' and 'rl' of ids); choose another directory") from None
    known = {problem.id for problem in problems}
    if missing := (ids["warmup"] | ids["rl"]) ^ known:
        raise InputError(
            f"{file}: made from other problems ({counted(len(missing), 'id')} in one of the two only, such as "
            f"{min(missing)!r}); give the same problem file, or choose another directory"
        )
    return _Split([p for p in problems if p.id in ids["warmup"]], [p for p in problems if p.id in ids["rl"]])


def _write_split(run: RunDirectory, split: _Split) -> None:
    ids = {"warmup": [problem.id for problem in split.warmup], "rl": [problem.id for problem in split.rl]}
    write_json(run.path / SPLIT, ids)


def _warm_up(
    run: RunDirectory, split: _Split, recipe: Recipe, args: SGPOConfig, bank: StrategyBank | None, *, resume: bool
) -> None:
    """Fine-tune the recipe's model on solutions, unless a resumed run has done so.

    Raises InputError for a directory with a warm-up that is not to be resumed.
    """
    if _is_warmed_up(run, resume=resume):
        return
    options = _warmup_options(run, recipe, args)
    tokenizer, rows, counts = _warmup_rows(split, recipe, args, bank)
    model = load_policy(recipe.model, **(args.model_init_kwargs or {}))
    if args.process_index == 0:
        _write_split(run, split)
        lora = recipe.lora.model_dump() if recipe.lora is not None else None
        record = {"model": recipe.model, "sft": options, "lora": lora, **counts, **provenance()}
        write_json(run.path / "warmup.json", record)
    run_warmup(model, tokenizer, rows, options, run, peft_config=_peft_config(recipe), prompts=saved_prompts(args))


def _is_warmed_up(run: RunDirectory, *, resume: bool) -> bool:
    """Whether the run to `resume` has ended its warm-up. Raises InputError for a warm-up that is not to be resumed."""
    if run.warm_model.exists() and not resume:
        raise InputError(
            f"{run.path}: holds a warm-up already; resume with --stage rl or --resume, or choose another place"
        )
    return run.warm_model.exists()


def _warmup_options(run: RunDirectory, recipe: Recipe, args: SGPOConfig) -> dict[str, Any]:
    """The options of SFTConfig. Raises InputError where they need a package that is missing."""
    assert recipe.warmup is not None
    options = {"seed": args.seed, "use_cpu": args.use_cpu, "disable_tqdm": args.disable_tqdm, **recipe.warmup.sft}
    check_installed(warmup_config(options, run))
    return options


def _warmup_rows(
    split: _Split, recipe: Recipe, args: SGPOConfig, bank: StrategyBank | None
) -> tuple[PreTrainedTokenizerBase, list[Row], dict[str, int]]:
    """The tokenizer and the rows of the warm-up, and how many problems it has and leaves out."""
    assert recipe.warmup is not None
    tokenizer = _tokenizer(recipe.model, args)
    config = policy_config(recipe.model, adapters=recipe.lora is not None, **(args.model_init_kwargs or {}))
    limits = (recipe.warmup.sft.get("max_length"), context_length(config))
    rows, counts = solution_rows(
        split.warmup,
        tokenizer,
        style=args.style,
        max_length=min((limit for limit in limits if limit is not None), default=None),
        wrong=_wrong_solutions(split.warmup, recipe, args),
        guided=warmup_prompts(
            split.warmup, bank, fraction=recipe.warmup.guided_fraction, style=args.style, seed=args.seed
        ),
    )
    return tokenizer, rows, counts


def _warm_model(run: RunDirectory, recipe: Recipe, stage: Stage, *, model_given: bool) -> str:
    """The warmed-up model that reinforcement begins with. Raises InputError where there is none."""
    if stage == "rl" and model_given:
        return recipe.model  # one of the user's own
    if not run.warm_model.exists():
        raise InputError(
            f"{run.path}: no warm-up here for --stage rl to begin with; run --stage warmup first, or name a "
            "warmed-up model with --model"
        )
    return str(run.warm_model)


def _wrong_solutions(problems: list[Problem], recipe: Recipe, args: SGPOConfig) -> set[str]:
    """As the first process judges them: a time-out in one process alone would give each its own rows."""
    found: list[set[str]] = [set()]
    if args.process_index == 0:
        with _judging(recipe, args) as verifier:
            found = [wrong_solutions(problems, verifier)]
    broadcast_object_list(found)
    return found[0]


# -- reinforcement


def _reinforce(
    run: RunDirectory,
    recipe: Recipe,
    args: SGPOConfig,
    model: str,
    problems: list[Problem],
    evaluation: dict[str, list[Problem]] | None,
    bank: StrategyBank | None,
    *,
    resume: bool,
    split: _Split | None = None,
) -> Path:
    """Train a model on problems, and keep the recipe in the run directory."""
    correct: dict[str, Any] = {} if recipe.correct is None else {"verifier": correct_function(recipe.correct)}
    trainer = SGPOTrainer(
        model,
        args,
        problems,
        evaluation,
        processing_class=load_tokenizer(model, pad_token=args.pad_token, init_kwargs=args.model_init_kwargs),
        bank=bank,
        reward_funcs=recipe_rewards(recipe).parts or None,
        peft_config=_peft_config(recipe),
        **correct,
    )
    if resume:
        check_continuation(run, trainer.describe())
    if args.process_index == 0:
        if split is not None:
            _write_split(run, split)
        write_text(run.recipe_file, yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    trainer.train(resume_from_checkpoint=resume)
    return run.final_model


def recipe_rewards(recipe: Recipe) -> Rewards:
    """The rewards that a recipe names. Raises InputError as `Rewards.of`."""
    parts = [as_reward(part.function or VERIFIER, part.weight) for part in recipe.rewards or ()]
    return Rewards.of(parts or None, recipe.train.get("reward_weights"))


def _peft_config(recipe: Recipe) -> Any:
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora.model_dump()})
