"""Runs of older releases: `data/run-0.1` is a run of `sgpo quickstart` by 0.1, cut down to a few rows and problems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from sgpo.cli import app
from sgpo.io import RENAMED_COUNTS, RENAMED_METRICS
from sgpo.report.read import read_run, series

OLD_RUN = Path(__file__).parent / "data" / "run-0.1"


def test_the_data_has_the_old_names() -> None:
    logged = (OLD_RUN / "metrics.jsonl").read_text(encoding="utf-8")
    counts = json.loads((OLD_RUN / "config.json").read_text(encoding="utf-8"))["problems"]
    for old, new in RENAMED_METRICS.items():
        assert f'"{old}"' in logged
        assert f'"{new}"' not in logged
    assert counts.keys() >= RENAMED_COUNTS.keys()


def test_metrics_of_an_old_run_are_read_under_their_new_names() -> None:
    run = read_run(OLD_RUN, "old")
    assert run.notes == []
    for old, new in RENAMED_METRICS.items():
        assert series(run.metrics, old) == []
        assert len(series(run.metrics, new)) == 14
    assert series(run.metrics, "divergence/clipped_mean")[0] == (1, 0.09948496587814823)
    assert run.config["problems"] == {"problems": 2400, "too_long": 0, "global_batch": 16}


def test_a_size_of_the_global_batch_under_its_new_name_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"problems": {"problems": 6, "global_batch": 5}}')
    assert read_run(tmp_path, "new").config["problems"] == {"problems": 6, "global_batch": 5}


def test_an_old_run_has_its_report(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(OLD_RUN), "--out", str(tmp_path / "report.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Clipped tokens" in page
    assert "2,400 problems · 0 too long · 16 global batch" in page
    assert "Not logged by any of these runs" not in page
    assert "could not be read" not in page


def test_old_runs_are_compared(tmp_path: Path) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "copy")
    done = CliRunner().invoke(app, ["compare", str(OLD_RUN), str(tmp_path / "copy"), "--json"])
    assert done.exit_code == 0, done.output
    evaluations = json.loads(done.stdout)["evaluations"]
    assert [(one["name"], one["problems"], one["budget"]) for one in evaluations] == [
        ("fresh", 10, 23040),
        ("untouched", 10, 23040),
    ]
    assert all(one["differences"][0]["final"]["mean"] == 0 for one in evaluations)
