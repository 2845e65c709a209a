"""From problems to batches: encoded prompts, their order, micro-batches by tokens, and dynamic sampling.

`prepare_problems` encodes every prompt once; `GlobalBatchSampler` orders the problems; `token_batches` splits training
rows so that a forward fits in memory; `replace_groups_without_gradient` is dynamic sampling.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from sgpo.algorithms import Algorithm, TrainingRow
from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.problems import Problem, problem_from_row
from sgpo.prompts import autonomous_prompt
from sgpo.rollouts.engine import encode_prompt, encode_solution
from sgpo.rollouts.groups import PromptIds, RewardFunction, RolloutGroup, seed_of
from sgpo.rollouts.models import context_length
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy
from sgpo.training.config import SGPOConfig
from sgpo.training.guidance import gives_away, guidance_for
from sgpo.verifier import Verifier

# A batch takes only rows at least this fraction as long as its longest. On a CPU padding costs more than another
# forward (docs/results/performance.md), and on a GPU a large batch is busy enough in any case.
MIN_LENGTH_FRACTION = 0.75

# With guided prompts for fewer problems than this fraction, an algorithm that needs them would train as another one.
MIN_GUIDED_FRACTION = 0.1
# Where more of the strategies leak than this, their source is no good; the gate's false alarms are fewer.
MAX_LEAKING_FRACTION = 0.1

Collect = Callable[[Sequence[Problem]], tuple[list[RolloutGroup], list[TrainingRow]]]

logger = logging.getLogger("sgpo")


# -- problems


def as_problems(dataset: Any, name: str) -> list[Problem]:
    """Read the problems of a list or a datasets.Dataset; `name` is what messages call it.

    Raises:
        InputError: a row is no problem, or an id occurs twice.
    """
    if dataset is None:
        return []
    problems = [
        item if isinstance(item, Problem) else problem_from_row(item, {}, where=f"{name}, row {number}")
        for number, item in enumerate(dataset)
    ]
    ids = Counter(problem.id for problem in problems)
    repeated = [id_ for id_, count in ids.items() if count > 1]
    if repeated:
        raise InputError(f"{name}: the id {repeated[0]!r} occurs {ids[repeated[0]]} times; ids must be unique")
    return problems


def as_options(args: Any) -> SGPOConfig:
    """The options of a trainer; the defaults where none are given. Raises InputError for those of another trainer."""
    if args is None or isinstance(args, SGPOConfig):
        return args or SGPOConfig()
    raise InputError(
        f"args is a {type(args).__name__}; SGPOTrainer takes an sgpo.SGPOConfig, which has the options of "
        "TrainingArguments too: SGPOConfig(num_autonomous=8, num_guided=4, ...)"
    )


def as_bank(bank: StrategyBank | str | Path | None) -> StrategyBank | None:
    """A bank, or the one in a file. Raises BankError where the file is none."""
    return StrategyBank(bank, read_only=True) if isinstance(bank, str | Path) else bank


def evaluation_sets(dataset: Any) -> dict[str, list[Problem]]:
    """Read evaluation sets by name; a single one is called `eval`.

    Raises:
        InputError: a set is empty, or as `as_problems`.
    """
    if dataset is None:
        return {}
    named = dataset if isinstance(dataset, Mapping) else {"eval": dataset}
    sets = {name: as_problems(problems, f"eval_dataset {name!r}") for name, problems in named.items()}
    if empty := [name for name, problems in sets.items() if not problems]:
        raise InputError(f"eval_dataset {empty[0]!r} holds no problems")
    return sets


# -- encoded prompts


@dataclass(slots=True)
class Prepared:
    """Problems made ready for training.

    `problems` are those to train on, `groups` their prompts by problem id, `strategies` the strategies that guided
    prompts show by strategy id, `counts` how many problems were left out and why.
    """

    problems: list[Problem] = field(default_factory=list)
    groups: dict[str, RolloutGroup] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def strategy_ids(self) -> dict[str, str]:
        """The id of the strategy that the guided prompt of each problem shows, by problem id."""
        return {id_: group.strategy_id for id_, group in self.groups.items() if group.strategy_id is not None}

    @property
    def guided_fraction(self) -> float:
        """The fraction of the problems that have a guided prompt; 1 without problems."""
        guided = [group.guided_prompt is not None for group in self.groups.values()]
        return sum(guided) / len(guided) if guided else 1.0


def prepare_problems(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    args: SGPOConfig,
    *,
    bank: StrategyBank | None,
    algorithm: Algorithm,
) -> Prepared:
    """Encode every prompt, and the solutions if `algorithm` needs them; leave out what is too long, and count it.

    Raises:
        InputError: nothing is left, nearly nothing is guided, or many strategies leak.
    """

    def encode(text: str) -> PromptIds:
        return PromptIds(text, encode_prompt(tokenizer, text))

    names = ("too_long", "without_strategy", "guided_prompt_too_long", "leaking", "retrieved")
    counts = {"problems": len(problems), **dict.fromkeys(names, 0)}
    prepared = Prepared(counts=counts)
    leaking: list[str] = []
    guides = algorithm.guides
    guidance = (
        guidance_for(
            problems,
            bank,
            use=args.strategies,
            content=args.strategy_content,
            wrong_fraction=args.wrong_strategy_fraction,
            style=args.style,
            seed=args.seed,
        )
        if guides
        else {}
    )
    if algorithm.needs.solutions:
        counts["without_solution"] = 0
    for problem in problems:
        # The autonomous prompt decides whether the problem is trained on at all.
        prompt = encode(autonomous_prompt(problem.problem, style=args.style))
        if len(prompt.ids) > args.max_prompt_length:
            counts["too_long"] += 1
            continue
        group = RolloutGroup(problem, prompt)
        prepared.problems.append(problem)
        prepared.groups[problem.id] = group
        if algorithm.needs.solutions:
            group.solution_ids = _solution_ids(problem, tokenizer, args.max_completion_length)
            counts["without_solution"] += group.solution_ids is None
        # A problem without a guided prompt that fits is trained autonomously.
        if not guides:
            continue
        shown = guidance.get(problem.id)
        if shown is None:
            counts["without_strategy"] += 1
            continue
        guided = encode(shown.prompt)
        if len(guided.ids) > args.max_prompt_length:
            counts["guided_prompt_too_long"] += 1
            continue
        if shown.strategy is not None and gives_away(shown.strategy, problem):
            leaking.append(shown.strategy.id)
            continue
        group.guided_prompt = guided
        if shown.strategy is not None:
            counts["retrieved"] += shown.strategy.problem_id != problem.id
            group.strategy_id = shown.strategy.id
            prepared.strategies[shown.strategy.id] = shown.strategy
    counts["leaking"] = len(leaking)
    if leaking and bank is not None:
        _refuse_leaks(leaking, len(leaking) + sum(g.strategy_id is not None for g in prepared.groups.values()), bank)
    _check_prepared(prepared, args, bank, guides=guides)
    return prepared


def _refuse_leaks(leaking: Sequence[str], count: int, bank: StrategyBank) -> None:
    """Warn of strategies that leak. Raises InputError where they are too many of `count`."""
    message = (
        f"{bank.path}: {len(leaking)} of {counted(count, 'strategy', 'strategies')} to show give away something of "
        f"their problem (such as {', '.join(leaking[:3])}); `sgpo strategies check` lists what, `sgpo strategies "
        "review` accepts what is no leak"
    )
    if len(leaking) > MAX_LEAKING_FRACTION * count:
        raise InputError(message)
    logger.warning("%s; they are not shown", message)


def _check_prepared(prepared: Prepared, args: SGPOConfig, bank: StrategyBank | None, *, guides: bool) -> None:
    """Warn of problems that are left out or not guided. Raises InputError if nothing is left to train on, or to guide
    an algorithm that `guides`."""
    counts = prepared.counts
    if counts["problems"] and not prepared.problems:
        raise InputError(
            f"the prompts of all {counted(counts['problems'], 'problem')} are longer than "
            f"max_prompt_length={args.max_prompt_length}; raise it"
        )
    if prepared.problems and counts.get("without_solution") == len(prepared.problems):
        raise InputError(
            f"algorithm {args.algorithm} learns from solutions, and none of "
            f"{counted(len(prepared.problems), 'problem')} has one of at most "
            f"max_completion_length={args.max_completion_length} tokens"
        )
    if any(counts[name] for name in ("too_long", "without_strategy", "guided_prompt_too_long", "leaking")):
        logger.warning(
            "of %s %d are left out (prompt longer than max_prompt_length=%d); trained without guidance: "
            "%d that have no strategy, %d with a guided prompt that is too long, %d whose strategy leaks",
            *(counted(counts["problems"], "problem"), counts["too_long"], args.max_prompt_length),
            *(counts["without_strategy"], counts["guided_prompt_too_long"], counts["leaking"]),
        )
    if guides and prepared.guided_fraction < MIN_GUIDED_FRACTION:
        guided = sum(group.guided_prompt is not None for group in prepared.groups.values())
        message = (
            f"algorithm {args.algorithm} learns from guided prompts, and {guided} of "
            f"{counted(len(prepared.problems), 'problem')} can have one: {_why_unguided(prepared, args, bank)}"
        )
        if not args.allow_unguided:
            raise InputError(f"{message}; or set allow_unguided=true to train without")
        logger.warning("%s", message)


def _why_unguided(prepared: Prepared, args: SGPOConfig, bank: StrategyBank | None) -> str:
    counts, problem = prepared.counts, prepared.problems[0]
    if counts["guided_prompt_too_long"] > counts["without_strategy"]:
        return f"most guided prompts are longer than max_prompt_length={args.max_prompt_length}; raise it"
    if args.strategy_content == "solution":
        return "strategy_content=solution, and the others have no solution"
    if bank is None:
        return "there is no bank of strategies; name one (bank)"
    its = next((f"{strategy.problem_id!r}" for strategy in bank), "none")
    return (
        f"{bank.path} holds no strategy for the others: its problem ids (such as {its}) must be those of the problem "
        f"file (such as {problem.id!r})"
    )


def _solution_ids(problem: Problem, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int] | None:
    """The strong model's solution with the end token; None if it is missing or longer than a completion may be."""
    if problem.solution is None:
        return None
    ids = encode_solution(tokenizer, problem.solution)
    return ids if len(ids) <= max_length else None


