"""One pass over a run's rollouts: verdict counts, passes with and without strategies, and completions to read.

**What is embedded, and what is left out** (the page says so too). Counts and pass rates are over every row. The page
holds a sample of the completions: per run at most `MAX_PROBLEMS` problems, chosen by a hash of their id so that runs
over the same problems show the same ones; the first and the last visit of each problem in training; and at most
`HEAD + TAIL` characters of each completion, its beginning and its end. Equal completions are held once, with their
number. Whatever then exceeds `MAX_BYTES` for the whole page is left out, problem by problem.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.report.read import RunRecord, count_of, number_of, read_evaluation_rows, read_steps, shorten, text_of

MAX_PROBLEMS = 1000
MAX_BYTES = 14_000_000
HEAD, TAIL = 2500, 1500
VERDICTS = ("correct", "wrong", "unparsed", "timeout")


@dataclass(slots=True)
class Tally:
    """Counts of guided and autonomous completions of the same problems and steps, and of those that passed."""

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


@dataclass(frozen=True, slots=True)
class ProblemPrompts:
    """The prompts of one problem to the character; `guided` may be empty.

    They are `rendered` with the chat template, as the model gets them, where the run says so; else as in `rollouts/`.
    """

    problem_id: str
    autonomous: str
    guided: str
    rendered: bool = False


@dataclass(slots=True)
class RolloutSummary:
    """The result of one pass over a run's rollouts.

    `shown_prompts` are those that the run's `config.json` has, else those of the first problem that was sampled with
    its strategy, else of the first one.
    `strategies` and `families` hold a tally for each of their problems: `{"clues": {"clues-7": Tally(...)}}`.
    """

    rows: int = 0
    problems: int = 0
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    strategies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    families: dict[str, dict[str, Tally]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    family_of_strategy: dict[str, str] = field(default_factory=dict)
    shown_prompts: ProblemPrompts | None = None
    cards: list[ProblemCard] = field(default_factory=list)


def read_completions(run: RunRecord, *, max_problems: int = MAX_PROBLEMS) -> RolloutSummary:
    """Read `rollouts/` once, a step at a time; keep at most `max_problems` problems to read."""
    found = RolloutSummary(shown_prompts=_rendered_prompts(run))
    sample = _ProblemSample(max_problems)
    for step, step_rows in read_steps(run, "rollouts"):
        for problem_id, group in _by_problem(step_rows).items():
            _count(found, problem_id, group)
            shown = found.shown_prompts
            if shown is None or not (shown.guided or shown.rendered):
                autonomous, guided = (_prompt(group, guided=guided) for guided in (False, True))
                prompts = ProblemPrompts(problem_id, autonomous, guided)
                found.shown_prompts = prompts if prompts.guided or found.shown_prompts is None else found.shown_prompts
            card = sample.find_card(
                problem_id, next((text_of(row, "subject") for row in group if row.get("subject")), "")
            )
            if card is not None:
                _add_visit(card, step, group)
    found.problems, found.cards = len(sample.seen), sample.list_cards()
    return found


def _rendered_prompts(run: RunRecord) -> ProblemPrompts | None:
    rendered = run.config.get("rendered_prompts")
    if not isinstance(rendered, dict) or not text_of(rendered, "autonomous"):
        return None
    problem_id, autonomous, guided = (text_of(rendered, name) for name in ("problem_id", "autonomous", "guided"))
    return ProblemPrompts(problem_id, autonomous, guided, rendered=True)


def read_evaluation_cards(run: RunRecord, name: str, *, max_problems: int = MAX_PROBLEMS) -> list[ProblemCard]:
    """Read the completions of the first and the last evaluation of that name, as cards; all prompts are autonomous."""
    evaluations = [evaluation for evaluation in run.evaluations if evaluation.name == name]
    sample = _ProblemSample(max_problems)
    for evaluation in evaluations[:1] + evaluations[1:][-1:]:
        for problem_id, group in _by_problem(read_evaluation_rows(run, evaluation)).items():
            card = sample.find_card(problem_id, text_of(group[0], "subject"))
            if card is not None:
                _add_visit(card, evaluation.step, group)
    return sample.list_cards()


def encode_cards(sources: Sequence[Sequence[ProblemCard]], *, max_bytes: int = MAX_BYTES) -> list[list[str]]:
    """Encode each source's cards as JSON texts, as many as fit into `max_bytes` of UTF-8 over all sources.

    Every source gets an equal part; the bytes that a small one does not need go to the others.
    """
    texts = [
        [json.dumps(_encode_card(card), ensure_ascii=False, separators=(",", ":")) for card in cards]
        for cards in sources
    ]
    sizes = [[len(text.encode("utf-8")) + 1 for text in source] for source in texts]
    held: list[list[str]] = [[] for _ in texts]
    left = max_bytes
    # The smallest source first: what it does not need is there for those that follow.
    by_size = sorted(range(len(texts)), key=lambda index: sum(sizes[index]))
    for position, index in enumerate(by_size):
        room = left // (len(by_size) - position)
        for text, size in zip(texts[index], sizes[index], strict=True):
            if size > room:
                break
            held[index].append(text)
            room -= size
            left -= size
    return held


def passed(row: Mapping[str, Any]) -> bool:
    """Whether a completion counts as right: by its verdict or, where it has none, by a reward above one half."""
    if row.get("verdict") is not None:
        return row["verdict"] == "correct"
    return (number_of(row, "reward") or 0.0) > 0.5


def _is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a completion counts in pass rates, as in training: it does not where its judging timed out."""
    if row.get("verdict") is not None:
        return row["verdict"] != "timeout"
    return number_of(row, "reward") is not None


