"""Scores of a policy on a set of problems, with intervals, and the comparison of runs."""
