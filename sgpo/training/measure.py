"""What strategies do for a model before it is trained: `sgpo strategies measure`.

SGPO learns from problems that the policy fails without their strategy and solves with it. Here a model samples each
problem without and with its strategy, under the prompts and limits that training will use, so that this is known before
it is paid for. The two groups of a problem are compared with each other, so intervals are over problems.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.errors import EndpointError, InputError, RunDirectoryError
from sgpo.evaluation.evaluate import Request, Source, complete
from sgpo.evaluation.scores import ScoreEstimate, difference_of_fractions, interval, paired_difference
from sgpo.evaluation.store import CompletionFile
from sgpo.io import LOCK, read_json, write_json
from sgpo.problems import Problem
from sgpo.prompts import PromptStyle, autonomous_prompt, guided_prompt
from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.groups import RewardFunction, seed_of
from sgpo.rollouts.models import model_revision
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Condition, Strategy
from sgpo.training.alarms import mentions_strategy
from sgpo.training.config import SGPOConfig
from sgpo.verifier import Verifier

Row = Mapping[str, Any]

logger = logging.getLogger("sgpo")

# From these fractions on, the advice names what stands in the way.
MOSTLY = 0.5
SOLVED = 0.9
RESCUED = 0.02  # of all problems: fewer, and hardly a batch has a target


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyMeasurement:
    """What strategies did for a model on the problems that were answered whole.

    Attributes:
        samples: K, the completions of each problem without a strategy, and with each of its strategies.
        strategies: The strategies that were tried, by problem id; the first one speaks for the problem.
        autonomous_passes: The passes of each problem without a strategy, by problem id.
        guided_passes: The passes with each strategy, by strategy id.
        autonomous: The rows of the completions without a strategy, as in `eval/*.jsonl`.
        guided: Those with one, which have a `strategy_id`.
        missing: The problems that lack a completion.
        failures: What went wrong with single completions.
        seed: Seed of sampling and of the intervals.
    """

    samples: int
    strategies: Mapping[str, Sequence[Strategy]]
    autonomous_passes: Mapping[str, int]
    guided_passes: Mapping[str, int]
    autonomous: Sequence[Row]
    guided: Sequence[Row]
    missing: tuple[str, ...]
    failures: tuple[str, ...]
    seed: int

    def rates(self) -> dict[str, tuple[float, float]]:
        """The pass rates of each problem, without a strategy and with the one that speaks for it."""
        return {
            id_: (passes / self.samples, self.guided_passes[self.strategies[id_][0].id] / self.samples)
            for id_, passes in self.autonomous_passes.items()
        }

    def summary(self) -> dict[str, Any]:
        """The object that `sgpo strategies measure --json` prints: pass rates (0 to 1) with 95 % intervals."""
        rates = self.rates()
        autonomous = {id_: rate for id_, (rate, _) in rates.items()}
        guided = {id_: rate for id_, (_, rate) in rates.items()}
        shown = {strategies[0].id for strategies in self.strategies.values()}
        of_shown = [row for row in self.guided if row["strategy_id"] in shown]
        failed = [id_ for id_, rate in autonomous.items() if rate == 0]
        uplift = paired_difference(guided, autonomous, seed=self.seed)
        found = {
            "problems": len(rates),
            "samples": self.samples,
            "autonomous": self._mean(autonomous.values()),
            "guided": self._mean(guided.values()),
            "uplift": {"mean": uplift.mean, "low": uplift.low, "high": uplift.high},
            "all_fail": len(failed) / len(rates),
            "rescued": self._mean(float(guided[id_] > 0) for id_ in failed) if failed else None,
            "tokens": {"autonomous": _tokens(self.autonomous), "guided": _tokens(of_shown)},
            "truncated": {"autonomous": _truncated(self.autonomous), "guided": _truncated(of_shown)},
            "unparsed": _fraction(row["verdict"] == "unparsed" for row in self.autonomous),
            "mentions": _fraction(mentions_strategy(row["completion"]) for row in of_shown),
            "missing": len(self.missing),
        }
        return {**found, "advice": advise(found)}

    def _mean(self, values: Iterable[float]) -> dict[str, float]:
        estimate: ScoreEstimate = interval(np.array(list(values)), seed=self.seed)
        return estimate.to_json()

    def effects(self) -> dict[str, list[int]]:
        """The counts of every strategy that was tried, in the order of `Effect`."""
        return {
            strategy.id: [self.guided_passes[strategy.id], self.samples, self.autonomous_passes[id_], self.samples]
            for id_ in self.autonomous_passes
            for strategy in self.strategies[id_]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What `select` found: candidates to make active, and active strategies to set aside.

    `kept` are active strategies that a person accepted, and that the measurement speaks against.
    """

    activate: tuple[Strategy, ...]
    set_aside: tuple[Strategy, ...]
    kept: tuple[Strategy, ...]


