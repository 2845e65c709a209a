"""Which weights a model's name stands for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from sgpo.rollouts.models import model_revision


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_hub_model_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """In a cache as the hub's library lays it out, of a model and of an adapter."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "models--owner--name", "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / file).write_text("{}")
    assert model_revision("owner/name") == commit
    with pytest.raises(ValueError, match="owner/other: no model that could be loaded"):
        model_revision("owner/other")


def test_a_directory_is_a_hash_of_what_is_loaded_from_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = model_revision(tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(b"of a checkpoint")
    (tmp_path / "README.md").write_text("a card")
    assert model_revision(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"weight5")
    assert model_revision(tmp_path) != before


def test_a_mistyped_name_is_refused_at_the_first_refused_connection(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its environment once."""
    no_hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from sgpo.rollouts.models import load_tokenizer; load_tokenizer('no/such')"]
    failed = subprocess.run(command, env=os.environ | no_hub, capture_output=True, text=True)
    assert "InputError: no/such: no such model directory, and the hub, where it might be, cannot be" in failed.stderr
    assert "Retrying" not in failed.stderr