def longest_sequence(
    prepared: Prepared,
    evaluation_sets: Mapping[str, Sequence[Problem]],
    tokenizer: PreTrainedTokenizerBase,
    args: SGPOConfig,
) -> int:
    """The tokens of the longest prompt and completion together that a run may ask its engine for."""
    assert args.eval_max_tokens is not None
    prompts = [prompt for group in prepared.groups.values() for prompt in (group.prompt, group.guided_prompt) if prompt]
    trained = [len(prompt.ids) + args.max_completion_length for prompt in prompts]
    evaluated = [
        len(encode_prompt(tokenizer, autonomous_prompt(problem.problem, style=args.style))) + args.eval_max_tokens
        for problems in evaluation_sets.values()
        for problem in problems
    ]
    return max([0, *trained, *evaluated])


def check_start(
    prepared: Prepared,
    evaluation_sets: Mapping[str, Sequence[Problem]],
    tokenizer: PreTrainedTokenizerBase,
    args: SGPOConfig,
    *,
    verifier: Verifier | RewardFunction,
    config: Any,
) -> None:
    """Check that a run can start, before its model is loaded, of which `config` is the config.

    Raises:
        InputError: the problems do not fill a batch, the model's context is too short, or a problem cannot be judged.
    """
    problems = len(prepared.problems)
    if prepared.counts["problems"] and problems < args.global_batch_size:
        raise InputError(
            f"problems to train on: {problems}, fewer than one batch of {args.global_batch_size} "
            f"(per_device_train_batch_size={args.per_device_train_batch_size} x "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} x processes={args.world_size}); "
            "lower one of these"
        )
    longest, context = longest_sequence(prepared, evaluation_sets, tokenizer, args), context_length(config)
    if context is not None and longest > context:
        raise InputError(
            f"{config._name_or_path or 'the model'}: made for {context:,} tokens, and the longest prompt and "
            f"completion may have {longest:,} together; lower max_completion_length={args.max_completion_length}, "
            f"eval_max_tokens={args.eval_max_tokens} or max_prompt_length={args.max_prompt_length}"
        )
    if isinstance(verifier, Verifier):
        verifier.check_problems(chain(prepared.problems, *evaluation_sets.values()))


