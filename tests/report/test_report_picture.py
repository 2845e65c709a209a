from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sgpo.report import save_picture


def test_a_picture_of_the_learning_curves(runs: list[Path], tmp_path: Path) -> None:
    data = save_picture(runs, tmp_path / "new" / "curves.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1440, 760)


def test_the_picture_names_its_runs_and_axes(runs: list[Path], tmp_path: Path) -> None:
    svg = save_picture(runs, tmp_path / "curves.svg").read_text(encoding="utf-8")
    for text in ("grpo", "sgpo", "avg@4 on fresh", "completions sampled"):
        assert f">{text}</text>" in svg


def test_an_evaluation_that_no_run_has_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the runs was evaluated on 'other'"):
        save_picture(runs, tmp_path / "curves.png", name="other")
    assert not (tmp_path / "curves.png").exists()
