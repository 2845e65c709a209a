"""From verdicts to scores: every score, 95 % interval and test of the package is computed here.

Problems, not samples, are what an evaluation drew from the world, so the intervals of one evaluation resample whole
problems (cluster bootstrap). A study repeats whole runs, so its intervals are Student's t over replicates. pass@j is
the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.problems import Problem
from sgpo.verifier import Verifier

VERDICT_KINDS = ("correct", "wrong", "unparsed", "timeout")
RESAMPLES = 10_000
MISSED = 0.05  # fraction of the intervals that may miss the truth

Z_QUANTILE = 1.959964  # of the normal distribution, 97.5 %
# Student's t, 97.5 % quantiles for 1, 2, ... degrees of freedom.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)

Array = NDArray[np.float64]
CompletionRow = Mapping[str, Any]  # a row of `eval/*.jsonl`, see docs/run-directory.md


@dataclass(frozen=True, slots=True)
class ScoreEstimate:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of `a - b` over the problems that both have, its 95 % interval, and a two-sided p-value for "no
    difference". `dropped` problems were in one of the two only."""

    mean: float
    low: float
    high: float
    p_value: float
    problems: int
    dropped: int

    def to_json(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReplicateMean:
    """A mean over the `replicates` of a study and its 95 % interval (infinite for a single one)."""

    mean: float
    low: float
    high: float
    replicates: int

    @property
    def verdict(self) -> Literal["ahead", "level", "behind", "open"]:
        """Reads the mean as a difference: `ahead` or `behind` where the interval excludes 0, else `level`.

        It is `open` for fewer than three replicates: an interval over two says nothing.
        """
        if self.replicates < 3:
            return "open"
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "level"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The scores of an evaluation over the problems that have all their samples; `missing` are the ids of the others.

    `scores` is what `score_samples` returns, `details` what stands beside it (subjects, levels, lengths, the truncated
    fraction), `samples` the verdict kinds of each problem's samples, `rows` the judged completions that were scored, by
    problem and number. `failures` says what went wrong with single completions; `max_tokens` is the highest limit that
    any of them had, None where one was asked for without a limit.
    """

    scores: dict[str, Any]
    details: dict[str, Any]
    samples: dict[str, list[str]]
    missing: tuple[str, ...]
    rows: list[CompletionRow]
    failures: tuple[str, ...] = ()
    max_tokens: int | None = None

    def summary(self) -> dict[str, Any]:
        """The object that `sgpo eval --json` and `sgpo score --json` print."""
        return {**self.scores, "missing": len(self.missing), **self.details}

    def to_json(self, **header: Any) -> dict[str, Any]:
        """The content of an `eval/*.json` of an evaluation that misses nothing."""
        return {**header, **self.scores, **self.details, "samples": self.samples}


def score_rows(
    problems: Sequence[Problem],
    rows: Iterable[CompletionRow],
    verifier: Verifier | Callable[[str, Problem], Any],
    *,
    samples: int,
    seed: int,
) -> EvaluationResult:
    """Score the first `samples` judged completions of each problem; a problem that has fewer is missing.

    Args:
        problems: What was evaluated on.
        rows: Judged completions in any order, as in `eval/*.jsonl`.
        verifier: What judged them. A `Verifier` also finds equal wrong answers, which are then one vote of maj@k.
        samples: K.
        seed: Seed of the bootstrap.

    Raises:
        InputError: Every problem is missing.
    """
    by_problem: dict[str, dict[int, CompletionRow]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem_id"]][row["sample"]] = row
    wanted = range(samples)
    whole = [problem for problem in problems if all(number in by_problem[problem.id] for number in wanted)]
    if not whole:
        among = counted(len(problems), "problem")
        raise InputError(f"none of {among} has all of its samples ({samples} each): nothing to score")
    scored = {problem.id: [by_problem[problem.id][number] for number in wanted] for problem in whole}
    kinds = {id_: [row["verdict"] for row in rows] for id_, rows in scored.items()}
    answers = {id_: [row["extracted"] for row in rows] for id_, rows in scored.items()}
    if isinstance(verifier, Verifier):
        answers = merge_equal_answers(kinds, answers, whole, verifier)
    in_order = [row for rows in scored.values() for row in rows]
    return EvaluationResult(
        scores=score_samples(kinds, answers, seed=seed),
        details=_details(whole, in_order, kinds, seed=seed),
        samples=kinds,
        missing=tuple(problem.id for problem in problems if problem.id not in scored),
        rows=in_order,
    )


def score_samples(
    samples: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str | None]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the verdicts of an evaluation.

    Args:
        samples: The verdict kinds of each problem's K samples, by problem id.
        answers: The extracted answers in the same order (None where the verifier found none); they add `maj@K`, see
            `majority_correct`.
        seed: Seed of the bootstrap.

    Returns:
        `{"problems": N, "k": K, "avg@K": {"mean", "low", "high"}, "pass@1": ..., "verdicts": {kind: count}}`, with
        pass@j for the powers of two up to K and for K.

    Raises:
        InputError: No problems, problems with different numbers of samples, or an unknown verdict kind.
    """
    k = samples_per_problem(samples)
    correct = np.array([list(kinds).count("correct") for kinds in samples.values()])
    scores = {f"avg@{k}": interval(correct / k, seed=seed)}
    for j in powers_of_two(k):
        scores[f"pass@{j}"] = interval(np.array([pass_at(j, samples=k, correct=int(c)) for c in correct]), seed=seed)
    if answers is not None:
        majority = [majority_correct(kinds, answers[id_]) for id_, kinds in samples.items()]
        scores[f"maj@{k}"] = interval(np.array(majority, dtype=float), seed=seed)
    counts = Counter(kind for kinds in samples.values() for kind in kinds)
    return {
        "problems": len(samples),
        "k": k,
        **{name: estimate.to_json() for name, estimate in scores.items()},
        "verdicts": {kind: counts[kind] for kind in VERDICT_KINDS},
    }


def samples_per_problem(samples: Mapping[str, Sequence[str]]) -> int:
    """K, the number of samples that every problem has.

    Raises:
        InputError: The numbers differ, or a verdict kind is unknown.
    """
    if not samples:
        raise InputError("no problems to score")
    first, kinds = next(iter(samples.items()))
    for id_, others in samples.items():
        if len(others) != len(kinds):
            raise InputError(
                f"problem {id_!r} has {counted(len(others), 'sample')}, problem {first!r} has {len(kinds)}; "
                f"every problem needs the same number"
            )
        if unknown := set(others) - set(VERDICT_KINDS):
            raise InputError(f"problem {id_!r}: unknown verdict {min(unknown)!r}; known are {', '.join(VERDICT_KINDS)}")
    if not kinds:
        raise InputError(f"problem {first!r} has no samples")
    return len(kinds)


def powers_of_two(k: int) -> list[int]:
    """1, 2, 4, ... up to k, and k itself."""
    return sorted({*(2**i for i in range(k.bit_length())), k})


def pass_at(j: int, *, samples: int, correct: int) -> float:
    """The chance that at least one of j samples, drawn without replacement from all, is correct (unbiased pass@j)."""
    return 1.0 - math.comb(samples - correct, j) / math.comb(samples, j)


def majority_correct(kinds: Sequence[str], answers: Sequence[str | None]) -> bool:
    """Whether the answer with the most votes is correct.

    Samples that the verifier found equal to the gold answer are equal to each other, so all correct samples vote for
    one answer; the others vote for their text, white space aside (`merge_equal_answers` makes equal ones one text). A
    sample without an answer does not vote, and where none votes the majority is not correct. A tie goes to the answer
    that was sampled first, which looks at nothing but the order of sampling.
    """
    votes: Counter[str | None] = Counter()  # None stands for the correct answer
    for kind, answer in zip(kinds, answers, strict=True):
        if kind == "correct":
            votes[None] += 1
        elif kind != "unparsed" and answer is not None:
            votes[" ".join(answer.split())] += 1
    return bool(votes) and max(votes, key=votes.__getitem__) is None  # of equals the first


def merge_equal_answers(
    kinds: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str | None]],
    problems: Sequence[Problem],
    verifier: Verifier,
) -> dict[str, list[str | None]]:
    """The answers, with every wrong one replaced by the first of its problem that is mathematically equal to it, so
    that two ways of writing it are one vote.

    Asks the verifier only where it decides a majority: the correct answer has votes, and not more than all the wrong
    ones together. Problems that are not judged as mathematics keep their answers.
    """
    merged = {id_: [None if a is None else " ".join(a.split()) for a in given] for id_, given in answers.items()}
    # Every pair of different wrong answers whose equality could decide a majority, the earlier answer first.
    pairs: list[tuple[str, str, str]] = []
    for problem in problems:
        votes = [
            answer
            for kind, answer in zip(kinds[problem.id], merged[problem.id], strict=True)
            if kind not in ("correct", "unparsed") and answer is not None
        ]
        correct = list(kinds[problem.id]).count("correct")
        if problem.kind == "math" and 0 < correct <= len(votes):
            pairs += [(problem.id, first, other) for first, other in combinations(dict.fromkeys(votes), 2)]
    verdicts = verifier.verify_many([(f"\\boxed{{{other}}}", first) for _, first, other in pairs])
    # Each answer goes to the earliest one that it equals; pairs come in order, so that one is settled already.
    firsts: dict[tuple[str, str], str] = {}
    for (id_, first, other), verdict in zip(pairs, verdicts, strict=True):
        if verdict.correct:
            firsts.setdefault((id_, other), firsts.get((id_, first), first))
    return {
        id_: [None if answer is None else firsts.get((id_, answer), answer) for answer in given]
        for id_, given in merged.items()
    }


