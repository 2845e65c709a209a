"""One pass over a run's rollouts: verdict counts, what each strategy is worth, and a sample of completions to read.

**What is embedded, and what is left out** (the page says so too). All counts and pass rates are over every row. Of the
completions themselves the page holds, per run, those of at most `MAX_PROBLEMS` problems, chosen by a hash of their id
so that runs over the same problems show the same ones; of each problem its first and its last visit in training; of
each completion at most `HEAD + TAIL` characters, its beginning and its end. Completions that are alike word for word
are held once, with their number. Whatever then exceeds `MAX_BYTES` for the whole page is left out, problem by problem.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.report.read import Run, count_of, evaluation_rows, number_of, rows, shorten, text_of

MAX_PROBLEMS = 1000
MAX_BYTES = 14_000_000
HEAD, TAIL = 2500, 1500
VERDICTS = ("correct", "wrong", "unparsed", "timeout")


@dataclass(slots=True)
class Tally:
    """Guided and autonomous completions of the same problems and steps: how many there were, how many passed."""

    guided: int = 0
    guided_passed: int = 0
    autonomous: int = 0
    autonomous_passed: int = 0

    def add(self, autonomous: Sequence[bool], guided: Sequence[bool]) -> None:
        self.autonomous += len(autonomous)
        self.autonomous_passed += sum(autonomous)
        self.guided += len(guided)
        self.guided_passed += sum(guided)


@dataclass(slots=True)
class ProblemCard:
    """One problem. `visits` are the first and the last: `{"step", "prompt", "guided_prompt", "rows"}`."""

    problem_id: str
    family: str
    visits: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Completions:
    """What one pass over a run's rollouts found.

    `strategies` and `families` hold a tally for each of their problems: `{"clues": {"clues-7": Tally(...)}}`.
    """

    rows: int = 0
    problems: int = 0
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    strategies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    families: dict[str, dict[str, Tally]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    family_of_strategy: dict[str, str] = field(default_factory=dict)
    cards: list[ProblemCard] = field(default_factory=list)


def read_completions(run: Run, *, max_problems: int = MAX_PROBLEMS) -> Completions:
    """Read `rollouts/` once, a step at a time."""
    found = Completions()
    sample = _Sample(max_problems)
    for step, step_rows in rows(run, "rollouts"):
        for problem_id, group in _by_problem(step_rows).items():
            _count(found, problem_id, group)
            card = sample.card(problem_id, next((text_of(row, "subject") for row in group if row.get("subject")), ""))
            if card is not None:
                _visit(card, step, group)
    found.problems, found.cards = len(sample.seen), sample.cards()
    return found


def read_evaluation_cards(run: Run, name: str, *, max_problems: int = MAX_PROBLEMS) -> list[ProblemCard]:
    """The completions of the first and last evaluation of that name, as cards. They all have the plain prompt."""
    evaluations = [evaluation for evaluation in run.evaluations if evaluation.name == name]
    sample = _Sample(max_problems)
    for evaluation in evaluations[:1] + evaluations[1:][-1:]:
        for problem_id, group in _by_problem(evaluation_rows(run, evaluation)).items():
            card = sample.card(problem_id, text_of(group[0], "subject"))
            if card is not None:
                _visit(card, evaluation.step, group)
    return sample.cards()


def encode_cards(sources: Sequence[Sequence[ProblemCard]], *, max_bytes: int = MAX_BYTES) -> list[list[str]]:
    """Each source's cards as JSON texts, as many as fit into `max_bytes` of UTF-8 over all sources.

    Every source gets an equal share; what a small one does not need goes to the others.
    """
    texts = [
        [json.dumps(_card_json(card), ensure_ascii=False, separators=(",", ":")) for card in cards] for cards in sources
    ]
    sizes = [[len(text.encode("utf-8")) + 1 for text in source] for source in texts]
    kept: list[list[str]] = [[] for _ in texts]
    left = max_bytes
    by_size = sorted(range(len(texts)), key=lambda index: sum(sizes[index]))
    for position, index in enumerate(by_size):
        room = left // (len(by_size) - position)
        for text, size in zip(texts[index], sizes[index], strict=True):
            if size > room:
                break
            kept[index].append(text)
            room -= size
            left -= size
    return kept


def passed(row: Mapping[str, Any]) -> bool:
    """Whether a completion counts as right: by its verdict or, without one, by a reward above one half."""
    if row.get("verdict") is not None:
        return row["verdict"] == "correct"
    return (number_of(row, "reward") or 0.0) > 0.5


def _is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a completion takes part in pass rates, as in training: one whose judging timed out does not."""
    if row.get("verdict") is not None:
        return row["verdict"] != "timeout"
    return number_of(row, "reward") is not None


