"""Selected targets: a few to read, token by token, and where in all of them the divergence lies.

Of all targets the page shows `MAX_TARGETS` per run, spread evenly over training (at each moment the one with the
largest mean divergence), and of each at most `MAX_TOKENS` tokens. The shares are over every target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgpo.report.completions import HEAD, TAIL
from sgpo.report.read import Run, number_of, rows, shorten, text_of

MAX_TARGETS = 12
MAX_TOKENS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a target: its text (leading spaces, which are not shaded, apart), its uncapped divergence in nats, and
    how strongly it is shaded (0 to 1)."""

    space: str
    text: str
    divergence: float
    shade: float
    capped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target as the page shows it."""

    step: int
    problem_id: str
    strategy_id: str
    weight: float | None
    guided_pass_rate: float | None
    autonomous_pass_rate: float | None
    prompt: str
    tokens: list[Token]
    left_out: int
    mean_divergence: float
    kl_clip: float


@dataclass(slots=True)
class Targets:
    """What one pass over a run's targets found."""

    count: int = 0
    tokens: int = 0
    capped_tokens: int = 0
    divergence: float = 0.0
    capped_divergence: float = 0.0
    shown: list[Target] = field(default_factory=list)


def read_targets(run: Run, *, max_targets: int = MAX_TARGETS) -> Targets:
    """Read `targets/` once, a step at a time."""
    found = Targets()
    best: list[Target] = []  # of each step the target with the largest mean divergence
    for step, step_rows in rows(run, "targets"):
        targets = [target for row in step_rows if (target := _target(step, row, found)) is not None]
        if targets:
            best.append(max(targets, key=lambda target: target.mean_divergence))
    count = min(max_targets, len(best))
    # The first and the last step with a target are always among them.
    found.shown = [best[round(index * (len(best) - 1) / max(count - 1, 1))] for index in range(count)]
    return found


def shade(divergence: float, kl_clip: float) -> float:
    """How strongly a token is shaded: half at the cap, all at infinity."""
    return max(divergence, 0.0) / (max(divergence, 0.0) + kl_clip)


def _split(token: Any) -> tuple[str, str]:
    """Leading spaces and the rest; a token of nothing but white space is all rest, its line feeds shown."""
    text = str(token)
    if not text.strip():
        return "", text.replace("\n", "↵\n") or "∅"
    rest = text.lstrip(" ")
    return text[: len(text) - len(rest)], rest


def _target(step: int, row: Mapping[str, Any], found: Targets) -> Target | None:
    texts, values = row.get("tokens"), row.get("divergences")
    if not isinstance(texts, list) or not isinstance(values, list) or not texts:
        return None
    kl_clip = number_of(row, "kl_clip")
    cap = kl_clip if kl_clip and kl_clip > 0 else 1.0
    divergences = [number_of({"value": value}, "value") or 0.0 for value in values[: len(texts)]]
    if not divergences:
        return None
    found.count += 1
    found.tokens += len(divergences)
    found.divergence += sum(divergences)
    if kl_clip is not None:
        found.capped_tokens += sum(value > cap for value in divergences)
        found.capped_divergence += sum(value for value in divergences if value > cap)
    tokens = [
        Token(
            space=space if index else "",  # many tokenizers put a space before the first
            text=text,
            divergence=value,
            shade=shade(value, cap),
            capped=kl_clip is not None and value > cap,
        )
        for index, ((space, text), value) in enumerate(zip(map(_split, texts[:MAX_TOKENS]), divergences, strict=False))
    ]
    return Target(
        step=step,
        problem_id=text_of(row, "problem_id"),
        strategy_id=text_of(row, "strategy_id"),
        weight=number_of(row, "weight"),
        guided_pass_rate=number_of(row, "guided_pass_rate"),
        autonomous_pass_rate=number_of(row, "autonomous_pass_rate"),
        prompt=shorten(text_of(row, "prompt").lstrip(" "), head=HEAD, tail=TAIL),
        tokens=tokens,
        left_out=len(divergences) - len(tokens),
        mean_divergence=sum(divergences) / len(divergences),
        kl_clip=cap,
    )
