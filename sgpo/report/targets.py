"""Selected targets: a few to read, token by token, and where in all of them the divergence lies.

The page shows `MAX_TARGETS` targets per run, spread evenly over training (at each moment the one with the largest mean
divergence), and at most `MAX_TOKENS` tokens of each. Sums are over every target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgpo.report.completions import HEAD, TAIL
from sgpo.report.read import RunRecord, number_of, read_steps, shorten, text_of

MAX_TARGETS = 12
MAX_TOKENS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetToken:
    """A token of a target: its text, its divergence in nats before clipping, and how strongly it is shaded (0 to 1).

    Leading spaces are apart, since they are not shaded. `clipped` says whether the divergence is above the clip.
    """

    space: str
    text: str
    divergence: float
    shade: float
    clipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCard:
    """A target as the page shows it; `left_out` counts the tokens that it does not show."""

    step: int
    problem_id: str
    strategy_id: str
    weight: float | None
    guided_pass_rate: float | None
    autonomous_pass_rate: float | None
    prompt: str
    tokens: list[TargetToken]
    left_out: int
    mean_divergence: float
    kl_clip: float


@dataclass(slots=True)
class TargetSummary:
    """The result of one pass over a run's targets: sums over all of them, and those to show."""

    count: int = 0
    tokens: int = 0
    clipped_tokens: int = 0
    divergence: float = 0.0
    clipped_divergence: float = 0.0
    shown: list[TargetCard] = field(default_factory=list)


def read_targets(run: RunRecord, *, max_targets: int = MAX_TARGETS) -> TargetSummary:
    """Read `targets/` once, a step at a time; keep at most `max_targets` to show."""
    found = TargetSummary()
    best: list[TargetCard] = []  # of each step the target with the largest mean divergence
    for step, step_rows in read_steps(run, "targets"):
        targets = [target for row in step_rows if (target := _read_target(step, row, found)) is not None]
        if targets:
            best.append(max(targets, key=lambda target: target.mean_divergence))
    # Spread evenly: the first and the last step with a target are always among them.
    count = min(max_targets, len(best))
    found.shown = [best[round(index * (len(best) - 1) / max(count - 1, 1))] for index in range(count)]
    return found


def _read_target(step: int, row: Mapping[str, Any], found: TargetSummary) -> TargetCard | None:
    """The target of a row, counted into `found`; None where the row holds none."""
    texts, values = row.get("tokens"), row.get("divergences")
    if not isinstance(texts, list) or not isinstance(values, list) or not texts:
        return None
    kl_clip = number_of(row, "kl_clip")
    # Without a clip, shading needs a scale all the same: one nat.
    clip = kl_clip if kl_clip and kl_clip > 0 else 1.0
    divergences = [number_of({"value": value}, "value") or 0.0 for value in values[: len(texts)]]
    if not divergences:
        return None
    # Sums are over all tokens; the card shows the first of them.
    found.count += 1
    found.tokens += len(divergences)
    found.divergence += sum(divergences)
    if kl_clip is not None:
        found.clipped_tokens += sum(value > clip for value in divergences)
        found.clipped_divergence += sum(value for value in divergences if value > clip)
    tokens = [
        TargetToken(
            space=space if index else "",  # many tokenizers put a space before the first
            text=text,
            divergence=value,
            shade=_shade(value, clip),
            clipped=kl_clip is not None and value > clip,
        )
        for index, ((space, text), value) in enumerate(
            zip(map(_split_spaces, texts[:MAX_TOKENS]), divergences, strict=False)
        )
    ]
    return TargetCard(
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
        kl_clip=clip,
    )


def _split_spaces(token: Any) -> tuple[str, str]:
    """Leading spaces and the rest; a token of white space alone is all rest, its line feeds shown."""
    text = str(token)
    if not text.strip():
        return "", text.replace("\n", "↵\n") or "∅"
    rest = text.lstrip(" ")
    return text[: len(text) - len(rest)], rest


def _shade(divergence: float, kl_clip: float) -> float:
    """How strongly a token is shaded: half at the clip, all at infinity."""
    return max(divergence, 0.0) / (max(divergence, 0.0) + kl_clip)