# -- order and micro-batches


class GlobalBatchSampler(Sampler[int]):
    """The order of problems: whole global batches, each as often as it is trained on (`repeats`).

    The order of an epoch follows from the seed and the epoch alone, so a resumed run continues it. Problems that do not
    fill a last global batch wait for the next epoch's order.
    """

    def __init__(
        self, problems: int, global_batch: int, *, repeats: int, seed: int, epoch: Callable[[], float | None]
    ) -> None:
        self.problems, self.global_batch, self.repeats = problems, global_batch, repeats
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return self.problems // self.global_batch * self.global_batch * self.repeats

    def __iter__(self) -> Iterator[int]:
        # The Trainer counts epochs in fractions of one: rounding must not turn the end of one into its beginning.
        epoch = math.floor((self.epoch() or 0.0) + 1e-6)
        order = list(range(self.problems))
        random.Random(seed_of(self.seed, "order", epoch)).shuffle(order)
        for start in range(0, len(order) - self.global_batch + 1, self.global_batch):
            for _ in range(self.repeats):
                yield from order[start : start + self.global_batch]


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split rows into batches by tokens: the memory of a forward follows the budget, not the longest group.

    Rows of like length come together, so at most a quarter of a batch is padding. The longest come first, so that what
    does not fit in memory fails at once.

    Args:
        lengths: The tokens of each row.
        max_tokens: The largest padded size of a batch, rows x the longest of them. A longer row is a batch of its own.

    Returns:
        The indices of each batch's rows.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = bool(batches) and (len(batches[-1]) + 1) * longest <= max_tokens
        if fits and lengths[i] >= MIN_LENGTH_FRACTION * longest:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


