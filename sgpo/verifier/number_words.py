"""The words of numbers, for whatever reads them: answers (`quantity`) and the leak gate's texts (`sgpo.strategies`)."""

from __future__ import annotations

_ONES = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"

SMALL = {word: value for value, word in enumerate(f"{_ONES} {_TEENS}".split())}
SMALL |= {word: 10 * ten for ten, word in enumerate(_TENS.split(), 2)}
LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLES = LARGE | {"dozen": 12}
