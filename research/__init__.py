"""The study: a grid of methods and seeds on made puzzles, and the pages about it. Not part of the package."""
