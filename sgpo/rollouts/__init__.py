"""Sampling the two groups of each problem, and the policy's log-probabilities of what was sampled."""