def measure_strategies(
    strategies: Mapping[str, Sequence[Strategy]],
    problems: Sequence[Problem],
    source: Source,
    verifier: Verifier | RewardFunction,
    sampling: Sampling,
    *,
    samples: int,
    style: str | PromptStyle,
    seed: int,
    kept: CompletionFile | None = None,
) -> StrategyMeasurement:
    """Sample each problem `samples` times without a strategy, and as often with each of its strategies; judge.

    Args:
        strategies: What to try, by problem id; the first one of a problem speaks for it. Problems without are passed
            over.
        problems: The problems.
        source: Where completions come from.
        verifier: What judges.
        sampling: Temperature, top-p and the limit of tokens: those of training.
        samples: Completions of each kind.
        style: Style of the prompts.
        seed: Seed of sampling and of the intervals.
        kept: Resume with the completions in this file, and append every new one.

    Raises:
        InputError: No problem has a strategy.
        EndpointError: No problem was answered whole.
    """
    chosen = [problem for problem in problems if strategies.get(problem.id)]
    if not chosen:
        its = next(iter(strategies), None)
        known = "the bank has none" if its is None else f"the bank's are for others, such as {its!r}"
        raise InputError(f"no problem has a strategy to measure: {known}; give the problems that they were written for")
    requests = [
        Request(
            problem,
            number,
            autonomous_prompt(problem.problem, style=style)
            if strategy is None
            else guided_prompt(problem.problem, strategy, style=style),
            seed_of(seed, "measure", problem.id, strategy.id if strategy else "", number),
            strategy.id if strategy else None,
        )
        for problem in chosen
        for strategy in (None, *strategies[problem.id])
        for number in range(samples)
    ]
    wanted = {request.key for request in requests}
    rows, failures, _ = complete(requests, source, verifier, sampling, kept=kept)
    found = {_key(row): row for row in rows}
    lacking = {key[0] for key in wanted - found.keys()}
    whole = [problem.id for problem in chosen if problem.id not in lacking]
    if not whole:
        raise EndpointError(f"no problem was answered whole; {failures[0] if failures else 'ask again'}")
    answered: list[Row] = [row for key, row in found.items() if key in wanted and key[0] not in lacking]
    autonomous = [row for row in answered if row.get("strategy_id") is None]
    guided = [row for row in answered if row.get("strategy_id") is not None]
    passes = Counter(row["problem_id"] for row in autonomous if row["verdict"] == "correct")
    guided_passes = Counter(row["strategy_id"] for row in guided if row["verdict"] == "correct")
    return StrategyMeasurement(
        samples=samples,
        strategies={id_: tuple(strategies[id_]) for id_ in whole},
        autonomous_passes={id_: passes[id_] for id_ in whole},
        guided_passes={s.id: guided_passes[s.id] for id_ in whole for s in strategies[id_]},
        autonomous=autonomous,
        guided=guided,
        missing=tuple(sorted(lacking)),
        failures=tuple(failures),
        seed=seed,
    )


def strategies_to_measure(
    bank: StrategyBank, problems: Sequence[Problem], *, candidates: bool
) -> dict[str, list[Strategy]]:
    """What a bank has for these problems: active strategies; with `candidates` all, the active one first."""
    found: dict[str, list[Strategy]] = {}
    for problem in problems:
        active = bank.get(problem.id)
        of_problem = bank.candidates(problem.id) if candidates else [active] if active else []
        if of_problem:
            found[problem.id] = of_problem
    return found


def advise(found: Mapping[str, Any]) -> str:
    """Say in one sentence whether SGPO can be expected to help, and if not, what to try.

    Args:
        found: The numbers of `StrategyMeasurement.summary`.
    """
    cut, rescued, uplift = found["truncated"]["autonomous"], found["rescued"], found["uplift"]
    of_all = found["all_fail"] * rescued["mean"] if rescued else 0.0
    if cut is not None and cut > MOSTLY:
        return f"{cut:.0%} of the completions are cut off: raise the limit of tokens before anything else."
    if found["unparsed"] > MOSTLY:
        return (
            f"In {found['unparsed']:.0%} of the completions no answer was found: look at one, at the prompts, and at "
            "the kind of the problems."
        )
    if found["autonomous"]["mean"] > SOLVED:
        return "The model solves nearly all of them without strategies: choose harder problems (--keep)."
    if uplift["high"] < 0:
        return (
            "These strategies harm this model: try other candidates (--candidates all --select), or a warm-up that "
            "shows strategies (warmup.guided_fraction)."
        )
    if of_all >= RESCUED:
        return (
            f"SGPO can be expected to help: strategies rescue {rescued['mean']:.0%} of the problems that this model "
            f"fails every time without, {of_all:.0%} of all problems, and it learns from these."
        )
    if found["autonomous"]["mean"] == 0 and found["guided"]["mean"] == 0:
        return "The model solves nothing, with strategies or without: start from a stronger policy, or easier problems."
    return (
        f"SGPO will do little more than GRPO here: strategies rescue {of_all:.1%} of the problems. Try other "
        "strategies (--candidates all --select), a warm-up that shows strategies (warmup.guided_fraction), or a "
        "stronger policy."
    )


