"""Scores of a policy from the verdicts on its samples, with 95 % intervals over problems.

Problems, not samples, are what an evaluation drew from the world, so every interval resamples whole problems (cluster
bootstrap). pass@j is the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgpo.errors import InputError
from sgpo.io import counted

VERDICT_KINDS = ("correct", "wrong", "unparsed", "timeout")
RESAMPLES = 10_000
MISSED = 0.05  # share of the intervals that may miss the truth

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
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


def score_samples(
    samples: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str | None]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Score an evaluation: `samples` are the verdict kinds of each problem's K samples.

    Returns `{"problems": N, "k": K, "avg@K": {"mean", "low", "high"}, "pass@1": ..., "verdicts": {kind: count}}`, with
    pass@j for the powers of two up to K and for K. With `answers`, the extracted answers in the same order (None: none
    was found), there is `maj@K` too, see `majority_correct`.

    Raises InputError: no problems, problems with different numbers of samples, an unknown verdict kind.
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
    """K, the number of samples that every problem has. Raises InputError where they differ, or for unknown verdicts."""
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
    return 1.0 - comb(samples - correct, j) / comb(samples, j)


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


def interval(values: Array, *, seed: int = 0, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """The mean of one value per problem, with its 95 % percentile interval from 10,000 resamples of the problems.

    Where all problems have the same value (all solved, none solved, one problem only) the bootstrap would claim
    certainty. There the interval is what N equal observations allow: a share `q = 1 - 0.025 ** (1 / N)` of the world's
    problems goes unseen in N draws with probability 0.025, and it could lie at `lowest` or `highest`, the bounds of a
    value. For values 0 and 1 this is the exact interval of Clopper and Pearson.
    """
    values = np.round(values, 12)  # 0.1 + 0.2 and 0.3 are one value
    mean = float(values.mean())
    if np.ptp(values) == 0:
        unseen = 1 - (MISSED / 2) ** (1 / len(values))
        return Estimate(mean, mean - unseen * (mean - lowest), mean + unseen * (highest - mean))
    # Resampling N problems with equal chance draws counts of the distinct values: the same law, far fewer numbers, and
    # a result that does not depend on the order of the problems.
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.quantile(draws @ distinct / len(values), [MISSED / 2, 1 - MISSED / 2])
    return Estimate(mean, float(low), float(high))


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], *, seed: int = 0) -> PairedDifference:
    """Compare two runs on the same problems: the scores (0 to 1) per problem of one minus those of the other.

    The interval is that of `interval`; the p-value is that of the sign-flip permutation test on the problems'
    differences: exact up to 13 problems, 10,000 random flips beyond. Raises InputError where no problem is in both.
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