def interval(values: Array, *, seed: int = 0, lowest: float = 0.0, highest: float = 1.0) -> ScoreEstimate:
    """The mean of one value per problem, with its 95 % percentile interval from 10,000 resamples of the problems.

    Where all problems have the same value (all solved, none solved, one problem only) the bootstrap would claim
    certainty. There the interval is what N equal observations allow: a fraction `q = 1 - 0.025 ** (1 / N)` of the
    world's problems goes unseen in N draws with probability 0.025, and it could lie at `lowest` or `highest`, the
    bounds of a value. For values 0 and 1 this is the exact interval of Clopper and Pearson.
    """
    values = np.round(values, 12)  # 0.1 + 0.2 and 0.3 are one value
    mean = float(values.mean())
    if np.ptp(values) == 0:
        unseen = 1 - (MISSED / 2) ** (1 / len(values))
        return ScoreEstimate(mean, mean - unseen * (mean - lowest), mean + unseen * (highest - mean))
    # Resampling N problems with equal chance draws counts of the distinct values: the same law, far fewer numbers, and
    # a result that does not depend on the order of the problems.
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.quantile(draws @ distinct / len(values), [MISSED / 2, 1 - MISSED / 2])
    return ScoreEstimate(mean, float(low), float(high))


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], *, seed: int = 0) -> PairedDifference:
    """Compare two runs on the same problems: the scores (0 to 1) per problem of one minus those of the other.

    The interval is that of `interval`; the p-value is that of the sign-flip permutation test on the problems'
    differences: exact up to 13 problems, 10,000 random flips beyond.

    Raises:
        InputError: No problem is in both.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise InputError("the two have no problem in common, so there is nothing to compare")
    differences = np.array([a[id_] - b[id_] for id_ in common])
    estimate = interval(differences, seed=seed, lowest=-1.0, highest=1.0)
    return PairedDifference(
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p_value=_sign_flip_p_value(differences, seed=seed),
        problems=len(common),
        dropped=len(a.keys() ^ b.keys()),
    )


def mean_over_replicates(values: Sequence[float]) -> ReplicateMean:
    """The mean of one value per replicate, with its 95 % interval of Student's t.

    Raises:
        InputError: There is no value.
    """
    if not values:
        raise InputError("no replicates to take a mean over")
    count, mean = len(values), statistics.fmean(values)
    half = _t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else math.inf
    return ReplicateMean(mean, mean - half, mean + half, count)


def difference_over_replicates(ours: Mapping[int, float], theirs: Mapping[int, float]) -> ReplicateMean | None:
    """`ours - theirs` over the replicates that both have (paired t-test); None where they share none."""
    pairs = [ours[replicate] - theirs[replicate] for replicate in sorted(ours.keys() & theirs.keys())]
    return mean_over_replicates(pairs) if pairs else None


def _sign_flip_p_value(differences: Array, *, seed: int) -> float:
    moved = differences[differences != 0]  # a zero has no sign: it changes no flipped sum
    observed = abs(moved.sum()) - 1e-9
    if 2 ** len(moved) <= RESAMPLES:
        flips = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float(np.mean(np.abs((1 - 2 * flips) @ moved) >= observed))
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(10):
        flips = rng.integers(0, 2, size=(RESAMPLES // 10, len(moved)), dtype=np.int8)
        extreme += int(np.sum(np.abs((1 - 2 * flips) @ moved) >= observed))
    return (extreme + 1) / (RESAMPLES + 1)


def _t_quantile(degrees: int) -> float:
    # Beyond the table the first correction of the normal quantile is right within 0.01.
    return T_QUANTILES[degrees - 1] if degrees <= len(T_QUANTILES) else 1.95996 + 2.3722 / degrees


def _details(
    problems: Sequence[Problem], rows: Sequence[CompletionRow], kinds: Mapping[str, Sequence[str]], *, seed: int
) -> dict[str, Any]:
    """What stands beside the scores: lengths, the truncated fraction, and the mean score per subject and level; where
    a server refused sampling options, their names too."""
    left = sorted({name for row in rows for name in row.get("left_to_server", ())})
    return {
        **_lengths(rows),
        **({"left_to_server": left} if left else {}),
        "subjects": _parts({problem.id: problem.subject for problem in problems}, kinds, seed=seed),
        "levels": _parts({problem.id: problem.level for problem in problems}, kinds, seed=seed),
    }


def _parts(
    part_of: Mapping[str, str | None], kinds: Mapping[str, Sequence[str]], *, seed: int
) -> dict[str, dict[str, Any]]:
    """The mean score of each subject or level; problems without one are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for id_, part in part_of.items():
        if part is not None:
            values[part].append(list(kinds[id_]).count("correct") / len(kinds[id_]))
    return {
        part: {"problems": len(values[part]), "avg": interval(np.array(values[part]), seed=seed).to_json()}
        for part in sorted(values)
    }