class _ProblemSample:
    """The `limit` problems whose ids hash lowest.

    A problem that is dropped never comes back, so those that stay have every visit.
    """

    def __init__(self, limit: int) -> None:
        self.seen: set[str] = set()
        self._limit = limit
        self._cards: dict[str, ProblemCard] = {}
        self._heap: list[tuple[int, str]] = []  # highest hash first

    def find_card(self, problem_id: str, family: str) -> ProblemCard | None:
        """The card of a problem, which is made when first seen; None where the problem is not in the sample."""
        if problem_id not in self.seen:
            self.seen.add(problem_id)
            self._cards[problem_id] = ProblemCard(problem_id, family)
            heapq.heappush(self._heap, (-_rank(problem_id), problem_id))
            if len(self._heap) > self._limit:
                del self._cards[heapq.heappop(self._heap)[1]]
        return self._cards.get(problem_id)

    def list_cards(self) -> list[ProblemCard]:
        """The cards in the order of their hash: any beginning of the list is a fair sample too."""
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


def _count(found: RolloutSummary, problem_id: str, group: Sequence[dict[str, Any]]) -> None:
    """Count the completions of one problem at one step."""
    found.rows += len(group)
    for row in group:
        name = "guided" if _is_guided(row) else "autonomous"
        found.verdicts.setdefault(name, Counter())[text_of(row, "verdict") or "no verdict"] += 1
    # A strategy is set against the autonomous completions of the same problem at the same step.
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


def _add_visit(card: ProblemCard, step: int, group: Sequence[dict[str, Any]]) -> None:
    """Add a visit to the card, which keeps the first and the latest."""
    visit = {
        "step": step,
        "prompt": _prompt(group, guided=False).lstrip(" "),
        "guided_prompt": _prompt(group, guided=True).lstrip(" "),
        "rows": list(_merge_equal(group)),
    }
    del card.visits[1:]
    card.visits.append(visit)


def _prompt(group: Iterable[Mapping[str, Any]], *, guided: bool) -> str:
    """The prompt of the group's autonomous or guided completions; empty where it has none."""
    return next((text_of(row, "prompt") for row in group if _is_guided(row) == guided), "")


def _merge_equal(group: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Equal completions once, with their number; by group and, within it, by verdict."""
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


def _encode_card(card: ProblemCard) -> dict[str, Any]:
    """A card as the page's script reads it: short keys and no defaults, for tens of thousands of completions."""
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
