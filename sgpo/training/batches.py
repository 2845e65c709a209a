"""Batches by tokens instead of by rows: the memory of a forward follows the budget, not the longest group."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The rows' indices in batches whose padded size, rows x the longest of them, is at most `max_tokens`.

    A row longer than that is a batch of its own. Rows of like length share a batch, so little of it is padding; the
    longest come first, so that what does not fit in memory fails at once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
