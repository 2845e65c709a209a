"""Which training problems are problems of a benchmark.

Two problems with the same letters and digits are an *exact* match. Candidates for a *near* match share many n-grams of
characters, after spellings of LaTeX are made one; of them, a problem with the same numbers and the same answer is the
same problem in another notation. With other numbers, or another answer, it is a *variant* of the same template
("divided by 8", "divided by 9"): listed, but no contamination.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sgpo.problems import Problem
from sgpo.verifier import Verifier

NGRAM = 10  # characters
SIMILAR = 0.5  # Jaccard index of the n-grams, from which on a pair is a candidate
COMMON = 200  # benchmark problems that share an n-gram; one that more share says nothing

MatchKind = Literal["exact", "near", "variant"]


@dataclass(frozen=True, slots=True)
class ProblemMatch:
    """A training problem and the benchmark problem it is most like; `similarity` from 0 to 1."""

    train_id: str
    benchmark: str
    benchmark_id: str
    match: MatchKind
    similarity: float

    @property
    def contaminated(self) -> bool:
        return self.match != "variant"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_matches(
    train: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]], verifier: Verifier
) -> list[ProblemMatch]:
    """Every pair of a training and a benchmark problem that match, in the order of the training problems.

    Args:
        train: The training problems; one with an empty answer and the same numbers counts as near.
        benchmarks: The problems of each benchmark, by its name.
        verifier: Says whether two answers are the same.
    """
    against = [(name, problem) for name, problems in benchmarks.items() for problem in problems]
    grams = [_ngrams(normalized(problem.problem)) for _, problem in against]
    places: dict[str, list[int]] = defaultdict(list)
    for place, parts in enumerate(grams):
        for part in parts:
            places[part].append(place)
    bare = defaultdict(list)
    for place, (_, problem) in enumerate(against):
        bare[_bare(problem.problem)].append(place)

    # Exact matches, then candidates by shared n-grams; a candidate's kind is None until its answer is compared.
    found: list[tuple[Problem, int, float, MatchKind | None]] = []
    for problem in train:
        exact = set(bare.get(_bare(problem.problem), ()))
        found += [(problem, place, 1.0, "exact") for place in sorted(exact)]
        own = _ngrams(normalized(problem.problem))
        shared: Counter[int] = Counter()
        for part in own:
            if len(there := places.get(part, ())) <= COMMON:
                shared.update(there)
        for place in sorted(shared):
            if 2 * shared[place] < SIMILAR * min(len(own), len(grams[place])) or place in exact:
                continue
            similarity = len(own & grams[place]) / len(own | grams[place])
            if similarity >= SIMILAR:
                same = numbers(problem.problem) == numbers(against[place][1].problem)
                found.append((problem, place, similarity, None if same else "variant"))
    undecided = [(problem, against[place][1]) for problem, place, _, kind in found if kind is None]
    verdicts = iter(verifier.verify_many([(f"\\boxed{{{problem.answer}}}", gold) for problem, gold in undecided]))
    return [
        ProblemMatch(
            problem.id,
            against[place][0],
            against[place][1].id,
            kind or ("near" if next(verdicts).correct or not problem.answer else "variant"),
            round(similarity, 3),
        )
        for problem, place, similarity, kind in found
    ]


def numbers(text: str) -> Counter[str]:
    """The numbers of a problem and how often each occurs: `1,000` is `1000`. Those of a drawing, and of a list whose
    items are called (1), (2), are left out."""
    text = re.sub(r"(?<!\S)\(\d\)(?=\s)", " ", _without_drawings(text))
    text = re.sub(r"(?<=\d)(?:,|\{,\}|\\!|,\\!)+(?=\d{3}\b)", "", text)
    return Counter(match.lstrip("0") or "0" for match in re.findall(r"\d+", text))


def normalized(text: str) -> str:
    """The letters and digits of a problem, LaTeX that only says how it looks left out, different spellings made one."""
    text = _without_drawings(text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return _bare(text)


def _ngrams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + NGRAM] for i in range(max(1, len(text) - NGRAM + 1)))


def _bare(text: str) -> str:
    """The letters and digits. Relations are LaTeX words and stay, + and - do not."""
    return "".join(character for character in text.lower() if character.isalnum())


def _without_drawings(text: str) -> str:
    return re.sub(r"\[asy\].*?\[/asy\]", " ", text, flags=re.DOTALL)


_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|quad|qquad|text|textbf|textit|mathrm|mbox|rm|bf|it)(?![a-zA-Z])",
            " ",
        ),
        (r"\\(?:begin|end)\{[a-z*]+\}", " "),
        (r"\\[cl]?dots[cbmio]?(?![a-zA-Z])", r"\\dots "),
        (r"\\(?:leqslant|leq|le)(?![a-zA-Z])", r"\\le "),
        (r"\\(?:geqslant|geq|ge)(?![a-zA-Z])", r"\\ge "),
        (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\(?:triangle|bigtriangleup|Delta)(?![a-zA-Z])", r"\\triangle "),
    )
]