class _Sample:
    """The `limit` problems whose ids hash lowest. A problem once dropped never comes back, so every visit is held."""

    def __init__(self, limit: int) -> None:
        self.seen: set[str] = set()
        self._limit = limit
        self._cards: dict[str, ProblemCard] = {}
        self._heap: list[tuple[int, str]] = []  # highest hash first

    def card(self, problem_id: str, family: str) -> ProblemCard | None:
        if problem_id not in self.seen:
            self.seen.add(problem_id)
            self._cards[problem_id] = ProblemCard(problem_id, family)
            heapq.heappush(self._heap, (-_rank(problem_id), problem_id))
            if len(self._heap) > self._limit:
                del self._cards[heapq.heappop(self._heap)[1]]
        return self._cards.get(problem_id)

    def cards(self) -> list[ProblemCard]:
        """In order of the hash: any beginning of the list is a fair sample too."""
        return [self._cards[problem_id] for _, problem_id in sorted(self._heap, reverse=True)]


def _rank(problem_id: str) -> int:
    return int.from_bytes(hashlib.sha256(problem_id.encode("utf-8")).digest()[:8])


def _by_problem(step_rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in step_rows:
        groups.setdefault(text_of(row, "problem_id"), []).append(row)
    return groups


def _is_guided(row: Mapping[str, Any]) -> bool:
    return row.get("group") == "guided"


def _count(found: Completions, problem_id: str, group: Sequence[dict[str, Any]]) -> None:
    """Count the completions of one problem at one step."""
    found.rows += len(group)
    for row in group:
        name = "guided" if _is_guided(row) else "autonomous"
        found.verdicts.setdefault(name, Counter())[text_of(row, "verdict") or "no verdict"] += 1
    judged = list(filter(_is_judged, group))
    autonomous = [passed(row) for row in judged if not _is_guided(row)]
    by_strategy: dict[str, list[bool]] = {}
    for row in filter(_is_guided, judged):
        strategy_id = text_of(row, "strategy_id")
        by_strategy.setdefault(strategy_id, []).append(passed(row))
        found.prompts.setdefault(strategy_id, text_of(row, "prompt").lstrip(" "))
        found.family_of_strategy.setdefault(strategy_id, text_of(row, "subject"))
    for strategy_id, guided in by_strategy.items():
        family = found.family_of_strategy[strategy_id]
        for tallies in (found.strategies.setdefault(strategy_id, {}), found.families.setdefault(family, {})):
            tallies.setdefault(problem_id, Tally()).add(autonomous, guided)


def _visit(card: ProblemCard, step: int, group: Sequence[dict[str, Any]]) -> None:
    """Add a visit to the card; of more than two, the first and the latest stay."""
    visit = {
        "step": step,
        "prompt": next((text_of(row, "prompt").lstrip(" ") for row in group if not _is_guided(row)), ""),
        "guided_prompt": next((text_of(row, "prompt").lstrip(" ") for row in group if _is_guided(row)), ""),
        "rows": list(_distinct(group)),
    }
    del card.visits[1:]
    card.visits.append(visit)


def _distinct(group: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in group:
        guided, verdict, text = _is_guided(row), text_of(row, "verdict"), text_of(row, "completion").lstrip(" ")
        key = (guided, verdict, text, row.get("truncated") is True)
        if key in merged:
            merged[key]["count"] += 1
            continue
        merged[key] = {
            "group": "guided" if guided else "autonomous",
            "verdict": verdict or "no verdict",
            "text": shorten(text, head=HEAD, tail=TAIL),
            "extracted": shorten(text_of(row, "extracted"), head=200, tail=0),
            "tokens": count_of(row, "tokens"),
            "truncated": row.get("truncated") is True,
            "reward": number_of(row, "reward"),
            "count": 1,
        }
    order = {verdict: number for number, verdict in enumerate(VERDICTS)}
    yield from sorted(merged.values(), key=lambda row: (row["group"], order.get(row["verdict"], len(order))))


def _card_json(card: ProblemCard) -> dict[str, Any]:
    """Short keys and no defaults: there are tens of thousands of completions."""
    visits = []
    for visit in card.visits:
        completions = []
        for row in visit["rows"]:
            short = {"g": row["group"][0], "v": row["verdict"], "t": row["text"]}
            optional = {"x": row["extracted"], "n": row["tokens"], "c": row["truncated"], "k": row["count"]}
            short |= {key: value for key, value in optional.items() if value and value != 1}
            if row["verdict"] == "no verdict" and row["reward"] is not None:
                short["r"] = row["reward"]
            completions.append(short)
        visits.append({"step": visit["step"], "rows": completions})
    last = card.visits[-1]
    prompts = {
        "p": shorten(last["prompt"], head=HEAD, tail=TAIL),
        "s": shorten(last["guided_prompt"], head=HEAD, tail=TAIL),
    }
    return {"id": card.problem_id, "f": card.family, **prompts, "visits": visits}
