"""A study: a grid of arms, warm-ups and seeds on the benchmark for strategies, and the page that says what came out."""
