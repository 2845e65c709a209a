from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import make_run

from sgpo.report import write_report


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same problems; treat them as read-only."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / "grpo", algorithm="grpo", seed=1, gain=0.2),
        make_run(folder / "sgpo", algorithm="sgpo", seed=2, gain=0.6),
    ]


@pytest.fixture(scope="session")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report") / "report.html")
