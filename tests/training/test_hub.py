"""`push_to_hub` uploads the final model alone, and no key reaches a file or a message."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from sgpo import SGPOConfig
from sgpo.training.recipe import load_recipe
from tests.training.building import build_trainer

TO_HUB = {"push_to_hub": True, "hub_model_id": "me/mine", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture
def uploads(monkeypatch):
    """What is uploaded, in place of uploading it: `(repository, names of the files)`."""
    done = []

    def upload_folder(self, *, repo_id, folder_path, **options):
        folder = Path(folder_path)
        done.append((repo_id, sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())))

    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: types.SimpleNamespace(repo_id=name))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return done


def test_the_final_model_and_its_card_are_uploaded_once_and_nothing_else(tmp_path, tokenizer, uploads):
    run = tmp_path / "run"
    build_trainer(run, tokenizer, **TO_HUB).train()
    final = sorted(
        str(file.relative_to(run / "checkpoints" / "final")) for file in (run / "checkpoints/final").iterdir()
    )
    assert uploads == [("me/mine", final)]
    assert {"model.safetensors", "config.json", "README.md"} <= set(final)
    assert json.loads((run / "config.json").read_text())["algorithm"] == "sgpo"
    assert not (run / "model.safetensors").exists()


def test_an_upload_that_fails_names_the_model_and_the_mend(tmp_path, tokenizer, uploads, monkeypatch):
    def refuse(self, **options):
        raise HTTPError("no route to host")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    final = tmp_path / "run" / "checkpoints" / "final"
    with pytest.raises(OSError, match=rf"not uploaded \(no route to host\); hf upload me/mine {final}"):
        build_trainer(tmp_path / "run", tokenizer, **TO_HUB).train()
    assert (final / "README.md").exists()


def test_a_repository_that_cannot_be_made_is_found_before_training(tmp_path, tokenizer, monkeypatch):
    def refuse(self, name, **options):
        raise HTTPError("no route to host")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(OSError, match=r"no repository could be made \(no route to host\); log in"):
        build_trainer(tmp_path / "run", tokenizer, **TO_HUB)


def test_checkpoints_are_not_for_the_hub(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy must be one of end, got 'all_checkpoints'"):
        SGPOConfig(output_dir=str(tmp_path), hub_strategy="all_checkpoints")


@pytest.mark.parametrize("key", ["hub_token", "warmup.hub_token"])
@pytest.mark.parametrize("value", ["hf_SECRET", "[hf_SECRET"])
def test_a_key_is_refused_and_not_repeated(tmp_path, key, value):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{model: m, out: runs/x, problems: p.jsonl, warmup: {epochs: 1}}")
    with pytest.raises(ValueError, match="hub_token") as error:
        load_recipe(recipe, [f"{key}={value}"])
    assert "SECRET" not in str(error.value)


def test_a_key_is_refused_from_python_too(tmp_path):
    with pytest.raises(ValueError, match="give it in the environment, as HF_TOKEN"):
        SGPOConfig(output_dir=str(tmp_path), hub_token="hf_SECRET")
    with pytest.raises(ValueError, match="give it in the environment, as HF_TOKEN"):
        SGPOConfig(output_dir=str(tmp_path), model_init_kwargs={"token": "hf_SECRET"})


def test_a_warm_up_is_not_for_the_hub(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{model: m, out: runs/x, problems: p.jsonl, warmup: {push_to_hub: true}}")
    with pytest.raises(ValueError, match="push_to_hub is an option of train"):
        load_recipe(recipe)


def test_the_pad_token_is_no_key(tmp_path):
    assert SGPOConfig(output_dir=str(tmp_path), pad_token="<pad>").to_dict()["pad_token"] == "<pad>"
