"""Reuse: near-duplicates among strategies, and a strategy for a problem that has none of its own.

By default texts are compared by their words (TF-IDF, cosine), numbers left out; an `embed` function, such as the
`encode` of a sentence-embedding model, may take the place of that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgpo.strategies.strategy import Strategy

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

SAME_GROUP = 0.8  # cosine from which two strategies say the same
SIMILAR = 0.2  # cosine of words from which a strategy may serve a problem; docs/strategies.md says how it was chosen
SIMILAR_EMBEDDED = 0.5
MAX_WORDS = 2048  # the most frequent ones are the index
BLOCK = 512  # rows that are compared with all others at a time


@dataclass(frozen=True, slots=True)
class RetrievedStrategy:
    """A strategy of another problem, and how similar it is to what was looked for (cosine, 0 to 1)."""

    strategy: Strategy
    similarity: float


class Retriever:
    """Finds a strategy for a problem among those of other problems.

    `problem_texts` are the texts of the strategies' own problems, where they are known; `preference` chooses among
    strategies that say the same (higher is better, such as the measured uplift). `embed` maps texts to vectors.
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        *,
        problem_texts: Mapping[str, str] | None = None,
        preference: Mapping[str, float] | None = None,
        embed: Embed | None = None,
    ) -> None:
        texts = problem_texts or {}
        self._strategies = list(strategies)
        self._preference = preference or {}
        self._least = SIMILAR if embed is None else SIMILAR_EMBEDDED
        described = [f"{s.problem_type} {s.approach} {s.when_to_use} {texts.get(s.problem_id, '')}" for s in strategies]
        self._encode = embed or _Words(described)
        self._described = _unit(self._encode(described))
        self._methods = method_vectors(self._strategies, embed=embed)

    def find(self, problem: str, *, problem_id: str) -> RetrievedStrategy | None:
        """The preferred strategy of the group that is most similar to a problem's text; None where none is similar.

        Strategies of `problem_id` itself are not considered.
        """
        others = [i for i, strategy in enumerate(self._strategies) if strategy.problem_id != problem_id]
        if not others:
            return None
        similarity = self._described @ _unit(self._encode([problem]))[0]
        nearest = max(others, key=lambda i: similarity[i])
        if similarity[nearest] < self._least:
            return None
        alike = self._methods @ self._methods[nearest]
        best = max(
            (i for i in others if i == nearest or alike[i] >= SAME_GROUP),
            key=lambda i: (self._preference.get(self._strategies[i].id, 0.0), similarity[i]),
        )
        return RetrievedStrategy(self._strategies[best], float(similarity[best]))


def group_numbers(strategies: Sequence[Strategy], *, embed: Embed | None = None) -> list[int]:
    """The number of each strategy's group: near-duplicates in problem type and steps, and their near-duplicates."""
    vectors = method_vectors(strategies, embed=embed)
    groups = np.arange(len(strategies))
    for start in range(0, len(strategies), BLOCK):
        for alike in vectors[start : start + BLOCK] @ vectors.T >= SAME_GROUP:
            joined = np.unique(groups[alike])
            if len(joined) > 1:
                groups[np.isin(groups, joined)] = joined[0]
    return [int(group) for group in groups]


def method_vectors(strategies: Sequence[Strategy], *, embed: Embed | None = None) -> Vectors:
    """Unit vectors of what strategies do: their problem type and steps."""
    texts = [f"{strategy.problem_type} {' '.join(strategy.steps)}" for strategy in strategies]
    return _unit((embed or _Words(texts))(texts))


class _Words:
    """Texts as TF-IDF vectors over the words of a collection."""

    def __init__(self, collection: Sequence[str]) -> None:
        frequency = Counter(word for text in collection for word in set(_words(text)))
        words = [word for word, _ in frequency.most_common(MAX_WORDS)]
        self._column = {word: i for i, word in enumerate(words)}
        self._weight = [math.log((1 + len(collection)) / (1 + frequency[word])) + 1 for word in words]

    def __call__(self, texts: list[str]) -> Vectors:
        vectors = np.zeros((len(texts), max(1, len(self._column))), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word, count in Counter(_words(text)).items():
                if (column := self._column.get(word)) is not None:
                    row[column] = (1 + math.log(count)) * self._weight[column]
        return vectors


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


_COMMON_WORDS = """
    the and are for with that this from then than when which who how what each all any one two some there let find use
    using has have had not can will would does into out many much more she they his her their them was were you your our
    given such only other
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "es", "ed", "s")


def _words(text: str) -> list[str]:
    """The words that tell one kind of problem from another, without their endings; LaTeX commands are words."""
    return [_stem(word) for word in re.findall(r"\\?[a-z]{3,}", text.lower()) if word not in _COMMON]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
