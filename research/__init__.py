"""The study behind `docs/results`: a grid of methods and seeds on made puzzles, its results, and the pages about them.

It is no part of the package `sgpo`, nor of its wheel: `python -m research` runs it from a clone.
"""
