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
from asrmerge.adapters import reading
from asrmerge.adapters import recipe as recipes
from asrmerge.adapters.recipe import AdapterRecipe, is_adapter_recipe
from asrmerge.checkpoints import checkpoint
from asrmerge.errors import CheckpointError

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
        ({"method": "linear", "output": "adapter"}, "unknown adapter method 'linear'; known are cat"),
        ({"experts": [{"name": "a", "model": "x"}, {"name": "a", "model": "y"}]}, "two adapters have the same name"),
    ],
)
def test_wrong_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    content = {"method": "product", "experts": [{"name": "a", "model": "nowhere"}]} | change
    assert merge(monkeypatch, tmp_path, tmp_path / "out", **content) == 2
    error = capsys.readouterr().err
    assert message in error and "recipe.yaml" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["adapter", "full"])
def test_an_output_that_is_not_replaced_is_said_before_the_work(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    _, base, adapters = made
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("x")
    monkeypatch.setattr(recipes, "merge_adapters", None)
    content = {"method": "product", "base": str(base), "experts": experts(adapters), "output": output}
    assert merge(monkeypatch, tmp_path, tmp_path / "notes", **content) == 2
    assert "holds something other than a" in capsys.readouterr().err
    assert merge(monkeypatch, tmp_path, tmp_path / "a", **content) == 2
    assert "is or holds the input" in capsys.readouterr().err


def test_adapters_and_base_with_revisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[object] = []

    def locate(source: str, revision: str | None = None) -> Path:
        opened.append((str(source), revision))
        raise CheckpointError("not here")

    for module in (reading, checkpoint):
        monkeypatch.setattr(module, "locate", locate)
    for model, base in (("me/adapter@v1", None), ("me/adapter", "me/base@v2")):
        content = {"method": "product", "base": base, "experts": [{"name": "a", "model": model}]}
        with pytest.raises(CheckpointError, match="not here"):
            recipes.merge_adapters_to_folder(AdapterRecipe.from_content(content, "recipe"), tmp_path / "out")
    assert opened == [("me/adapter", "v1"), ("me/base", "v2")]


def test_which_recipes_are_for_adapters() -> None:
    assert is_adapter_recipe({"method": "product"}) and is_adapter_recipe({"method": "linear", "output": "full"})
    for content in ({"method": "linear"}, {"method": ["product"]}, {"merge_method": "linear"}, ["method", "product"], None):
        assert not is_adapter_recipe(content)
