"""Batches by tokens instead of by rows: the memory of a forward follows the budget, not the longest group."""

from __future__ import annotations

from collections.abc import Sequence

# A batch ends where rows get shorter than this part of its longest: on a CPU padding costs more than another forward
# (docs/results/performance.md), and a large batch on a GPU has enough to do in any case.
LEAST_FILLED = 0.75


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The rows' indices in batches whose padded size, rows x the longest of them, is at most `max_tokens`.

    A row longer than that is a batch of its own. Rows of like length share a batch, so at most a quarter of it is
    padding; the longest come first, so that what does not fit in memory fails at once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= max_tokens and lengths[i] >= LEAST_FILLED * longest:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
