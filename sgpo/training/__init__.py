"""The trainer on `transformers.Trainer`, its configuration, its warm-up, and the run directory it writes."""