def _lengths(rows: Sequence[CompletionRow]) -> dict[str, Any]:
    """Lengths in tokens, or in characters where some completion's tokens are not known; the truncated fraction."""
    in_tokens = all(row.get("tokens") is not None for row in rows)
    lengths = np.array([row["tokens"] if in_tokens else len(row["completion"]) for row in rows])
    known = all(isinstance(row.get("truncated"), bool) for row in rows)
    return {
        "length": {
            "unit": "tokens" if in_tokens else "characters",
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "truncated": float(np.mean([row["truncated"] for row in rows])) if known else None,
    }


def normal_interval(values: Sequence[float], *, at_least: int) -> ScoreEstimate:
    """The mean of values and its normal 95 % interval; NaN bounds for fewer than `at_least`, where it is too narrow."""
    mean = statistics.fmean(values)
    enough = len(values) >= at_least
    spread = Z_QUANTILE * statistics.stdev(values) / math.sqrt(len(values)) if enough else math.nan
    return ScoreEstimate(mean, mean - spread, mean + spread)


def difference_of_fractions(passed_a: int, count_a: int, passed_b: int, count_b: int) -> ScoreEstimate:
    """The difference of two independent fractions with its 95 % interval.

    Newcombe's hybrid score method (Statistics in Medicine 17, 873-890, 1998, method 10).
    """
    a, b = passed_a / count_a, passed_b / count_b
    (low_a, high_a), (low_b, high_b) = _wilson_interval(passed_a, count_a), _wilson_interval(passed_b, count_b)
    return ScoreEstimate(a - b, a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b))


def _wilson_interval(passed: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a fraction."""
    fraction, z2 = passed / count, Z_QUANTILE**2
    centre = fraction + z2 / (2 * count)
    spread = Z_QUANTILE * math.sqrt(fraction * (1 - fraction) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    return (centre - spread) / scale, (centre + spread) / scale
