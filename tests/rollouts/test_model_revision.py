"""Which weights a model's name stands for."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from sgpo.rollouts.policy import model_revision


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