# -- dynamic sampling


def reserve_problems(problems: Sequence[Problem], batch_ids: set[str], *, seed: int, step: int) -> Iterator[Problem]:
    """Yield the problems outside the batch, in an order that follows from seed and step.

    A resumed run, and every process of a run, draws the same.
    """
    others = [problem for problem in problems if problem.id not in batch_ids]
    random.Random(seed_of(seed, "reserve", step)).shuffle(others)
    return iter(others)


def replace_groups_without_gradient(
    groups: list[RolloutGroup],
    rows: list[TrainingRow],
    reserve: Iterator[Problem],
    collect: Collect,
    *,
    rounds: int,
    offset_and_total: Callable[[int], tuple[int, int]],
) -> tuple[list[RolloutGroup], list[TrainingRow], list[RolloutGroup]]:
    """Replace groups without a gradient by groups of other problems (DAPO, arXiv 2503.14476, section 3.2).

    A group that all fails or all passes has no advantage, so a batch with many of them has a small and noisy gradient.
    DAPO samples until the batch is full; here the number of rounds is limited, and a group that finds no replacement
    stays. A group has a gradient if any of its training rows has one: with SGPO a target is enough, even if the whole
    autonomous group fails.

    Args:
        groups: The groups of this process's problems.
        rows: Their training rows.
        reserve: The problems to draw from; the same in all processes.
        collect: Samples problems and returns their groups and training rows.
        rounds: The most rounds of sampling.
        offset_and_total: Turns the number of groups that this process wants to replace into the number that the
            processes before it want, and the number that all want. Each process draws its own part of the reserve, and
            all run as many rounds as the one that needs most. Which problems are sampled does not depend on the number
            of processes; which of the groups without a gradient stay does.

    Returns:
        The batch's groups and rows, and every group that was sampled beyond the first ones.
    """
    groups, extra = list(groups), []
    for _ in range(rounds):
        places = sorted(set(range(len(groups))) - _with_gradient(rows))
        offset, total = offset_and_total(len(places))
        drawn = list(islice(reserve, total))
        if not drawn:
            break
        fresh, fresh_rows = collect(drawn[offset : offset + len(places)])
        extra += fresh
        # Fresh groups with a gradient take the first places; the other places wait for the next round.
        for place, number in zip(places, sorted(_with_gradient(fresh_rows)), strict=False):
            groups[place] = fresh[number]
            rows = [row for row in rows if row.problem_index != place]
            rows += [replace(row, problem_index=place) for row in fresh_rows if row.problem_index == number]
    return groups, rows, extra


def _with_gradient(rows: Sequence[TrainingRow]) -> set[int]:
    return {row.problem_index for row in rows if row.has_gradient}
