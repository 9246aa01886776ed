"""Tiny checkpoints on disk, and copies of the shipped bases with tensors changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from tiny_models import save

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.content import resolve_model


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A model, saved under a name and opened."""
    return lambda model, name: Checkpoint.open(save(model, tmp_path / name))


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A copy of a folder whose tensors a function changed."""

    def make(folder: Path | str, name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Checkpoint:
        target = tmp_path / name
        shutil.copytree(folder, target)
        save_file(change(load_file(target / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
        return Checkpoint.open(target)

    return make


@pytest.fixture
def embedded() -> Callable[[str], Checkpoint]:
    return lambda family: Checkpoint.open(resolve_model(f"embedded:{family}"))
