"""Recipes of LoRA adapters through the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_adapters import FAMILIES, adapt, logits, peft_logits
from tiny_models import save, tiny_model

from asrmerge import cli
from asrmerge.adapters.recipe import read_adapter_recipe

Made = tuple[str, Path, dict[str, Path]]


@pytest.fixture(params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    base = save(tiny_model(request.param), tmp_path / "base")
    return request.param, base, {name: adapt(base, tmp_path / name, request.param, seed) for seed, name in enumerate(("a", "b"))}


def merge(monkeypatch: pytest.MonkeyPatch, folder: Path, target: Path, **content: object) -> int:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sys, "argv", ["asrmerge", "merge", str(recipe), str(target)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def experts(adapters: dict[str, Path], **weights: float) -> list[dict[str, object]]:
    return [{"name": name, "model": str(path), "weight": weights.get(name, 0.5)} for name, path in adapters.items()]


def test_one_adapter_full_weights_and_whole_models_are_the_same(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, base, adapters = made
    lossless = {"method": "product", "base": str(base), "experts": experts(adapters), "parameters": {"rank": "lossless"}}
    assert merge(monkeypatch, tmp_path, tmp_path / "adapter", **lossless) == 0
    assert merge(monkeypatch, tmp_path, tmp_path / "full", **lossless, output="full") == 0
    # The same mean over whole models: each adapter over the base that it names.
    assert merge(monkeypatch, tmp_path, tmp_path / "whole", method="linear", experts=experts(adapters)) == 0
    full, whole = (logits(type(tiny_model(family)).from_pretrained(tmp_path / name), family) for name in ("full", "whole"))
    torch.testing.assert_close(full, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(peft_logits(base, tmp_path / "adapter", family), full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outptu": "full"}, "unknown key 'outptu'; did you mean 'output'?"),
        ({"output": "full"}, "full weights need the base that was adapted; add the key 'base'"),
        ({"parameters": {"rank": 0}}, "parameters of product: 'rank' is 0"),
        ({"parameters": {"ranks": 4}}, "unknown key 'ranks'; did you mean 'rank'?"),
    ],
)
def test_wrong_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    content = {"method": "product", "experts": [{"name": "a", "model": "nowhere"}]} | change
    assert merge(monkeypatch, tmp_path, tmp_path / "out", **content) == 2
    error = capsys.readouterr().err
    assert message in error and "recipe.yaml" in error and not (tmp_path / "out").exists()


def test_recipes_of_whole_models_are_left_to_others(tmp_path: Path) -> None:
    for text in ("method: linear", "method: [", "- a"):
        (tmp_path / "recipe.yaml").write_text(text)
        assert read_adapter_recipe(tmp_path / "recipe.yaml") is None
    assert read_adapter_recipe(tmp_path / "none.yaml") is None
