"""From a run's adapters to whole weights: the model and its adapters become one model, which anything can serve."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from sgpo.errors import InputError
from sgpo.io import named
from sgpo.rollouts.models import is_adapter, is_quantized, load_policy, resolve_model
from sgpo.training.run_directory import MANIFEST, STATE

Dtype = Literal["float32", "bfloat16", "float16"]

# What lies beside adapters and belongs to the whole model too: tokenizer, chat template, the prompts of training.
SIDE_FILES = {".json", ".jinja", ".model", ".txt"}
OF_THE_ADAPTER = {"adapter_config.json", MANIFEST, STATE}
CARD = "README.md"


def merge_adapters(name: str | Path, out: Path, *, dtype: Dtype = "float32") -> None:
    """Merge the adapters of a run, or of a checkpoint, into the weights below them, and save the whole model.

    It has the tokenizer and chat template of training, and the run's model card. It appears at `out` once it is whole.

    Args:
        name: A run directory, or a checkpoint with adapters.
        out: The directory to make.
        dtype: The type of the saved weights. They are merged in float32.

    Raises:
        InputError: `out` exists, or its parent does not; there are no adapters here, or some that cannot be merged
            (`check_adapters`); the weights below them are quantized.
        OSError: the model cannot be written.
    """
    if out.exists():
        raise InputError(f"{out}: exists already, and nothing is written over; choose another directory")
    if not out.parent.is_dir():
        raise InputError(f"{out}: no such directory {out.parent}")
    source = Path(resolve_model(name))
    if not is_adapter(source):
        raise InputError(f"{name}: no adapters here to merge; {source} is a whole model already")
    model = load_policy(source)
    if is_quantized(model):
        raise InputError(f"{name}: the base of these adapters was saved in 4 or 8 bits, where merging would round them")
    with named(out), TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as staging:
        merged = Path(staging) / out.name
        model.to(getattr(torch, dtype)).save_pretrained(merged)
        for file in source.iterdir():
            beside = file.suffix in SIDE_FILES and file.name not in OF_THE_ADAPTER
            # In a checkpoint the card is PEFT's, of the adapters alone.
            if beside or (file.name == CARD and source.name == "final"):
                shutil.copy(file, merged)
        merged.rename(out)