def select(measured: StrategyMeasurement) -> Selection:
    """Choose by the measured pass rates, where the evidence supports a change.

    A candidate takes the active strategy's place where its pass rate is higher, and a strategy is set aside where it
    harms, each if the 95 % interval of the difference excludes 0 (Newcombe's, two independent groups of K). What a
    person accepted in review stays.
    """
    activate, set_aside, kept = [], [], []
    for id_, passes in measured.autonomous_passes.items():
        current, *others = measured.strategies[id_]
        best = max([current, *others], key=lambda strategy: measured.guided_passes[strategy.id])
        chosen = (
            best if _above(measured, measured.guided_passes[best.id], measured.guided_passes[current.id]) else current
        )
        harms = _above(measured, passes, measured.guided_passes[chosen.id])
        if chosen is current and not harms:
            continue
        if current.reviewed:
            kept.append(current)
        elif harms:
            set_aside.append(current)
        else:
            activate.append(chosen)
    return Selection(activate=tuple(activate), set_aside=tuple(set_aside), kept=tuple(kept))


def _above(measured: StrategyMeasurement, more: int, fewer: int) -> bool:
    return difference_of_fractions(more, measured.samples, fewer, measured.samples).low > 0


def store_effects(bank: StrategyBank, measured: StrategyMeasurement, condition: Condition) -> None:
    """Tell the bank what was measured; the same measurement again takes the place of the earlier one."""
    effects = measured.effects()
    text = json.dumps([asdict(condition), sorted(effects), measured.seed])
    bank.record_run("measure-" + hashlib.sha256(text.encode()).hexdigest()[:16], effects, condition)


def training_condition(model: str, args: SGPOConfig, verifier: Verifier | RewardFunction) -> Condition | None:
    """Under what a training run measures its strategies; None where its model has no name to know it again by.

    Args:
        model: The path or hub id of the model that training begins with.
        args: The options.
        verifier: What judges.
    """
    if not model:
        return None
    reward = judge_name(verifier, args.verifier_policy)
    return Condition(model=model_revision(model), prompts=args.style.title, reward=reward)


def warn_unmeasured(bank: StrategyBank, condition: Condition | None) -> None:
    """Warn where nothing is known of what a bank's strategies do for a model, or where they do not help it."""
    if condition is None:
        return
    measured, effect = bank.total_effect(condition)
    if not measured:
        logger.warning(
            "%s: nothing was measured of its strategies for this model, these prompts and this reward; `sgpo "
            "strategies measure` says beforehand whether they help it",
            bank.path,
        )
    elif effect.uplift is not None and effect.uplift <= 0:
        logger.warning(
            "%s: its strategies were measured not to help this model (uplift %+.3f over %d completions); `sgpo "
            "strategies measure` says what to try",
            *(bank.path, effect.uplift, effect.guided_total),
        )


def judge_name(judge: Verifier | RewardFunction | None, policy: str) -> str:
    """What decides what is correct, for a `Condition`: our verifier under a policy (None too), or a function."""
    if judge is None or isinstance(judge, Verifier):
        return f"verifier {policy}"
    return f"{getattr(judge, '__module__', '')}:{getattr(judge, '__qualname__', type(judge).__name__)}"


def open_measurement(out: Path, settings: Mapping[str, Any]) -> CompletionFile:
    """The completions of a measurement in the directory `out`, to resume them.

    Raises:
        RunDirectoryError: It holds another run, or a measurement with other settings; the message names them.
    """
    file = out / "measurement.json"
    if file.exists():
        before = read_json(file)
        before = before if isinstance(before, dict) else {}
        changed = [
            f"{name} {before.get(name)!r} (now {value!r})"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise RunDirectoryError(f"{out}: holds a measurement with {', '.join(changed)}; choose another --out")
    elif out.exists() and any(path.name != LOCK for path in out.iterdir()):
        raise RunDirectoryError(f"{out}: holds something else; choose another --out")
    write_json(file, dict(settings))
    return CompletionFile(out / "measure.jsonl")


def _key(row: Row) -> tuple[str, str | None, int]:
    return row["problem_id"], row.get("strategy_id"), row["sample"]


def _tokens(rows: Sequence[Row]) -> float | None:
    """The mean length in tokens; None where an endpoint did not count them all."""
    lengths = [row["tokens"] for row in rows]
    return None if None in lengths else float(np.mean(lengths))


def _truncated(rows: Sequence[Row]) -> float | None:
    flags = [row["truncated"] for row in rows]
    return _fraction(flags) if all(isinstance(flag, bool) for flag in flags) else None


def _fraction(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))
