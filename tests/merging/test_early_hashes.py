"""Hashes begun before the merge are those that the merge would take, and never in its way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import fine_tuned, save, tiny_model

from asrmerge import early_hashes as module
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.early_hashes import early_hashes
from asrmerge.merging import Recipe, merge_to_folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("early")
    save(tiny_model("ctc"), root / "base")
    save(fine_tuned("ctc", 1), root / "whole")
    save(fine_tuned("ctc", 2), root / "sharded", max_shard_size="2KB")
    experts = [{"name": name, "model": str(root / name)} for name in ("whole", "sharded")]
    content = {"method": "task_arithmetic", "base": str(root / "base"), "experts": experts}
    (root / "recipe.yaml").write_text(json.dumps(content))
    return root / "recipe.yaml"


def test_they_are_the_checkpoints_own(recipe, monkeypatch):
    monkeypatch.setattr(module, "_BUFFER", 1000)
    with early_hashes(recipe) as hashes:
        assert dict(hashes) == {name: Checkpoint.open(recipe.parent / name).hash() for name in ("base", "whole")}
        assert len(hashes) == 2 and hashes.get("sharded") is None


def test_the_provenance_is_the_same_with_them(recipe, tmp_path):
    """``asrmerge merge`` takes them early, the library does not."""
    command = [sys.executable, "-m", "asrmerge.cli", "merge", str(recipe), str(tmp_path / "early")]
    subprocess.run(command, check=True, capture_output=True)
    merge_to_folder(Recipe.from_yaml(recipe.read_text()), tmp_path / "late")
    early, late = ((tmp_path / name / "merge_provenance.json").read_text() for name in ("early", "late"))
    assert early == late and Checkpoint.open(recipe.parent / "sharded").hash() in early


@pytest.mark.parametrize(
    "text", ["[", "- a", "base: 3\nexperts: 4", "experts: [1, {name: [], model: x}, {name: a, model: nowhere}]", "\0", None]
)
def test_a_recipe_that_cannot_be_read_gives_none(tmp_path, text):
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    with early_hashes(tmp_path / "recipe.yaml") as hashes:
        assert dict(hashes) == {}


def test_the_end_of_the_block_stops_the_work(tmp_path):
    """A sparse file of a terabyte would take minutes."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text("{}")
    with (tmp_path / "large" / "model.safetensors").open("wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / "recipe.yaml").write_text(json.dumps({"base": str(tmp_path / "large")}))
    started = time.monotonic()
    with early_hashes(tmp_path / "recipe.yaml") as hashes:
        assert list(hashes) == ["base"]
    assert time.monotonic() - started < 30


def test_no_library_is_loaded_for_them():
    code = "import sys, asrmerge.early_hashes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
