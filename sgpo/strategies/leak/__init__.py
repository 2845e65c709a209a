"""The leak gate: what a strategy gives away of its problem, found by program."""
